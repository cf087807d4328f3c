"""The interface of objects that score many weightings of the same members at once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable
from functools import cached_property
from typing import Any

import numpy as np

from automl_cxr.ensemble.objective import Objective
from automl_cxr.errors import UsageError


class BaseWeightScorer(ABC):
    """Members' probabilities and labels, from which any number of weightings is scored fast.

    A weighting has one weight for each member, or one for each member and class.

    Attributes:
        probabilities: As given, (n_members, n, k).
        labels: As given, int64: classes (n,), or label codes of findings (n, k).
        objective: The metric that weightings are scored by.
        n_members: Number of members.
        n_images: Number of images.
        n_classes: Number of classes or findings.
    """

    probabilities: np.ndarray
    labels: np.ndarray
    objective: Objective
    n_members: int
    n_images: int
    n_classes: int

    @abstractmethod
    def take(self, rows: np.ndarray) -> BaseWeightScorer:
        """Create a scorer for some of the images, selected by a boolean mask or indices."""

    @abstractmethod
    def score(self, weights: np.ndarray) -> np.ndarray:
        """Compute the objective of each weighting. Higher is better: a metric to minimise is negated.

        Args:
            weights: (population, n_members) or (population, n_members, k), at least 0.

        Returns:
            float64 (population,); minus infinity where the metric is undefined.

        Raises:
            UsageError: The weights have another shape.
        """

    @abstractmethod
    def squared_error(self, weights: np.ndarray) -> np.ndarray:
        """Compute the Brier score of each weighting, float64 (population,)."""

    @abstractmethod
    def standardize(self, weights: np.ndarray) -> np.ndarray:
        """Return weights by member and class, (n_members, k), with the same effect, so that several can be averaged."""

    def compute_once(self, key: Hashable, compute: Callable[[], Any]) -> Any:
        """Return the result of a computation on these images that several methods need, such as greedy selection.

        Args:
            key: Identifies the computation and its arguments.
            compute: Computes the result at the first call.
        """
        if key not in self._results:
            self._results[key] = compute()
        return self._results[key]

    @cached_property
    def _results(self) -> dict[Hashable, Any]:
        return {}

    def rank(self, weights: np.ndarray) -> np.ndarray:
        """Rank weightings, best first: by score, then by squared error, then by position; indices (population,)."""
        return np.lexsort((self.squared_error(weights), -self.score(weights)))

    def _higher_is_better(self, scores: np.ndarray) -> np.ndarray:
        """Negate scores of a metric to minimise, and replace NaN by minus infinity."""
        return np.where(np.isnan(scores), -np.inf, self.objective.sign * scores)

    def _check_weights(self, weights: np.ndarray, dtype: type[np.floating[Any]] = np.float32) -> np.ndarray:
        """Validate weights and broadcast them to (population, n_members, k)."""
        weights = np.asarray(weights, dtype=dtype)
        if weights.ndim == 2:
            weights = np.broadcast_to(weights[..., None], (*weights.shape, self.n_classes))
        if weights.ndim != 3 or weights.shape[1:] != (self.n_members, self.n_classes):
            raise UsageError(
                f"A population of weights must have shape (population, {self.n_members}), or (population, {self.n_members}, "
                f"{self.n_classes}) by class. Received {weights.shape}."
            )
        return weights
