"""Multinomial logistic regression on standardised features, with a regularisation strength that is chosen out of fold."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from threadpoolctl import threadpool_limits

from automl_cxr.data.patient_folds import patient_folds
from automl_cxr.training.standardisation import Standardisation

CANDIDATES = tuple(np.logspace(-4, 1, 11))
"""Candidates of C, the inverse of the regularisation strength, in ascending order."""

MOST_FOR_CHOICE = 2000
"""Number of images on which C is chosen if there are at least twice as many; its best value hardly depends on the number."""

_MOST_FOR_BASIS = 1500  # images
_N_FOLDS = (5, 3, 2)  # the first number is used for which every class is in the training images of every fold
_MAX_ITERATIONS = 1000
_TOLERANCE = 1e-3  # of the gradient; scores do not change below it
_TINY = 1e-12
_N_INCREASES = 2  # of the loss in sequence, after which no further candidate is tried


@dataclass(frozen=True)
class LogisticFit:
    """A softmax layer for features that are not standardised.

    Attributes:
        kernel: float64 (d, n_classes).
        bias: float64 (n_classes,).
        c: Inverse of the regularisation strength.
        left_out_loss: Weighted log loss of each candidate on the images of the left-out folds; empty if C was given.
    """

    kernel: np.ndarray
    bias: np.ndarray
    c: float
    left_out_loss: dict[float, float]

    def predict(self, features: np.ndarray) -> np.ndarray:
        """Return the probabilities of the classes, float32 (n, n_classes), for features (n, d)."""
        logits = features @ self.kernel + self.bias
        shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
        return (shifted / shifted.sum(axis=1, keepdims=True)).astype(np.float32)


def fit_logistic(
    features: np.ndarray,
    labels: np.ndarray,
    weights: np.ndarray,
    patients: Sequence[str],
    *,
    seed: int,
    c: float = 0.0,
    candidates: Sequence[float] = CANDIDATES,
    standardise: bool = True,
) -> LogisticFit:
    """Fit a softmax layer by L2-regularised logistic regression.

    Args:
        features: Features of the training images, (n, d).
        labels: Class index of each image, int (n,); every class must occur.
        weights: Weight of each image, (n,).
        patients: Patient of each image, (n,).
        seed: Seed of the folds.
        c: Inverse of the regularisation strength; 0 chooses the candidate with the lowest out-of-fold loss on at most about
            ``MOST_FOR_CHOICE`` images.
        candidates: Candidates of C in ascending order.
        standardise: Whether features are standardised; otherwise only their means are subtracted.
    """

    def prepare(rows: slice | np.ndarray) -> _Regression:
        return _Regression(features[rows], labels[rows], weights[rows], standardise=standardise)

    with threadpool_limits(1):  # the matrices are small
        losses = {}
        if c == 0:
            some = _images_for_choice(labels, patients, seed=seed)
            losses = _left_out_losses(prepare, features, labels, weights, patients, candidates, some, seed=seed)
        chosen = c if c > 0 else min(losses, key=losses.__getitem__, default=float(np.median(candidates)))
        kernel, bias = prepare(slice(None)).fit(chosen)
    return LogisticFit(kernel, bias, c=chosen, left_out_loss=losses)


def _images_for_choice(labels: np.ndarray, patients: Sequence[str], *, seed: int) -> np.ndarray:
    """Return the rows of the images on which C is chosen: all, or a stratified part of the patients."""
    n_parts = len(labels) // MOST_FOR_CHOICE
    parts = patient_folds(labels, patients, n_parts, seed=seed) if n_parts > 1 else None
    return np.arange(len(labels)) if parts is None else np.flatnonzero(parts == 0)


def _left_out_losses(
    prepare: Callable[[np.ndarray], _Regression],
    features: np.ndarray,
    labels: np.ndarray,
    weights: np.ndarray,
    patients: Sequence[str],
    candidates: Sequence[float],
    some: np.ndarray,
    *,
    seed: int,
) -> dict[float, float]:
    """Return the weighted log loss of candidates on left-out patients; empty if there are too few patients for folds.

    Candidates are tried from the strongest regularisation to the weakest, until the loss has increased several times.
    """
    patients_of_some = [patients[row] for row in some]
    found = (patient_folds(labels[some], patients_of_some, n, seed=seed) for n in _N_FOLDS)
    folds = next((each for each in found if each is not None), None)
    if folds is None:
        return {}
    left_out = [some[folds == fold] for fold in range(folds.max() + 1)]
    regressions = [prepare(some[folds != fold]) for fold in range(folds.max() + 1)]
    losses: dict[float, float] = {}
    for c in candidates:
        total = 0.0
        for rows, regression in zip(left_out, regressions, strict=True):
            predicted = LogisticFit(*regression.fit(c), c=c, left_out_loss={}).predict(features[rows])
            of_true_class = predicted[np.arange(len(rows)), labels[rows]]
            total -= float(weights[rows] @ np.log(np.maximum(of_true_class, _TINY)))
        losses[float(c)] = total / float(weights[some].sum())
        if min(losses.values()) < min(list(losses.values())[-_N_INCREASES:]):
            break
    return losses


class _Regression:
    """A logistic regression on standardised or centred features. Each fit starts from the solution of the previous one.

    If there are more features than images, it runs in the space that the images span. The solution is the same, because the
    penalty does not depend on the rotation. For many images, computing this space would take longer than it saves.
    """

    def __init__(self, features: np.ndarray, labels: np.ndarray, weights: np.ndarray, *, standardise: bool) -> None:
        from sklearn.linear_model import LogisticRegression

        found = Standardisation.fit(features)
        self._mean, self._scale = found.mean, found.scale if standardise else np.ones(len(found.scale))
        self._inputs = (features - self._mean) * self._scale
        self._basis = None
        if self._inputs.shape[0] < min(self._inputs.shape[1], _MOST_FOR_BASIS):
            _, _, self._basis = np.linalg.svd(self._inputs, full_matrices=False)
            self._inputs = self._inputs @ self._basis.T
        self._labels, self._weights = labels, weights
        self._regression = LogisticRegression(max_iter=_MAX_ITERATIONS, tol=_TOLERANCE, warm_start=True)

    def fit(self, c: float) -> tuple[np.ndarray, np.ndarray]:
        """Return the kernel (d, n_classes) and the bias (n_classes,) for features that are not standardised."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of candidates that have not converged; their out-of-fold loss is high
            self._regression.set_params(C=c).fit(self._inputs, self._labels, sample_weight=self._weights)
        coefficients, intercepts = self._regression.coef_, self._regression.intercept_
        if len(coefficients) == 1:  # two classes: the solution of the second class only
            coefficients, intercepts = (np.concatenate([-values, values]) / 2 for values in (coefficients, intercepts))
        kernel = (coefficients if self._basis is None else coefficients @ self._basis).T * self._scale[:, None]
        return kernel, intercepts - self._mean @ kernel
