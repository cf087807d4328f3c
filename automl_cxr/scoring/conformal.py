"""Conformal prediction sets with a stated coverage of each class, by which a classifier abstains.

Split conformal prediction by class (Mondrian; Vovk, Gammerman and Shafer 2005, "Algorithmic learning in a random world";
Sadinle, Lei and Wasserman 2019, "Least ambiguous set-valued classifiers with bounded error levels"): the score of a class for
an image is 1 minus its probability. A class belongs to the set of an image if its score is at most the quantile of the
calibration images of this class. Then the sets of new images of each class contain it with at least the stated probability, if
new and calibration images are exchangeable. Nothing is randomised, so that the same image always has the same set. A set with
exactly one class is a decision; the classifier abstains from any other one.

A finding is treated as two classes, present and absent.

MAPIE, the library for conformal prediction, calibrates all classes together and needs a scikit-learn estimator instead of
stored predictions, so it is not used; a test compares the quantiles with it."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import compress

import numpy as np

from automl_cxr.errors import UsageError
from automl_cxr.scoring.predictions import Predictions
from automl_cxr.tasks import ABSENT, PRESENT

_ROUNDING = 1e-9  # (9 + 1) * 0.9 may be slightly more than 9


@dataclass(frozen=True, eq=False)
class ConformalSets:
    """The calibrated limits of a classifier's sets.

    Attributes:
        coverage: Share of the images of each class whose set contains it, as stated; between 0 and 1.
        limits: Smallest probability with which a class belongs to a set, float64. For classes (n_classes,). For findings
            (n_findings, 2): of absent, then of present. 0, so that it always belongs, if there are too few calibration images.
        n_images: Number of calibration images, with the same shape.
        n_patients: Number of their patients.
    """

    coverage: float
    limits: np.ndarray
    n_images: np.ndarray
    n_patients: np.ndarray

    @property
    def is_always_included(self) -> np.ndarray:
        """Whether a class belongs to every set, because it has too few calibration images for the coverage; as ``limits``."""
        return rank_of_limit(self.n_images, self.coverage) > self.n_images

    def contains(self, probabilities: np.ndarray) -> np.ndarray:
        """Return whether each class belongs to the set of each image.

        Args:
            probabilities: (n, n_classes), or of findings (n, n_findings).

        Returns:
            bool (n, n_classes), or of findings (n, n_findings, 2): absent, then present.
        """
        exact = probabilities.astype(np.float64)
        if self.limits.ndim == 2:
            exact = np.stack([1 - exact, exact], axis=-1)
        return exact >= self.limits


def calibrate_sets(predictions: Predictions, coverage: float) -> ConformalSets:
    """Calibrate the sets of a classifier.

    Args:
        predictions: Labelled predictions for images on which the classifier was not trained.
        coverage: Stated share of the images of each class whose set contains it, between 0 and 1.

    Raises:
        UsageError: The coverage is out of range.
        DataError: A label is unknown.
    """
    check_coverage(coverage)
    predictions.require_labels()
    labels, n_classes = predictions.labels, len(predictions.classes)
    if predictions.is_multilabel:
        columns = [(labels[:, number] == state, number, state) for number in range(n_classes) for state in (ABSENT, PRESENT)]
    else:
        columns = [(labels == number, number, PRESENT) for number in range(n_classes)]
    shape = (n_classes, 2) if predictions.is_multilabel else (n_classes,)
    limits, n_images, n_patients = [], [], []
    for is_of_class, number, state in columns:
        present = predictions.probabilities[is_of_class, number].astype(np.float64)
        limits.append(_limit(present if state == PRESENT else 1 - present, coverage))
        n_images.append(len(present))
        n_patients.append(len(set(compress(predictions.patients, is_of_class.tolist()))))
    return ConformalSets(coverage, *(np.array(values).reshape(shape) for values in (limits, n_images, n_patients)))


def check_coverage(coverage: float) -> None:
    """Refuse a stated coverage that is not a share.

    Raises:
        UsageError: The coverage is out of range.
    """
    if not 0 < coverage < 1:
        raise UsageError(f"A stated coverage must be between 0 and 1; received {coverage}. Write 0.9 for 90 %.")


def _limit(of_true_class: np.ndarray, coverage: float) -> float:
    """Return the smallest probability of a set's class from those of the calibration images of this class, (n,)."""
    rank = int(rank_of_limit(np.array(len(of_true_class)), coverage))
    return float(np.sort(of_true_class)[len(of_true_class) - rank]) if rank <= len(of_true_class) else 0.0


def rank_of_limit(n_images: np.ndarray, coverage: float) -> np.ndarray:
    """Return the rank of a limit among the probabilities of n images, from the largest one: ceil((n + 1) * coverage)."""
    return np.ceil((n_images + 1) * coverage - _ROUNDING).astype(np.int64)
