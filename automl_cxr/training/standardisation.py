"""Standardisation of features to mean 0 and standard deviation 1."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_CONSTANT = 1e-6  # ratio of standard deviation to magnitude below which a feature is regarded as constant


@dataclass(frozen=True, eq=False)
class Standardisation:
    """A transformation of features (n, d): subtract ``mean``, then multiply by ``scale``.

    Attributes:
        mean: float64 (d,).
        scale: float64 (d,); 0 for constant features.
    """

    mean: np.ndarray
    scale: np.ndarray

    @classmethod
    def fit(cls, features: np.ndarray) -> Standardisation:
        """Return the standardisation of features, (n, d)."""
        features = features.astype(np.float64)
        mean, deviation = features.mean(axis=0), features.std(axis=0)
        varies = deviation > _CONSTANT * (np.abs(mean) + deviation)
        return cls(mean, np.where(varies, 1 / np.where(varies, deviation, 1.0), 0.0))

    def apply(self, features: np.ndarray) -> np.ndarray:
        """Return standardised features, float64 (n, d)."""
        standardised: np.ndarray = (features - self.mean) * self.scale
        return standardised
