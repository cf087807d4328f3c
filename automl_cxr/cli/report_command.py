"""The command `automl-cxr report`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from automl_cxr.cli.options import debug_option, location_options, moved_data_option
from automl_cxr.cli.output import check_out, print_message, progress_bar
from automl_cxr.cli.sections import CommandSection, SectionedCommand


@click.command(cls=SectionedCommand, section=CommandSection.RESULTS, short_help="Write a report of a study as one HTML file.")
@click.argument("study")
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("report.html"),
    show_default=True,
    help="HTML file to write; an existing file is replaced.",
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
def report(study: str, out: Path, runs: str | None, storage: str | None, **choices: Any) -> None:
    """Write a report of STUDY as one HTML file.

    The file contains scores with intervals, the leaderboard with the shortcut baseline, confusion matrices, errors, heat maps,
    learning curves, hyperparameters, ensembles, the data and their audit, sample images and a methods paragraph. It loads
    nothing from the network. Test scores are included if `automl-cxr evaluate` was run on the test part; the report does not
    read it.
    """
    from automl_cxr import api

    check_out(out)
    with progress_bar("models") as on_progress:
        api.open_study(study, runs=runs, storage=storage).report(out, on_progress=on_progress, **choices)
    print_message(f"Report written to {out} ({out.stat().st_size / 1e6:.1f} MB)")
