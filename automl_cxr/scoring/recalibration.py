"""Calibration slope and intercept: the logistic regression of an outcome on the logit of its predicted probability.

Cox 1958, "Two further applications of a model for binary regression"; Van Calster et al. 2019, "Calibration: the Achilles heel
of predictive analytics". The intercept (calibration in the large) is that of a regression whose slope is fixed at 1: below 0,
probabilities are too high on average. A slope below 1 means that probabilities are too extreme. Several classes are treated as
one outcome against the rest each, which is defined for findings as well and does not depend on a reference class.

Intervals are those of the sandwich estimator by patient (``scoring.clustered_errors``), which needs one fit instead of one for
each resample.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from automl_cxr.scoring.clustered_errors import PatientClusters, normal_interval
from automl_cxr.scoring.finding_calibration import logits, sigmoid
from automl_cxr.scoring.intervals import Interval
from automl_cxr.scoring.outcomes import Outcome

_MAX_STEPS = 50
_TOLERANCE = 1e-10  # of the coefficients


@dataclass(frozen=True)
class Coefficient:
    """A coefficient of a regression with its 95 % interval; NaN where it is undefined."""

    value: float
    interval: Interval


@dataclass(frozen=True)
class Recalibration:
    """Slope and intercept of an outcome; 1 and 0 for calibrated probabilities."""

    slope: Coefficient
    intercept: Coefficient


def recalibrate(outcome: Outcome) -> Recalibration:
    """Compute calibration slope and intercept of an outcome.

    Args:
        outcome: An outcome that some images have and others do not have.

    Returns:
        The slope is NaN if the probabilities separate the images with the outcome from the others, or are all equal: then the
        likelihood has no maximum.
    """
    scores, clusters = logits(outcome.probabilities), PatientClusters(outcome.patients)
    constant = np.ones((len(scores), 1))
    intercept = _fit(outcome.is_positive, constant, scores, clusters)[0]
    if _is_separated(outcome.is_positive, scores):
        return Recalibration(_undefined(), intercept)
    both = np.column_stack([constant, scores])
    return Recalibration(_fit(outcome.is_positive, both, np.zeros(len(scores)), clusters)[1], intercept)


def _is_separated(is_positive: np.ndarray, scores: np.ndarray) -> bool:
    positive, negative = scores[is_positive], scores[~is_positive]
    return bool(positive.min() >= negative.max() or negative.min() >= positive.max())


def _fit(is_positive: np.ndarray, inputs: np.ndarray, offset: np.ndarray, clusters: PatientClusters) -> tuple[Coefficient, ...]:
    """Fit a logistic regression by Newton's method with step halving.

    Args:
        is_positive: bool (n,).
        inputs: (n, k).
        offset: (n,), added to the linear predictor.
        clusters: The patients of the images.

    Returns:
        k coefficients.
    """

    def loss(values: np.ndarray) -> float:
        linear = inputs @ values + offset
        return float((np.logaddexp(0, linear) - is_positive * linear).sum())

    coefficients = np.zeros(inputs.shape[1])
    for _ in range(_MAX_STEPS):
        fitted = sigmoid(inputs @ coefficients + offset)
        step = np.linalg.solve(_information(inputs, fitted), inputs.T @ (is_positive - fitted))
        while loss(coefficients + step) > loss(coefficients) + _TOLERANCE:
            step = step / 2
        coefficients = coefficients + step
        if np.abs(step).max() < _TOLERANCE:
            break
    fitted = sigmoid(inputs @ coefficients + offset)
    bread = np.linalg.inv(_information(inputs, fitted))
    variances = np.diag(bread @ clusters.covariance(inputs * (is_positive - fitted)[:, np.newaxis]) @ bread)
    return tuple(
        Coefficient(value, normal_interval(value, variance))
        for value, variance in zip(coefficients.tolist(), variances.tolist(), strict=True)
    )


def _information(inputs: np.ndarray, fitted: np.ndarray) -> np.ndarray:
    return inputs.T @ (inputs * (fitted * (1 - fitted))[:, np.newaxis])


def _undefined() -> Coefficient:
    return Coefficient(math.nan, Interval(math.nan, math.nan, 0.95))
