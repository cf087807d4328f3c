"""Combiners for the probabilities of several findings, each of which is independent of the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from automl_cxr.ensemble.calibrated_base import CalibratedBase
from automl_cxr.ensemble.weighted_average import normalize_weights
from automl_cxr.errors import UsageError
from automl_cxr.scoring.finding_calibration import logits, sigmoid, with_temperature


@dataclass(frozen=True, eq=False)
class AverageByFinding:
    """The weighted average of the members, with a weight for each member and finding.

    Attributes:
        weights: float64 (n_members, k), at least 0; those of a finding sum to 1.
    """

    weights: np.ndarray

    @property
    def shares(self) -> np.ndarray:
        return self.weights.mean(axis=1)

    def shares_for(self, column: int) -> np.ndarray:
        return self.weights[:, column]

    def combine(self, probabilities: np.ndarray) -> np.ndarray:
        n_members, n_images, n_findings = probabilities.shape
        if self.weights.shape != (n_members, n_findings):
            raise UsageError(
                f"This average is for {self.weights.shape[0]} members of {self.weights.shape[1]} findings. "
                f"Received {n_members} of {n_findings}."
            )
        total = np.zeros((n_images, n_findings))
        for weights, member in zip(self.weights, probabilities, strict=True):
            total += weights * member
        return total.astype(np.float32)

    def take(self, members: Sequence[int]) -> AverageByFinding:
        return AverageByFinding(normalize_columns(self.weights[list(members)]))

    def to_record(self) -> dict[str, Any]:
        return {"kind": "average_by_finding", "weights": self.weights.tolist()}


@dataclass(frozen=True, eq=False)
class FindingStacking:
    """A logistic regression for each finding, on the logits of the members' probabilities of this finding.

    Attributes:
        coefficients: float64 (k, n_members).
        intercepts: float64 (k,).
    """

    coefficients: np.ndarray
    intercepts: np.ndarray

    @property
    def shares(self) -> np.ndarray:
        return _shares(np.abs(self.coefficients).sum(axis=0))

    def shares_for(self, column: int) -> np.ndarray:
        return _shares(np.abs(self.coefficients[column]))

    def combine(self, probabilities: np.ndarray) -> np.ndarray:
        n_members, n_images, n_findings = probabilities.shape
        if self.coefficients.shape != (n_findings, n_members):
            raise UsageError(
                f"This regression is for {self.coefficients.shape[1]} members of {len(self.coefficients)} findings. "
                f"Received {n_members} of {n_findings}."
            )
        total = np.tile(self.intercepts, (n_images, 1))
        for coefficients, member in zip(self.coefficients.T, probabilities, strict=True):
            total += coefficients * logits(member)
        return sigmoid(total).astype(np.float32)

    def take(self, members: Sequence[int]) -> FindingStacking:
        return FindingStacking(self.coefficients[:, list(members)], self.intercepts)

    def to_record(self) -> dict[str, Any]:
        record = {"coefficients": self.coefficients.tolist(), "intercepts": self.intercepts.tolist()}
        return {"kind": "stacking_by_finding", **record}


@dataclass(frozen=True, eq=False)
class CalibratedFindings(CalibratedBase):
    """A combiner followed by a temperature of the logits, which does not change the order of the images for any finding."""

    def combine(self, probabilities: np.ndarray) -> np.ndarray:
        return with_temperature(self.combiner.combine(probabilities), self.temperature)

    def to_record(self) -> dict[str, Any]:
        return {**self.combiner.to_record(), "temperature": self.temperature, "link": "sigmoid"}


def normalize_columns(weights: np.ndarray) -> np.ndarray:
    """Scale weights by member and finding, (..., n_members, k), to sum 1 for each finding; equal weights if all are 0."""
    sums = weights.sum(axis=-2, keepdims=True)
    equal = np.full(weights.shape, 1 / weights.shape[-2], dtype=weights.dtype)
    return np.divide(weights, sums, out=equal, where=sums > 0)


def read_average_by_finding(record: Mapping[str, Any], n_members: int, n_classes: int) -> AverageByFinding:
    """Restore an average from its record.

    Raises:
        UsageError: The weights have another shape, are negative or not finite.
    """
    weights = np.asarray(record["weights"], dtype=np.float64)
    if weights.ndim != 2:
        raise ValueError(f"weights of shape {weights.shape}")
    normalize_weights(weights, n_members=n_members, n_classes=n_classes)
    return AverageByFinding(weights)


def read_stacking_by_finding(record: Mapping[str, Any], n_members: int, n_classes: int) -> FindingStacking:
    """Restore the regressions from their record.

    Raises:
        ValueError: The coefficients have another shape or are not finite.
    """
    coefficients = np.asarray(record["coefficients"], dtype=np.float64)
    intercepts = np.asarray(record["intercepts"], dtype=np.float64)
    if coefficients.shape != (n_classes, n_members) or intercepts.shape != (n_classes,):
        raise ValueError(f"coefficients of shape {coefficients.shape} and intercepts of shape {intercepts.shape}")
    if not (np.isfinite(coefficients).all() and np.isfinite(intercepts).all()):
        raise ValueError("coefficients that are not finite")
    return FindingStacking(coefficients, intercepts)


def _shares(sizes: np.ndarray) -> np.ndarray:
    """Divide by the sum; return equal shares where it is 0."""
    return sizes / sizes.sum() if sizes.sum() > 0 else np.full(len(sizes), 1 / len(sizes))
