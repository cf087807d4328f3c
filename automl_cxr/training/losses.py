"""Losses and optimizers by the names that a configuration uses."""

from __future__ import annotations

from typing import Any

import keras

from automl_cxr.config import TrialConfig
from automl_cxr.errors import ImpossibleModelError

OPTIMIZERS = {
    "adam": (keras.optimizers.Adam, {}),
    "adamw": (keras.optimizers.AdamW, {}),
    "rmsprop": (keras.optimizers.RMSprop, {}),
    "sgd": (keras.optimizers.SGD, {"momentum": 0.9, "nesterov": True}),
    "adadelta": (keras.optimizers.Adadelta, {}),
}
"""Class and settings of each optimizer, by the name that a configuration uses."""


class AdjustableLoss(keras.losses.Loss):
    """The loss on one-hot labels: cross-entropy, or the focal loss of Lin et al. 2017 (arXiv:1708.02002).

    Each class's term of the focal loss is multiplied by its alpha. That comes on top of what ``config.imbalance`` does.
    Its settings are variables, so that a network that is compiled with it can be given others.

    Attributes:
        variables: The settings, for JAX to be told that they are no constants.
    """

    def __init__(self, config: TrialConfig, n_classes: int) -> None:
        """Make the loss of a configuration.

        Raises:
            ImpossibleModelError: ``config.focal_alpha`` holds neither one number nor one for each class.
        """
        super().__init__(name=config.loss)
        self._is_focal = config.loss == "focal"
        self._n_classes = n_classes
        self._settings = {
            name: keras.Variable(value, trainable=False, dtype="float32", name=name)
            for name, value in self._values(config).items()
        }
        self.variables = list(self._settings.values())

    def adjust(self, config: TrialConfig) -> None:
        """Take the settings of a configuration of the same ``loss``."""
        for name, value in self._values(config).items():
            self._settings[name].assign(value)

    def _values(self, config: TrialConfig) -> dict[str, float | list[float]]:
        smoothing = {"kept": 1.0 - config.label_smoothing, "spread": config.label_smoothing / self._n_classes}
        focus = {"gamma": config.focal_gamma, "alpha": focal_alphas(config, self._n_classes)} if self._is_focal else {}
        return smoothing | focus

    def call(self, y_true: Any, y_pred: Any) -> Any:
        smoothed = y_true * self._settings["kept"] + self._settings["spread"]
        if not self._is_focal:
            return keras.losses.categorical_crossentropy(smoothed, y_pred)
        alpha, gamma = self._settings["alpha"], self._settings["gamma"]
        return keras.losses.categorical_focal_crossentropy(smoothed, y_pred, alpha=alpha, gamma=gamma)


def focal_alphas(config: TrialConfig, n_classes: int) -> list[float]:
    """Give the weight of each class in the focal loss.

    Raises:
        ImpossibleModelError: ``config.focal_alpha`` holds neither one number nor one for each class.
    """
    alphas = [float(number) for number in config.focal_alpha.split(",")]
    if len(alphas) not in (1, n_classes):
        raise ImpossibleModelError(
            f"Hyperparameter 'focal_alpha' must hold 1 number or {n_classes}, one for each class; "
            f"received {len(alphas)} ('{config.focal_alpha}'). Count the data's classes with `automl-cxr data inspect`."
        )
    return alphas * (n_classes // len(alphas))


def build_optimizer(config: TrialConfig, *, learning_rate: float) -> keras.optimizers.Optimizer:
    """Make the optimizer; a weight decay above 0 is decoupled (Loshchilov & Hutter 2019) whichever it is.

    Its learning rate and its weight decay are variables, so that a network that is compiled with it can be given others.
    """
    parts = config.gradient_accumulation if config.gradient_accumulation > 1 else None
    kind, settings = OPTIMIZERS[config.optimizer]
    optimizer = kind(learning_rate=learning_rate, gradient_accumulation_steps=parts, **settings)
    if takes_decay(config):
        optimizer.weight_decay = keras.Variable(config.weight_decay, trainable=False, dtype="float32", name="weight_decay")
    else:
        optimizer.weight_decay = None  # AdamW insists on a number at first, and would take a step for it
    return optimizer


def takes_decay(config: TrialConfig) -> bool:
    """Tell whether an optimizer takes the step of weight decay, which is part of its graph."""
    return config.weight_decay > 0


def renew_optimizer(optimizer: keras.optimizers.Optimizer, config: TrialConfig, *, learning_rate: float) -> None:
    """Make an optimizer what ``build_optimizer`` makes of a configuration that differs in rate and decay alone.

    All that the optimizers here keep (moments, sums, counters) begins at 0.
    """
    for variable in optimizer.variables:
        variable.assign(keras.ops.zeros(variable.shape, variable.dtype))
    optimizer.learning_rate = learning_rate
    if takes_decay(config):
        optimizer.weight_decay.assign(config.weight_decay)
