"""Features as inputs of a regression with an L2 penalty: standardised or centred, and rotated if this saves time."""

from __future__ import annotations

import numpy as np

from automl_cxr.training.standardisation import Standardisation

_MOST_FOR_BASIS = 1500  # images


class RegressionInputs:
    """Standardised or centred features.

    If there are more features than images, they are rotated into the space that the images span. The solution of a regression
    with an L2 penalty is the same, because the penalty does not depend on the rotation. For many images, computing this space
    would take longer than it saves.

    Args:
        features: Features of the images, (n, d).
        standardise: Whether features are standardised; otherwise only their means are subtracted.

    Attributes:
        values: float64 (n, d) or fewer columns.
    """

    def __init__(self, features: np.ndarray, *, standardise: bool) -> None:
        found = Standardisation.fit(features)
        self._mean, self._scale = found.mean, found.scale if standardise else np.ones(len(found.scale))
        self.values = (features - self._mean) * self._scale
        self._basis = None
        if self.values.shape[0] < min(self.values.shape[1], _MOST_FOR_BASIS):
            _, _, self._basis = np.linalg.svd(self.values, full_matrices=False)
            self.values = self.values @ self._basis.T

    def layer_on_features(self, coefficients: np.ndarray, intercepts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Convert a solution for ``values`` into a layer for the features themselves.

        Args:
            coefficients: (k, number of columns of ``values``).
            intercepts: (k,).

        Returns:
            The kernel (d, k) and the bias (k,).
        """
        kernel = (coefficients if self._basis is None else coefficients @ self._basis).T * self._scale[:, None]
        return kernel, intercepts - self._mean @ kernel
