"""Scores a classifier on a part of its study's data. Reading the test part is recorded in the study, every time."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from automl_cxr.data.dataset import Dataset
from automl_cxr.errors import DataError, UnknownNameError
from automl_cxr.results.classifier import Classifier
from automl_cxr.results.ensemble_record import record_test_opening
from automl_cxr.results.study_data import load_study_dataset
from automl_cxr.scoring.confusion import confusion_matrix
from automl_cxr.scoring.intervals import Interval, bootstrap_intervals
from automl_cxr.scoring.metrics import CLASS_METRICS, METRICS, score_predictions
from automl_cxr.scoring.predictions import Predictions
from automl_cxr.study.store import StudyStore

PARTS = ("test", "valid", "train")


@dataclass(frozen=True, repr=False)
class Evaluation:
    """How good a classifier is on one part.

    Attributes:
        classifier: Its name.
        part: "test", "valid" or "train".
        predictions: What it said.
        scores: Every metric by name.
        intervals: 95 % bootstrap interval by patient of each metric of ``METRICS`` that is defined here.
        per_class: The scores of ``CLASS_METRICS`` and the number of images, one row a class.
        confusion: Images by true class (rows) and predicted class (columns).
        unreadable: Images that could not be read, with the reason.
        n_opened: How often the test part has now been opened; 0 for the other parts.
        out_of_fold: Whether each prediction is by the network that did not learn from the image: of "valid" with folds.
    """

    classifier: str
    part: str
    predictions: Predictions
    scores: dict[str, float]
    intervals: dict[str, Interval]
    per_class: pd.DataFrame
    confusion: pd.DataFrame
    unreadable: dict[str, str]
    n_opened: int = 0
    out_of_fold: bool = False

    @property
    def place(self) -> str:
        """What was judged on, for a title."""
        return "out of fold" if self.out_of_fold else f"{self.part} part"

    def __repr__(self) -> str:
        """Say how good, as a notebook shows it."""
        scores = "\n".join(
            f"  {name:18} {self.scores[name]:.4f}  95% {interval.low:.3f}..{interval.high:.3f}"
            for name, interval in self.intervals.items()
        )
        return f"Evaluation of {self.classifier}, {self.place}, {len(self.predictions)} images\n{scores}"


def evaluate(
    store: StudyStore,
    classifier: Classifier,
    *,
    part: str = "test",
    data: str | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Predict a part of the study's split and score it.

    With folds there is no validation part that the classifier as a whole has not learnt from; "valid" then scores the
    predictions out of fold that it left, each by the network that did not learn from the image.

    Args:
        store: The study whose split is used.
        classifier: A trial of it or an ensemble of its trials.
        part: "test", "valid" or "train".
        data: Where the data are now; by default where they were.
        on_progress: Told (images done, images in all).

    Raises:
        UnknownNameError: No such part.
        DataError: The classifier is of another study, or the data are gone or no longer those of the study.
    """
    if part not in PARTS:
        raise UnknownNameError("part", part, PARTS)
    if classifier.split_digest != store.split_digest:
        raise DataError(
            f"The {classifier.name} was made with another split than that of study '{store.name}': it may have been trained "
            "on the images that it would be judged by. Evaluate it on its own study."
        )
    spec, split = store.spec, store.split
    if part == "valid" and split.folds:
        left = Predictions.from_npz(classifier.predictions)
        return replace(_score(classifier, part, left, {}, spec.normal_index, spec.seed), out_of_fold=True)
    dataset = load_study_dataset(store, data)
    images = split.test if part == "test" else getattr(split, part).images
    predictions, unreadable = _predict(classifier, dataset, images, on_progress)
    evaluation = _score(classifier, part, predictions, unreadable, spec.normal_index, spec.seed)
    if part != "test":
        return evaluation
    n_opened = store.record_test_opening(classifier.name, evaluation.scores)
    evaluation = replace(evaluation, n_opened=n_opened)
    if classifier.folder is not None:
        with contextlib.suppress(OSError):  # an ensemble that may not be written is evaluated all the same
            record_test_opening(classifier.folder, _figures(evaluation))
    return evaluation


def _figures(evaluation: Evaluation) -> dict[str, object]:
    """Give what an ensemble's record and card keep of an evaluation."""
    predictions = evaluation.predictions
    return {
        "n_images": len(predictions),
        "n_patients": len(set(predictions.patients)),
        "n_opened": evaluation.n_opened,
        "metrics": [
            {"metric": name, "score": evaluation.scores[name], "low": interval.low, "high": interval.high}
            for name, interval in evaluation.intervals.items()
        ],
    }


def _predict(
    classifier: Classifier, dataset: Dataset, images: tuple[str, ...], on_progress: Callable[[int, int], None] | None
) -> tuple[Predictions, dict[str, str]]:
    files = [Path(os.path.join(dataset.root, image)) for image in images]
    probabilities, unreadable = classifier.predict(files, on_progress=on_progress)
    readable = [image for position, image in enumerate(images) if position not in unreadable]
    if not readable:
        raise DataError(f"None of the {len(images)} images can be read, such as {images[0]} ({unreadable[0]}).")
    rows = dataset.table.set_index("image").loc[readable]
    predictions = Predictions(
        ids=tuple(readable),
        labels=np.array([dataset.classes.index(label) for label in rows["label"]]),
        probabilities=probabilities,
        classes=dataset.classes,
        patients=tuple(rows["patient_id"]),
    )
    return predictions, {images[position]: reason for position, reason in unreadable.items()}


def _score(
    classifier: Classifier,
    part: str,
    predictions: Predictions,
    unreadable: dict[str, str],
    normal_class: int | None,
    seed: int,
) -> Evaluation:
    classes = list(predictions.classes)
    scores = score_predictions(predictions, normal_class=normal_class)
    named = [name for name in METRICS if name in scores]
    intervals = bootstrap_intervals(predictions, named, seed=seed, normal_class=normal_class)
    counts = confusion_matrix(predictions.labels, predictions.predicted, len(classes))
    per_class = pd.DataFrame(
        {kind: [scores[f"{kind}_{name}"] for name in classes] for kind in CLASS_METRICS},
        index=pd.Index(classes, name="class"),
    )
    per_class["images"] = counts.sum(axis=1)
    confusion = pd.DataFrame(counts, index=pd.Index(classes, name="true"), columns=pd.Index(classes, name="predicted"))
    return Evaluation(classifier.name, part, predictions, scores, intervals, per_class, confusion, unreadable)
