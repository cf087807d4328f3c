"""Losses of findings, each of which is present or absent independently of the others.

Their values are not averaged over the findings of an image, so that the weight of each label can be applied to them
(``training/targets.py``): the weight of an unknown label is 0.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
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
    return ops.multiply(alpha, targets * loss_of_present + (1 - targets) * loss_of_absent)


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


class FindingLoss(keras.losses.Loss):
    """A loss with values (n, n_findings) and label smoothing.

    Args:
        function: Returns the loss of each label, given targets, probabilities and the settings.
        label_smoothing: Share of the target probability that is spread over both states.
        settings: Keyword arguments of the function.
    """

    def __init__(self, function: Callable[..., Any], *, label_smoothing: float, **settings: Any) -> None:
        super().__init__(name=function.__name__)
        self._function = function
        self._label_smoothing = label_smoothing
        self._settings = settings

    def call(self, targets: Any, probabilities: Any) -> Any:
        return self._function(smoothed(targets, self._label_smoothing), probabilities, **self._settings)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "label_smoothing": self._label_smoothing, **self._settings}
