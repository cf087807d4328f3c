"""The classifier of a probe: logistic regression on features, or on their radial basis function kernel with some images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from threadpoolctl import threadpool_limits

from automl_cxr.config import TrialConfig
from automl_cxr.model.head import PROBABILITIES
from automl_cxr.model.probe import CENTRES, N_CENTRES, STANDARDISED
from automl_cxr.records import PartRecord
from automl_cxr.training.finding_regressions import FindingsFit, fit_findings
from automl_cxr.training.logistic import LogisticFit, fit_logistic
from automl_cxr.training.rbf_features import RbfFeatures
from automl_cxr.training.sampling import image_weights
from automl_cxr.training.targets import training_targets

_KERNEL_CANDIDATES = tuple(np.logspace(-1, 3, 9))  # of C: kernel features have a smaller variance than standardised ones
_HUGE = 1e30  # variance of a constant feature, by which it becomes 0


@dataclass(frozen=True, eq=False)
class ProbeHead:
    """A fitted classifier of features.

    Attributes:
        regression: The logistic regression, or those of all findings.
        kernel: Transformation of the features before it; None for a linear classifier.
    """

    regression: LogisticFit | FindingsFit
    kernel: RbfFeatures | None = None

    @classmethod
    def fit(cls, features: np.ndarray, part: PartRecord, config: TrialConfig, *, n_classes: int) -> ProbeHead:
        """Fit the classifier that a configuration of family probe describes.

        Args:
            features: Features of the images, (n, d).
            part: The images, n.
            config: The configuration.
            n_classes: Number of classes or findings.
        """
        if config.probe_kernel == "linear":
            return cls(_fit_regression(features, part, config, n_classes))
        with threadpool_limits(1):  # the matrices are small
            kernel = RbfFeatures.fit(features, n_centres=N_CENTRES, seed=config.seed)
            inputs = kernel.apply(features)
        options = {"candidates": _KERNEL_CANDIDATES, "standardise": False}
        return cls(_fit_regression(inputs, part, config, n_classes, **options), kernel)

    def predict(self, features: np.ndarray) -> np.ndarray:
        """Return the probabilities of the classes or findings, float32 (n, n_classes), for features (n, d)."""
        return self.regression.predict(features if self.kernel is None else self.kernel.apply(features))

    def write_to(self, model: keras.Model) -> None:
        """Set the weights of the layers after the features of a network of ``build_probe``."""
        kernel = self.regression.kernel
        if self.kernel is not None:
            self._write_centres(model, self.kernel)
            kernel = np.zeros((N_CENTRES, kernel.shape[1]))  # fewer images than centres leave rows without effect
            kernel[: len(self.kernel.centres)] = self.kernel.basis @ self.regression.kernel
        model.get_layer(PROBABILITIES).set_weights([kernel.astype(np.float32), self.regression.bias.astype(np.float32)])

    @staticmethod
    def _write_centres(model: keras.Model, kernel: RbfFeatures) -> None:
        scale = kernel.standardisation.scale
        variance = np.where(scale > 0, 1 / np.where(scale > 0, scale, 1.0) ** 2, _HUGE)
        model.get_layer(STANDARDISED).set_weights([kernel.standardisation.mean, variance])
        centres = np.zeros((N_CENTRES, len(scale)))
        centres[: len(kernel.centres)] = kernel.centres
        # The kernel is exp(2 gamma x c - gamma c c - gamma x x); the layer computes the first two terms.
        model.get_layer(CENTRES).set_weights(
            [(2 * kernel.gamma * centres.T).astype(np.float32), (-kernel.gamma * (centres**2).sum(axis=1)).astype(np.float32)]
        )


def _fit_regression(
    inputs: np.ndarray, part: PartRecord, config: TrialConfig, n_classes: int, **options: Any
) -> LogisticFit | FindingsFit:
    labels = np.asarray(part.labels, np.int64)
    options |= {"seed": config.seed, "c": config.logistic_c}
    if config.is_multilabel:
        return fit_findings(inputs, labels, training_targets(labels, n_classes, config), part.patients, **options)
    return fit_logistic(inputs, labels, image_weights(labels, n_classes, config), part.patients, **options)
