"""The command `automl-cxr report`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from automl_cxr.choices import CHECKLISTS, list_choices
from automl_cxr.cli.options import debug_option, location_options, moved_data_option
from automl_cxr.cli.output import check_out, print_message, progress_bar
from automl_cxr.cli.sections import CommandSection, SectionedCommand
from automl_cxr.errors import UsageError


@click.command(cls=SectionedCommand, section=CommandSection.RESULTS, short_help="Write a report of a study as one HTML file.")
@click.argument("study")
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File to write; an existing file is replaced. A report is HTML, a checklist HTML or Markdown (.md)  "
    "[default: report.html, or the name of the checklist]",
)
@click.option(
    "--checklist",
    metavar="NAME",
    help=f"Write a reporting checklist instead of the report: {list_choices(CHECKLISTS)}.",
)
@moved_data_option
@click.option(
    "--no-explain",
    "explain",
    flag_value=False,
    default=True,
    help="Omit the heat maps and the off-lung evidence of the best stored model, which take some seconds.",
)
@click.option(
    "--latency",
    is_flag=True,
    help="Measure the prediction time of every stored model on this machine, in milliseconds per image.",
)
@location_options
@debug_option
def report(study: str, out: Path | None, checklist: str | None, runs: str | None, storage: str | None, **choices: Any) -> None:
    """Write a report of STUDY as one HTML file.

    The file contains scores with intervals, the leaderboard with the shortcut baseline, confusion matrices, errors, heat maps,
    learning curves, hyperparameters, ensembles, the data and their audit, sample images and a methods paragraph. It loads
    nothing from the network. Test scores are included if `automl-cxr evaluate` was run on the test part; the report does not
    read it.

    With --checklist, the file contains the items of CLAIM 2024 or TRIPOD+AI 2024 with the answers that the study can give, what
    only a person can state, the flow of images and patients, and the characteristics of each part.
    """
    from automl_cxr import api

    out = out or Path("report.html" if checklist is None else f"{checklist}.html")
    check_out(out)
    if checklist is not None:
        _write_checklist(study, out, checklist, runs, storage, choices)
        return
    with progress_bar("models") as on_progress:
        api.open_study(study, runs=runs, storage=storage).report(out, on_progress=on_progress, **choices)
    print_message(f"Report written to {out} ({out.stat().st_size / 1e6:.1f} MB)")


def _write_checklist(
    study: str, out: Path, checklist: str, runs: str | None, storage: str | None, choices: Mapping[str, Any]
) -> None:
    from automl_cxr import api

    if choices["latency"]:
        raise UsageError("--latency measures models for the report; received it with --checklist. Omit one of them.")
    opened = api.open_study(study, runs=runs, storage=storage)
    opened.checklist(out, name=checklist, data=choices["data"])
    print_message(f"Checklist written to {out}")
