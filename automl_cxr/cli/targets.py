"""The classifier that a command uses."""

from __future__ import annotations

from typing import TYPE_CHECKING

from automl_cxr.cli.output import print_message

if TYPE_CHECKING:
    from automl_cxr.results.classifier import Classifier


def open_target(target: str, *, trial: int | None, runs: str | None, storage: str | None, mirrored: bool = False) -> Classifier:
    """Open the classifier of a command's argument, and print which one of the study is used.

    Args:
        target: Folder of an ensemble, folder of a trial, or name of a study.
        trial: Number of the study's trial, or None for the recommended classifier.
        runs: Folder that contains the files of all studies, or None.
        storage: Optuna storage URL, or None.
        mirrored: Whether its probabilities are averaged over an image and its mirror image.
    """
    from automl_cxr import api

    classifier = api.open_classifier(target, trial=trial, runs=runs, storage=storage)
    for note in classifier.notes:
        print_message(note)
    return classifier.with_mirrored_view() if mirrored else classifier
