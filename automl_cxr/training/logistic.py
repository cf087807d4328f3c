"""Multinomial logistic regression on standardised features, with a regularisation strength that is chosen out of fold."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from threadpoolctl import threadpool_limits

from automl_cxr.data.patient_folds import patient_folds

CANDIDATES = np.logspace(-5, 1, 13)
"""Candidates of C, the inverse of the regularisation strength."""

_N_FOLDS = (5, 3, 2)  # the first number is used for which every class is in the training images of every fold
_CONSTANT = 1e-6  # ratio of standard deviation to magnitude below which a feature is regarded as constant
_MAX_ITERATIONS = 1000
_TOLERANCE = 1e-3  # of the gradient; scores do not change below it
_TINY = 1e-12


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
    n_classes: int,
    seed: int,
    c: float = 0.0,
) -> LogisticFit:
    """Fit a softmax layer by L2-regularised logistic regression.

    Args:
        features: Features of the training images, (n, d).
        labels: Class index of each image, int (n,); every class must occur.
        weights: Weight of each image, (n,).
        patients: Patient of each image, (n,).
        n_classes: Number of classes.
        seed: Seed of the folds.
        c: Inverse of the regularisation strength; 0 chooses the candidate with the lowest out-of-fold loss.
    """
    with threadpool_limits(1):  # the matrices are small
        losses = {} if c > 0 else _left_out_losses(features, labels, weights, patients, n_classes=n_classes, seed=seed)
        chosen = c if c > 0 else min(losses, key=losses.__getitem__, default=float(np.median(CANDIDATES)))
        (coefficients,) = _fit_path(features, labels, weights, [chosen])
    return LogisticFit(*coefficients, c=chosen, left_out_loss=losses)


def _left_out_losses(
    features: np.ndarray, labels: np.ndarray, weights: np.ndarray, patients: Sequence[str], *, n_classes: int, seed: int
) -> dict[float, float]:
    """Return the weighted log loss of each candidate on left-out patients; empty if there are too few patients for folds."""
    found = (patient_folds(labels, patients, n, seed=seed) for n in _N_FOLDS)
    folds = next((each for each in found if each is not None), None)
    if folds is None:
        return {}
    losses = np.zeros(len(CANDIDATES))
    for fold in range(folds.max() + 1):
        train, left_out = folds != fold, folds == fold
        for index, (kernel, bias) in enumerate(_fit_path(features[train], labels[train], weights[train], CANDIDATES)):
            predicted = LogisticFit(kernel, bias, 0.0, {}).predict(features[left_out])
            of_true_class = predicted[np.arange(left_out.sum()), labels[left_out]]
            losses[index] -= weights[left_out] @ np.log(np.maximum(of_true_class, _TINY))
    return {float(c): float(loss) for c, loss in zip(CANDIDATES, losses / weights.sum(), strict=True)}


def _fit_path(
    features: np.ndarray, labels: np.ndarray, weights: np.ndarray, candidates: Sequence[float]
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Fit each candidate, starting from the solution of the previous one; return kernels and biases for raw features.

    If there are more features than images, the regression runs in the space that the images span. The solution is the same,
    because the penalty does not depend on the rotation.
    """
    from sklearn.linear_model import LogisticRegression

    features = features.astype(np.float64)
    mean, deviation = features.mean(axis=0), features.std(axis=0)
    varies = deviation > _CONSTANT * (np.abs(mean) + deviation)
    scale = np.where(varies, 1 / np.where(varies, deviation, 1.0), 0.0)
    standardised = (features - mean) * scale
    basis = None
    if standardised.shape[1] > standardised.shape[0]:
        _, _, basis = np.linalg.svd(standardised, full_matrices=False)
        standardised = standardised @ basis.T
    regression = LogisticRegression(max_iter=_MAX_ITERATIONS, tol=_TOLERANCE, warm_start=True)
    solutions = []
    for c in candidates:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of strong candidates that have not converged; their out-of-fold loss is high
            regression.set_params(C=c).fit(standardised, labels, sample_weight=weights)
        solutions.append(_on_raw_features(regression.coef_, regression.intercept_, basis, mean, scale))
    return solutions


def _on_raw_features(
    coefficients: np.ndarray, intercepts: np.ndarray, basis: np.ndarray | None, mean: np.ndarray, scale: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Convert a solution for standardised features to a kernel (d, n_classes) and a bias (n_classes,) for raw features."""
    if len(coefficients) == 1:  # two classes: the solution of the second class only
        coefficients, intercepts = (np.concatenate([-values, values]) / 2 for values in (coefficients, intercepts))
    kernel = (coefficients if basis is None else coefficients @ basis).T * scale[:, None]
    return kernel, intercepts - mean @ kernel
