"""`automl-cxr report`: everything about a study in one file for a browser."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from automl_cxr.cli.options import debug_option, location_options, moved_data_option
from automl_cxr.cli.output import check_out, progress_bar, say
from automl_cxr.cli.sections import CommandSection, SectionedCommand


@click.command(cls=SectionedCommand, section=CommandSection.RESULTS, short_help="Write a report of a study as one HTML file.")
@click.argument("study")
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("report.html"),
    show_default=True,
    help="HTML file to write, or to replace.",
)
@moved_data_option
@click.option(
    "--no-explain",
    "explain",
    flag_value=False,
    default=True,
    help="Leave out the heat maps of the best kept model and its evidence in corners and borders: they take seconds.",
)
@click.option("--latency", is_flag=True, help="Measure the milliseconds an image of every kept model, here and now.")
@location_options
@debug_option
def report(study: str, out: Path, runs: str | None, storage: str | None, **choices: Any) -> None:
    """Write a report of STUDY as one HTML file.

    The file holds scores with intervals, the leaderboard with the line to beat, confusions, errors, heat maps, curves,
    hyperparameters, ensembles, data and their audit, sample images and a methods paragraph, and loads nothing from
    anywhere. The test part stays sealed: its scores are there if `evaluate` has opened it.
    """
    from automl_cxr import api

    check_out(out)
    with progress_bar("models") as on_progress:
        api.open_study(study, runs=runs, storage=storage).report(out, on_progress=on_progress, **choices)
    say(f"Report written to {out} ({out.stat().st_size / 1e6:.1f} MB)")
