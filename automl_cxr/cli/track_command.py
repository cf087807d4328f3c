"""The command `automl-cxr track`."""

from __future__ import annotations

import click

from automl_cxr.cli.options import debug_option, location_options
from automl_cxr.cli.output import print_line
from automl_cxr.cli.sections import CommandSection, SectionedCommand


@click.command(
    cls=SectionedCommand, section=CommandSection.RESULTS, short_help="Send trials to MLflow, Weights & Biases or TensorBoard."
)
@click.argument("study")
@click.argument("targets", metavar="TARGET...", nargs=-1, required=True)
@location_options
@debug_option
def track(study: str, targets: tuple[str, ...], runs: str | None, storage: str | None) -> None:
    """Send the finished trials of STUDY to experiment trackers.

    TARGET is mlflow:URI, such as mlflow:http://127.0.0.1:5000 or mlflow:sqlite:///mlflow.db, wandb:PROJECT or
    tensorboard:FOLDER. A run is written for each trial, with its hyperparameters, learning curves and scores. Trials that were
    sent before are not sent again. `search --track TARGET` does the same while trials end.
    """
    from automl_cxr import api

    for sentence in api.open_study(study, runs=runs, storage=storage).track(targets):
        print_line(sentence)
