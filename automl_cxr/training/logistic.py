"""Multinomial logistic regression on standardised features, with a regularisation strength that is chosen out of fold."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from threadpoolctl import threadpool_limits

from automl_cxr.training.regression_inputs import RegressionInputs
from automl_cxr.training.regularisation import CANDIDATES, Predict, choose_c

MAX_ITERATIONS = 1000
TOLERANCE = 1e-3  # of the gradient; scores do not change below it
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
            ``regularisation.MOST_FOR_CHOICE`` images.
        candidates: Candidates of C in ascending order.
        standardise: Whether features are standardised; otherwise only their means are subtracted.
    """
    problem = _ClassProblem(features, labels, weights, patients, standardise)
    with threadpool_limits(1):  # the matrices are small
        chosen, losses = (c, {}) if c > 0 else choose_c(problem, candidates, seed=seed)
        kernel, bias = problem.prepare(slice(None)).layer(chosen)
    return LogisticFit(kernel, bias, c=chosen, left_out_loss=losses)


@dataclass(frozen=True, eq=False)
class _ClassProblem:
    """The images of a regression and their classes; see ``regularisation.Problem``."""

    features: np.ndarray
    labels: np.ndarray
    weights: np.ndarray
    patients: Sequence[str]
    standardise: bool

    def prepare(self, rows: slice | np.ndarray) -> _Regression:
        return _Regression(self.features[rows], self.labels[rows], self.weights[rows], standardise=self.standardise)

    def loss(self, predicted: np.ndarray, rows: np.ndarray) -> float:
        of_true_class = predicted[np.arange(len(rows)), self.labels[rows]]
        return -float(self.weights[rows] @ np.log(np.maximum(of_true_class, _TINY)))

    def weight(self, rows: np.ndarray) -> float:
        return float(self.weights[rows].sum())


class _Regression:
    """A multinomial logistic regression; see ``regularisation.Regression``."""

    def __init__(self, features: np.ndarray, labels: np.ndarray, weights: np.ndarray, *, standardise: bool) -> None:
        from sklearn.linear_model import LogisticRegression

        self._inputs = RegressionInputs(features, standardise=standardise)
        self._labels, self._weights = labels, weights
        self._regression = LogisticRegression(max_iter=MAX_ITERATIONS, tol=TOLERANCE, warm_start=True)

    def fit(self, c: float) -> Predict:
        return LogisticFit(*self.layer(c), c=c, left_out_loss={}).predict

    def layer(self, c: float) -> tuple[np.ndarray, np.ndarray]:
        """Return the kernel (d, n_classes) and the bias (n_classes,) for features that are not standardised."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of candidates that have not converged; their out-of-fold loss is high
            self._regression.set_params(C=c).fit(self._inputs.values, self._labels, sample_weight=self._weights)
        coefficients, intercepts = self._regression.coef_, self._regression.intercept_
        if len(coefficients) == 1:  # two classes: the solution of the second class only
            coefficients, intercepts = (np.concatenate([-values, values]) / 2 for values in (coefficients, intercepts))
        return self._inputs.layer_on_features(coefficients, intercepts)
