"""The losses of stacked heads: those of ``losses.py``, with separate settings for each head.

The first axis of every array is the head. The settings of a head are variables, so that a compiled model can be used for
other heads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import keras
from keras import ops

from automl_cxr.config import ASYMMETRIC, TrialConfig
from automl_cxr.tasks import MULTICLASS, MULTILABEL
from automl_cxr.training.finding_losses import asymmetric, binary_focal, smoothed

AddVariable = Callable[[tuple[int, ...]], keras.Variable]
"""Returns a variable with one array of a shape for each head."""

Settings = Iterable[tuple[keras.Variable, Sequence[Any]]]
"""Variables, and for each the number or the array of every head."""


class StackedLoss(Protocol):
    """The loss of a task, and the probabilities that it belongs to."""

    def probabilities(self, logits: Any) -> Any:
        """Convert the outputs of the last layer, (p, b, n_classes), into probabilities."""

    def values(self, targets: Any, logits: Any, weights: Any) -> Any:
        """Return the weighted loss of each image, (p, b)."""

    def settings(self, configs: Sequence[TrialConfig]) -> Settings:
        """List the values of the variables for heads with these configurations."""


class ClassLosses:
    """Categorical cross-entropy, or focal loss.

    Args:
        n_classes: Number of classes.
        add_variable: Creates the variables.
    """

    def __init__(self, n_classes: int, add_variable: AddVariable) -> None:
        self._n_classes = n_classes
        self._smoothing = add_variable((1, 1))
        self._is_focal, self._gamma, self._alpha = (add_variable((1, n)) for n in (1, 1, n_classes))

    def probabilities(self, logits: Any) -> Any:
        return ops.softmax(logits)

    def values(self, targets: Any, logits: Any, weights: Any) -> Any:
        probabilities = keras.activations.softmax(logits)
        targets = targets * (1 - self._smoothing) + self._smoothing / self._n_classes
        cross_entropy = ops.categorical_crossentropy(targets, probabilities)
        focal = self._focal_loss(targets, probabilities)
        return ops.where(self._is_focal[..., 0] > 0, focal, cross_entropy) * weights

    def _focal_loss(self, targets: Any, probabilities: Any) -> Any:
        """Compute ``keras.losses.CategoricalFocalCrossentropy`` with a separate gamma and alpha for each head."""
        epsilon = keras.config.epsilon()
        normalised = probabilities / ops.sum(probabilities, axis=-1, keepdims=True)
        clipped = ops.clip(normalised, epsilon, 1 - epsilon)
        return ops.sum(self._alpha * ops.power(1 - clipped, self._gamma) * -targets * ops.log(clipped), axis=-1)

    def settings(self, configs: Sequence[TrialConfig]) -> Settings:
        yield self._smoothing, [config.label_smoothing for config in configs]
        yield self._is_focal, [config.loss == "focal" for config in configs]
        yield self._gamma, [config.focal_gamma for config in configs]
        yield self._alpha, [config.focal_alphas(self._n_classes) for config in configs]


class FindingLosses:
    """Binary cross-entropy, binary focal loss, or asymmetric loss, averaged over the findings of an image.

    Args:
        n_findings: Number of findings.
        add_variable: Creates the variables.
    """

    def __init__(self, n_findings: int, add_variable: AddVariable) -> None:
        self._n_findings = n_findings
        self._smoothing, self._is_focal, self._is_asymmetric, self._gamma = (add_variable((1, 1)) for _ in range(4))
        self._alpha = add_variable((1, n_findings))
        self._gamma_positive, self._gamma_negative, self._margin = (add_variable((1, 1)) for _ in range(3))

    def probabilities(self, logits: Any) -> Any:
        return ops.sigmoid(logits)

    def values(self, targets: Any, logits: Any, weights: Any) -> Any:
        probabilities = keras.activations.sigmoid(logits)
        targets = smoothed(targets, self._smoothing)
        losses = ops.binary_crossentropy(targets, probabilities)
        focal = binary_focal(targets, probabilities, alpha=self._alpha, gamma=self._gamma)
        losses = ops.where(self._is_focal > 0, focal, losses)
        of_asymmetric = asymmetric(
            targets,
            probabilities,
            gamma_positive=self._gamma_positive,
            gamma_negative=self._gamma_negative,
            margin=self._margin,
        )
        return ops.mean(ops.where(self._is_asymmetric > 0, of_asymmetric, losses) * weights, axis=-1)

    def settings(self, configs: Sequence[TrialConfig]) -> Settings:
        yield self._smoothing, [config.label_smoothing for config in configs]
        yield self._is_focal, [config.loss == "focal" for config in configs]
        yield self._is_asymmetric, [config.loss == ASYMMETRIC for config in configs]
        yield self._gamma, [config.focal_gamma for config in configs]
        yield self._alpha, [config.focal_alphas(self._n_findings) for config in configs]
        yield self._gamma_positive, [config.asymmetric_gamma_positive for config in configs]
        yield self._gamma_negative, [config.asymmetric_gamma_negative for config in configs]
        yield self._margin, [config.asymmetric_margin for config in configs]


LOSSES_OF_TASK: Mapping[str, Callable[[int, AddVariable], StackedLoss]] = {
    MULTICLASS: ClassLosses,
    MULTILABEL: FindingLosses,
}
"""The losses of each task."""
