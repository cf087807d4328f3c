"""Choice of the regularisation strength of a logistic regression by its loss on left-out patients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from automl_cxr.data.patient_folds import patient_folds

CANDIDATES = tuple(np.logspace(-4, 1, 11))
"""Candidates of C, the inverse of the regularisation strength, in ascending order."""

MOST_FOR_CHOICE = 2000
"""Number of images on which C is chosen if there are at least twice as many; its best value hardly depends on the number."""

_N_FOLDS = (5, 3, 2)  # the first number is used for which every class is in the training images of every fold
_N_INCREASES = 2  # of the loss in sequence, after which no further candidate is tried

Predict = Callable[[np.ndarray], np.ndarray]


class Regression(Protocol):
    """A logistic regression on some of the images of a part. Each fit starts from the solution of the previous one."""

    def fit(self, c: float) -> Predict:
        """Return a function from features (n, d) to probabilities (n, k)."""


class Problem(Protocol):
    """The images and the loss of a logistic regression."""

    @property
    def features(self) -> np.ndarray:
        """Features of the images, (n, d)."""

    @property
    def labels(self) -> np.ndarray:
        """Labels of the images by which folds are stratified, (n,) or (n, k)."""

    @property
    def patients(self) -> Sequence[str]:
        """Patient of each image, (n,)."""

    def prepare(self, rows: np.ndarray) -> Regression:
        """Return the regression on some of the images."""

    def loss(self, predicted: np.ndarray, rows: np.ndarray) -> float:
        """Return the weighted sum of the log losses of the images at some rows, given their probabilities."""

    def weight(self, rows: np.ndarray) -> float:
        """Return the sum of the weights of the images at some rows."""


def choose_c(problem: Problem, candidates: Sequence[float], *, seed: int) -> tuple[float, dict[float, float]]:
    """Choose C on at most about ``MOST_FOR_CHOICE`` images.

    Candidates are tried from the strongest regularisation to the weakest, until the loss has increased several times.

    Args:
        problem: The images and the loss.
        candidates: Candidates of C in ascending order.
        seed: Seed of the folds.

    Returns:
        The candidate with the lowest loss, or the median of the candidates if there are too few patients for folds; and the
        mean log loss of each candidate on left-out patients.
    """
    some = images_for_choice(problem.labels, problem.patients, seed=seed)
    losses = _left_out_losses(problem, candidates, some, seed=seed)
    return min(losses, key=losses.__getitem__, default=float(np.median(candidates))), losses


def images_for_choice(labels: np.ndarray, patients: Sequence[str], *, seed: int) -> np.ndarray:
    """Return the rows of the images on which C is chosen: all, or a stratified part of the patients."""
    n_parts = len(labels) // MOST_FOR_CHOICE
    parts = patient_folds(labels, patients, n_parts, seed=seed) if n_parts > 1 else None
    return np.arange(len(labels)) if parts is None else np.flatnonzero(parts == 0)


def _left_out_losses(problem: Problem, candidates: Sequence[float], some: np.ndarray, *, seed: int) -> dict[float, float]:
    """Return the mean log loss of candidates on left-out patients; empty if there are too few patients for folds."""
    patients_of_some = [problem.patients[row] for row in some]
    found = (patient_folds(problem.labels[some], patients_of_some, n, seed=seed) for n in _N_FOLDS)
    folds = next((each for each in found if each is not None), None)
    if folds is None:
        return {}
    left_out = [some[folds == fold] for fold in range(folds.max() + 1)]
    regressions = [problem.prepare(some[folds != fold]) for fold in range(folds.max() + 1)]
    losses: dict[float, float] = {}
    for c in candidates:
        total = 0.0
        for rows, regression in zip(left_out, regressions, strict=True):
            total += problem.loss(regression.fit(c)(problem.features[rows]), rows)
        losses[float(c)] = total / problem.weight(some)
        if min(losses.values()) < min(list(losses.values())[-_N_INCREASES:]):
            break
    return losses
