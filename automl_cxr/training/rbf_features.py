"""Features in which a linear classifier approximates one with a radial basis function kernel.

Source: Williams & Seeger 2000, Using the Nystroem method to speed up kernel machines; compare
``sklearn.kernel_approximation.Nystroem``, which this follows, with features that are standardised first.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from automl_cxr.model.probe import rbf_gamma
from automl_cxr.training.standardisation import Standardisation

_SMALLEST_EIGENVALUE = 1e-6  # relative to the largest one; smaller ones consist of rounding errors


@dataclass(frozen=True, eq=False)
class RbfFeatures:
    """The kernel exp(-gamma * distance squared) between standardised features and centres, in an orthonormal basis.

    Attributes:
        standardisation: Of the features.
        centres: Standardised features of some training images, float64 (m, d).
        gamma: Inverse of the squared width of the kernel.
        basis: float64 (m, r).
    """

    standardisation: Standardisation
    centres: np.ndarray
    gamma: float
    basis: np.ndarray

    @classmethod
    def fit(cls, features: np.ndarray, *, n_centres: int, seed: int) -> RbfFeatures:
        """Choose the centres at random among training images.

        Args:
            features: Features of the training images, (n, d).
            n_centres: Maximum number of centres.
            seed: Seed of the choice.
        """
        standardisation = Standardisation.fit(features)
        chosen = np.random.default_rng(seed).permutation(len(features))[:n_centres]
        centres = standardisation.apply(features[np.sort(chosen)])
        gamma = rbf_gamma(features.shape[1])
        eigenvalues, vectors = np.linalg.eigh(_rbf_kernel(centres, centres, gamma))
        is_kept = eigenvalues > _SMALLEST_EIGENVALUE * eigenvalues[-1]
        return cls(standardisation, centres, gamma, vectors[:, is_kept] / np.sqrt(eigenvalues[is_kept]))

    def apply(self, features: np.ndarray) -> np.ndarray:
        """Return the kernel features, float64 (n, r), of features (n, d)."""
        kernel = _rbf_kernel(self.standardisation.apply(features), self.centres, self.gamma)
        return np.asarray(kernel @ self.basis)


def _rbf_kernel(features: np.ndarray, centres: np.ndarray, gamma: float) -> np.ndarray:
    """Return exp(-gamma * squared distance), (n, m), of features (n, d) and centres (m, d)."""
    squares = (features**2).sum(axis=1)[:, None] + (centres**2).sum(axis=1) - 2 * features @ centres.T
    return np.asarray(np.exp(-gamma * np.maximum(squares, 0.0)))
