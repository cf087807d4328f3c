"""A logistic regression for each finding, on the images whose label of this finding is known.

The regressions of all findings are fitted together. They do not affect each other: the loss is a sum over labels, and the
weight of an unknown label is 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from threadpoolctl import threadpool_limits

from automl_cxr.training.logistic import MAX_ITERATIONS, TOLERANCE
from automl_cxr.training.regression_inputs import RegressionInputs
from automl_cxr.training.regularisation import CANDIDATES, Predict, choose_c
from automl_cxr.training.targets import Targets

_TINY = 1e-12
_PRIOR = 0.5  # images that are added to both sides of a finding whose known labels are equal, so that its odds are finite
_SMALLEST_DECREASE = 64 * np.finfo(np.float64).eps  # of the loss, as in scikit-learn


@dataclass(frozen=True, eq=False)
class FindingsFit:
    """A sigmoid layer for features that are not standardised.

    Attributes:
        kernel: float64 (d, n_findings).
        bias: float64 (n_findings,).
        c: Inverse of the regularisation strength.
        left_out_loss: Weighted log loss of each candidate on the images of the left-out folds; empty if C was given.
    """

    kernel: np.ndarray
    bias: np.ndarray
    c: float
    left_out_loss: dict[float, float]

    def predict(self, features: np.ndarray) -> np.ndarray:
        """Return the probabilities of the findings, float32 (n, n_findings), for features (n, d)."""
        return _sigmoid(features @ self.kernel + self.bias).astype(np.float32)


def fit_findings(
    features: np.ndarray,
    labels: np.ndarray,
    targets: Targets,
    patients: Sequence[str],
    *,
    seed: int,
    c: float = 0.0,
    candidates: Sequence[float] = CANDIDATES,
    standardise: bool = True,
) -> FindingsFit:
    """Fit a sigmoid layer by L2-regularised logistic regressions, one for each finding.

    A finding for which all known labels are equal is predicted with a constant probability.

    Args:
        features: Features of the training images, (n, d).
        labels: Label codes, int (n, n_findings), by which folds are stratified.
        targets: Target probability and weight of each label.
        patients: Patient of each image, (n,).
        seed: Seed of the folds.
        c: Inverse of the regularisation strength of all findings; 0 chooses the candidate with the lowest out-of-fold loss on
            at most about ``regularisation.MOST_FOR_CHOICE`` images.
        candidates: Candidates of C in ascending order.
        standardise: Whether features are standardised; otherwise only their means are subtracted.
    """
    problem = _FindingsProblem(features, labels, targets, patients, standardise)
    with threadpool_limits(1):  # the matrices are small
        chosen, losses = (c, {}) if c > 0 else choose_c(problem, candidates, seed=seed)
        kernel, bias = problem.prepare(slice(None)).layer(chosen)
    return FindingsFit(kernel, bias, c=chosen, left_out_loss=losses)


@dataclass(frozen=True, eq=False)
class _FindingsProblem:
    """The images of the regressions and the targets of their labels; see ``regularisation.Problem``."""

    features: np.ndarray
    labels: np.ndarray
    targets: Targets
    patients: Sequence[str]
    standardise: bool

    def prepare(self, rows: slice | np.ndarray) -> _Regressions:
        targets = Targets(self.targets.values[rows], self.targets.weights[rows])
        return _Regressions(self.features[rows], targets, standardise=self.standardise)

    def loss(self, predicted: np.ndarray, rows: np.ndarray) -> float:
        values, weights = self.targets.values[rows], self.targets.weights[rows]
        log_loss = values * np.log(np.maximum(predicted, _TINY)) + (1 - values) * np.log(np.maximum(1 - predicted, _TINY))
        return -float((weights * log_loss).sum())

    def weight(self, rows: np.ndarray) -> float:
        return float(self.targets.weights[rows].sum())


class _Regressions:
    """A binary logistic regression for each finding; see ``regularisation.Regression``."""

    def __init__(self, features: np.ndarray, targets: Targets, *, standardise: bool) -> None:
        self._inputs = RegressionInputs(features, standardise=standardise)
        self._values, self._weights = targets.values.astype(np.float64), targets.weights.astype(np.float64)
        self._sums = np.maximum(self._weights.sum(axis=0), _TINY)
        present, absent = self._weights * self._values, self._weights * (1 - self._values)
        self._has_both = (present > 0).any(axis=0) & (absent > 0).any(axis=0)
        self._constants = np.log((present.sum(axis=0) + _PRIOR) / (absent.sum(axis=0) + _PRIOR))
        self._solution = np.zeros((self._inputs.values.shape[1] + 1, self._values.shape[1]))

    def fit(self, c: float) -> Predict:
        return FindingsFit(*self.layer(c), c=c, left_out_loss={}).predict

    def layer(self, c: float) -> tuple[np.ndarray, np.ndarray]:
        """Return the kernel (d, n_findings) and the bias (n_findings,) for features that are not standardised."""
        from scipy.optimize import minimize

        found = minimize(
            self._objective,
            self._solution.ravel(),
            args=(c,),
            jac=True,
            method="L-BFGS-B",
            options={"maxiter": MAX_ITERATIONS, "gtol": TOLERANCE, "ftol": _SMALLEST_DECREASE},
        )
        self._solution = found.x.reshape(self._solution.shape)
        coefficients = np.where(self._has_both, self._solution[:-1], 0.0)
        intercepts = np.where(self._has_both, self._solution[-1], self._constants)
        return self._inputs.layer_on_features(coefficients.T, intercepts)

    def _objective(self, flat: np.ndarray, c: float) -> tuple[float, np.ndarray]:
        """Return the loss of scikit-learn's ``LogisticRegression``, summed over the findings, and its gradient."""
        solution = flat.reshape(self._solution.shape)
        coefficients, intercepts = solution[:-1], solution[-1]
        logits = self._inputs.values @ coefficients + intercepts
        penalties = 1 / (c * self._sums)
        losses = self._weights * (np.logaddexp(0, logits) - self._values * logits) / self._sums
        residuals = self._weights * (_sigmoid(logits) - self._values) / self._sums
        gradient = np.vstack([self._inputs.values.T @ residuals + penalties * coefficients, residuals.sum(axis=0)])
        is_fitted = self._has_both
        total = losses[:, is_fitted].sum() + 0.5 * (penalties * coefficients**2)[:, is_fitted].sum()
        return float(total), np.where(is_fitted, gradient, 0.0).ravel()


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    from scipy.special import expit

    return np.asarray(expit(logits))
