"""Binary outcomes of predictions: each class against the rest, each finding, or any finding against none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from automl_cxr.scoring.predictions import Predictions
from automl_cxr.tasks import PRESENT


@dataclass(frozen=True, eq=False)
class Outcome:
    """A binary outcome of some images and its predicted probability.

    Attributes:
        name: Name of the class or finding.
        is_positive: Whether the image has it, bool (n,).
        probabilities: Predicted probability, float64 (n,).
        patients: Patient of each image, (n,).
    """

    name: str
    is_positive: np.ndarray
    probabilities: np.ndarray
    patients: Sequence[str]

    @property
    def has_both(self) -> bool:
        """Whether there are images with and without the outcome."""
        return bool(self.is_positive.any() and not self.is_positive.all())


def outcomes_of(predictions: Predictions) -> list[Outcome]:
    """Return each class against the rest, or each finding over the images whose label is known.

    Outcomes that no image or every image has are omitted.
    """
    outcomes = [outcome_of(predictions, number) for number in range(len(predictions.classes))]
    return [outcome for outcome in outcomes if outcome.has_both]


def decisions_of(predictions: Predictions, normal_class: int | None) -> list[Outcome]:
    """Return the outcomes that a reader of radiographs decides on.

    Args:
        predictions: Labelled predictions.
        normal_class: Index of the class without a finding; None if it is not known, and for findings.

    Returns:
        For classes with a known normal class, one outcome: any other class, with the probability 1 - P(normal class), named
        "not <normal class>"; without images of both kinds, none. Otherwise the outcomes of ``outcomes_of``.
    """
    if normal_class is None or predictions.is_multilabel:
        return outcomes_of(predictions)
    normal = outcome_of(predictions, normal_class)
    other = Outcome(f"not {normal.name}", ~normal.is_positive, 1 - normal.probabilities, normal.patients)
    return [other] if other.has_both else []


def outcome_of(predictions: Predictions, number: int) -> Outcome:
    """Return one class against the rest, or one finding over the images whose label is known.

    Args:
        predictions: Labelled predictions.
        number: Index of the class or finding.
    """
    name, probabilities = predictions.classes[number], predictions.probabilities[:, number].astype(np.float64)
    if not predictions.is_multilabel:
        return Outcome(name, predictions.labels == number, probabilities, predictions.patients)
    labels = predictions.labels[:, number]
    rows = np.flatnonzero(labels >= 0)
    patients = [predictions.patients[row] for row in rows]
    return Outcome(name, labels[rows] == PRESENT, probabilities[rows], patients)
