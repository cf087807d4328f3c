"""Losses of findings, each of which is present or absent independently of the others.

Their values are not averaged over the findings of an image, so that the weight of each label can be applied to them
(``training/targets.py``): the weight of an unknown label is 0.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops


def smoothed(targets: Any, smoothing: Any) -> Any:
    """Spread a share of the target probability evenly over both states of a finding."""
    return targets * (1 - smoothing) + 0.5 * smoothing


def binary_focal(targets: Any, probabilities: Any, *, alpha: Any, gamma: Any) -> Any:
    """Compute the focal loss of Lin et al. 2017 (arXiv:1708.02002) of each finding, multiplied by its alpha.

    Args:
        targets: Target probabilities, (..., n_findings).
        probabilities: Predicted probabilities, of the same shape.
        alpha: Weight of each finding, (n_findings,) or a shape that is broadcast.
        gamma: Exponent on one minus the probability of the true state.
    """
    present = _away_from_ends(probabilities)
    loss_of_present = ops.power(1 - present, gamma) * -ops.log(present)
    loss_of_absent = ops.power(present, gamma) * -ops.log(1 - present)
    return alpha * (targets * loss_of_present + (1 - targets) * loss_of_absent)


def asymmetric(targets: Any, probabilities: Any, *, gamma_positive: Any, gamma_negative: Any, margin: Any) -> Any:
    """Compute the asymmetric loss of Ridnik et al. 2021 (arXiv:2009.14119, equation 7) of each finding.

    Args:
        targets: Target probabilities, (..., n_findings).
        probabilities: Predicted probabilities, of the same shape.
        gamma_positive: Exponent on one minus the probability of a finding that is present.
        gamma_negative: Exponent on the shifted probability of a finding that is absent.
        margin: Probability that is subtracted for a finding that is absent; below it, the loss is 0.
    """
    present = _away_from_ends(probabilities)
    shifted = _away_from_ends(probabilities - margin)
    loss_of_present = ops.power(1 - present, gamma_positive) * -ops.log(present)
    loss_of_absent = ops.power(shifted, gamma_negative) * -ops.log(1 - shifted)
    return targets * loss_of_present + (1 - targets) * loss_of_absent


def _away_from_ends(probabilities: Any) -> Any:
    """Clip probabilities as the losses of Keras do, so that logarithms, powers and their gradients are finite."""
    epsilon = keras.config.epsilon()
    return ops.clip(probabilities, epsilon, 1 - epsilon)


class _FindingLoss(keras.losses.Loss):
    """A loss with values (n, n_findings) and label smoothing.

    Args:
        label_smoothing: Share of the target probability that is spread over both states.
        settings: Further settings, for the record.
    """

    def __init__(self, label_smoothing: float, **settings: Any) -> None:
        super().__init__()
        self._settings = {"label_smoothing": label_smoothing, **settings}

    def call(self, targets: Any, probabilities: Any) -> Any:
        settings = dict(self._settings)
        return self.values(smoothed(targets, settings.pop("label_smoothing")), probabilities, **settings)

    def values(self, targets: Any, probabilities: Any) -> Any:
        """Return the loss of each label, (n, n_findings)."""
        raise NotImplementedError

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), **self._settings}


class BinaryCrossEntropy(_FindingLoss):
    """The binary cross-entropy of each label."""

    def values(self, targets: Any, probabilities: Any) -> Any:
        return ops.binary_crossentropy(targets, probabilities)


class BinaryFocal(_FindingLoss):
    """``binary_focal``."""

    def values(self, targets: Any, probabilities: Any, *, alpha: list[float], gamma: float) -> Any:
        return binary_focal(targets, probabilities, alpha=np.asarray(alpha, np.float32), gamma=gamma)


class Asymmetric(_FindingLoss):
    """``asymmetric``."""

    def values(self, targets: Any, probabilities: Any, **settings: float) -> Any:
        return asymmetric(targets, probabilities, **settings)
