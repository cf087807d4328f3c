"""`automl-cxr report`: everything about a study in one file for a browser."""

from __future__ import annotations

from pathlib import Path

import click

from automl_cxr.cli.printing import check_out, say
from automl_cxr.cli.words import debug_option, place_options


@click.command()
@click.argument("study")
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("report.html"),
    show_default=True,
    help="HTML file to write, or to replace.",
)
@click.option("--data", metavar="DIR", help="Where the data are now, for the pictures  [default: where they were]")
@place_options
@debug_option
def report(study: str, out: Path, data: str | None, runs: str | None, storage: str | None) -> None:
    """Write a report of STUDY as one HTML file.

    The file holds scores with intervals, curves, hyperparameters, confusions, ensembles, data, sample images and a methods
    paragraph, and loads nothing from anywhere. The test part stays sealed: its scores are there if `evaluate` has opened it.
    """
    from automl_cxr import api

    check_out(out)
    api.open_study(study, runs=runs, storage=storage).report(out, data=data)
    say(f"Report written to {out} ({out.stat().st_size / 1e6:.1f} MB)")
