"""The commands `replay` and `verify`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from automl_cxr.cli.options import debug_option, json_option, location_options, moved_data_option
from automl_cxr.cli.output import print_json, print_line, print_message, print_table, progress_bar
from automl_cxr.cli.sections import CommandSection, SectionedCommand

if TYPE_CHECKING:
    from automl_cxr.results.replay import Replay
    from automl_cxr.results.verification import Verification


@click.command(cls=SectionedCommand, section=CommandSection.MAINTAIN, short_help="Train a trial again and compare the results.")
@click.argument("study")
@click.argument("trial", type=click.IntRange(0))
@click.option(
    "--tolerance",
    type=click.FloatRange(min=0),
    default=1e-6,
    show_default=True,
    help="Largest difference of a score or a probability that counts as equal.",
)
@moved_data_option
@location_options
@json_option
@debug_option
def replay(
    study: str, trial: int, tolerance: float, data: str | None, runs: str | None, storage: str | None, as_json: bool
) -> None:
    """Train TRIAL of STUDY again and compare the results. The exit code is 1 if they differ.

    The study is not changed.
    """
    from automl_cxr import api

    with progress_bar("training") as on_progress:
        result = api.open_study(study, runs=runs, storage=storage).replay(
            trial, tolerance=tolerance, data=data, on_progress=on_progress
        )
    if as_json:
        print_json({"study": study, **vars(result), "differs_by": result.differs_by, "is_same": result.is_same})
    else:
        _print_replay(result)
    if not result.is_same:
        raise click.exceptions.Exit(1)


def _print_replay(result: Replay) -> None:
    import pandas as pd

    epochs = sorted({*result.scores, *result.replayed_scores})
    columns = {"recorded": result.scores, "replayed": result.replayed_scores}
    rows = {name: [f"{scores[epoch]:.8f}" if epoch in scores else "" for epoch in epochs] for name, scores in columns.items()}
    print_table(pd.DataFrame({result.step: epochs, **rows}), title=f"trial {result.trial}, score of each {result.step}")
    print_line(f"score: recorded {result.score:.8f}, replayed {result.replayed_score:.8f}")
    if result.predictions_differ_by is not None:
        print_line(f"predictions: differ by at most {result.predictions_differ_by:.2g}")
    for note in result.notes:
        print_message(f"note: {note}")
    verdict = "the same" if result.is_same else "NOT the same"
    print_line(f"{verdict} (differs by {result.differs_by:.2g}, tolerance {result.tolerance:g})")


@click.command(
    cls=SectionedCommand, section=CommandSection.MAINTAIN, short_help="Check the files, models and scores of a study."
)
@click.argument("study")
@click.argument("trial", type=click.IntRange(0), required=False)
@moved_data_option
@location_options
@json_option
@debug_option
def verify(study: str, trial: int | None, data: str | None, runs: str | None, storage: str | None, as_json: bool) -> None:
    """Check whether the finished trials of STUDY, or only TRIAL, agree with the record. The exit code is 1 if a check fails.

    The files of a trial must exist and be unchanged, and its hyperparameters must equal those in the storage. The score of its
    predictions must equal the recorded score, and the predictions of a stored model must equal the stored predictions.
    """
    from automl_cxr import api

    with progress_bar("verifying") as on_progress:
        result = api.open_study(study, runs=runs, storage=storage).verify(trial, data=data, on_progress=on_progress)
    if as_json:
        print_json({"study": study, "is_sound": result.is_sound, "trials": [vars(check) for check in result.trials]})
    else:
        _print_verification(result)
    if not result.is_sound:
        raise click.exceptions.Exit(1)


def _print_verification(result: Verification) -> None:
    import pandas as pd

    rows = [
        {
            "trial": check.trial,
            "score": f"{check.score:.6f}",
            "rescored": "" if check.rescored is None else f"{check.rescored:.6f}",
            "model differs by": "not compared" if check.predictions_differ_by is None else f"{check.predictions_differ_by:.2g}",
            "verdict": "WRONG" if check.problems else "sound",
        }
        for check in result.trials
    ]
    if not rows:
        print_message("No trial is finished yet.")
        return
    print_table(pd.DataFrame(rows), title=result.study)
    for check in result.trials:
        for problem in check.problems:
            print_line(f"trial {check.trial}: {problem}")
