"""Combiners: functions from members' probabilities to the ensemble's, with their records for ensemble.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from automl_cxr.ensemble.calibrated_base import CalibratedBase
from automl_cxr.ensemble.combiner_protocol import Combiner
from automl_cxr.ensemble.finding_combiners import CalibratedFindings, read_average_by_finding, read_stacking_by_finding
from automl_cxr.ensemble.weighted_average import normalize_weights, weighted_average
from automl_cxr.errors import DataError, UsageError
from automl_cxr.scoring.calibration import with_temperature

_MIN_PROBABILITY = 1e-6  # log(0) is undefined; in float16 exports smaller probabilities are rounded to 0


@dataclass(frozen=True, eq=False)
class WeightedAverage:
    """The weighted average of the members.

    Attributes:
        weights: float64 (n_members,), or (n_members, k) with a weight for each member and class; at least 0.
    """

    weights: np.ndarray

    @property
    def shares(self) -> np.ndarray:
        by_member = self.weights if self.weights.ndim == 1 else self.weights.mean(axis=1)
        return by_member / by_member.sum()

    def shares_for(self, column: int) -> np.ndarray:
        of_class = self.weights if self.weights.ndim == 1 else self.weights[:, column]
        return of_class / of_class.sum()

    def combine(self, probabilities: np.ndarray) -> np.ndarray:
        return weighted_average(probabilities, self.weights)

    def take(self, members: Sequence[int]) -> WeightedAverage:
        return WeightedAverage(self.weights[list(members)])

    def to_record(self) -> dict[str, Any]:
        return {"kind": "average", "weights": self.weights.tolist()}


@dataclass(frozen=True, eq=False)
class Stacking:
    """A multinomial logistic regression on the members' log-probabilities.

    Attributes:
        coefficients: float64 (k, n_members, k): for each predicted class, one coefficient for each member's log-probability
            of each class.
        intercepts: float64 (k,).
    """

    coefficients: np.ndarray
    intercepts: np.ndarray

    @property
    def shares(self) -> np.ndarray:
        return _shares(np.abs(self.coefficients).sum(axis=(0, 2)))

    def shares_for(self, column: int) -> np.ndarray:
        return _shares(np.abs(self.coefficients[column]).sum(axis=1))

    def combine(self, probabilities: np.ndarray) -> np.ndarray:
        n_members, _, n_classes = probabilities.shape
        if self.coefficients.shape != (n_classes, n_members, n_classes):
            raise UsageError(
                f"This stacking is for {self.coefficients.shape[1]} members of {len(self.coefficients)} classes. "
                f"Received {n_members} of {n_classes}."
            )
        logits = np.einsum("cmd,mnd->nc", self.coefficients, log_probabilities(probabilities)) + self.intercepts
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        return (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)

    def take(self, members: Sequence[int]) -> Stacking:
        return Stacking(self.coefficients[:, list(members)], self.intercepts)

    def to_record(self) -> dict[str, Any]:
        return {"kind": "stacking", "coefficients": self.coefficients.tolist(), "intercepts": self.intercepts.tolist()}


@dataclass(frozen=True, eq=False)
class CalibratedCombiner(CalibratedBase):
    """A combiner followed by a temperature, which does not change which class is the most probable."""

    def combine(self, probabilities: np.ndarray) -> np.ndarray:
        return with_temperature(self.combiner.combine(probabilities), self.temperature)

    def to_record(self) -> dict[str, Any]:
        return {**self.combiner.to_record(), "temperature": self.temperature}


def combiner_from_record(record: Mapping[str, Any], *, n_members: int, n_classes: int) -> Combiner:
    """Restore a combiner from the values that ``to_record`` returned.

    Raises:
        DataError: The record is damaged, or is for another number of members or classes.
    """
    try:
        combiner = _READERS[record["kind"]](record, n_members, n_classes)
        temperature = float(record.get("temperature", 1.0))
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise DataError(
            f"The record of a combiner must be as this program wrote it ({error}). Build the ensemble again."
        ) from error
    if not 0 < temperature < np.inf:
        raise DataError(f"A temperature must be above 0 and finite; received {temperature}. Build the ensemble again.")
    if temperature == 1:
        return combiner
    calibrated = CalibratedFindings if record.get("link") == "sigmoid" else CalibratedCombiner
    return calibrated(combiner, temperature)


def log_probabilities(probabilities: np.ndarray) -> np.ndarray:
    """Return the logarithms of probabilities of any shape, float64, at least that of one millionth."""
    return np.log(np.maximum(probabilities.astype(np.float64), _MIN_PROBABILITY))


def _shares(sizes: np.ndarray) -> np.ndarray:
    """Divide by the sum; return equal shares where it is 0."""
    return sizes / sizes.sum() if sizes.sum() > 0 else np.full(len(sizes), 1 / len(sizes))


def _read_average(record: Mapping[str, Any], n_members: int, n_classes: int) -> Combiner:
    weights = np.asarray(record["weights"], dtype=np.float64)
    normalize_weights(weights, n_members=n_members, n_classes=n_classes)
    return WeightedAverage(weights)


def _read_stacking(record: Mapping[str, Any], n_members: int, n_classes: int) -> Combiner:
    coefficients = np.asarray(record["coefficients"], dtype=np.float64)
    intercepts = np.asarray(record["intercepts"], dtype=np.float64)
    if coefficients.shape != (n_classes, n_members, n_classes) or intercepts.shape != (n_classes,):
        raise ValueError(f"coefficients of shape {coefficients.shape} and intercepts of shape {intercepts.shape}")
    if not (np.isfinite(coefficients).all() and np.isfinite(intercepts).all()):
        raise ValueError("coefficients that are not finite")
    return Stacking(coefficients, intercepts)


_READERS = {
    "average": _read_average,
    "stacking": _read_stacking,
    "average_by_finding": read_average_by_finding,
    "stacking_by_finding": read_stacking_by_finding,
}
