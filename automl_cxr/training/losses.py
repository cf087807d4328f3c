"""Losses and optimizers by the names of the hyperparameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import keras

from automl_cxr.config import TrialConfig
from automl_cxr.errors import ImpossibleModelError


def _cross_entropy(config: TrialConfig, n_classes: int) -> keras.losses.Loss:
    return keras.losses.CategoricalCrossentropy(label_smoothing=config.label_smoothing)


def _focal(config: TrialConfig, n_classes: int) -> keras.losses.Loss:
    """Build the focal loss of Lin et al. 2017 (arXiv:1708.02002), in which alpha multiplies the term of each class."""
    return keras.losses.CategoricalFocalCrossentropy(
        alpha=focal_alphas(config, n_classes), gamma=config.focal_gamma, label_smoothing=config.label_smoothing
    )


LOSSES: Mapping[str, Callable[[TrialConfig, int], keras.losses.Loss]] = {"ce": _cross_entropy, "focal": _focal}
"""Builder of each loss, by its name in a configuration."""

OPTIMIZERS: Mapping[str, tuple[type[keras.optimizers.Optimizer], Mapping[str, Any]]] = {
    "adam": (keras.optimizers.Adam, {}),
    "adamw": (keras.optimizers.AdamW, {}),
    "rmsprop": (keras.optimizers.RMSprop, {}),
    "sgd": (keras.optimizers.SGD, {"momentum": 0.9, "nesterov": True}),
    "adadelta": (keras.optimizers.Adadelta, {}),
}
"""Class and settings of each optimizer, by its name in a configuration."""


def build_loss(config: TrialConfig, n_classes: int) -> keras.losses.Loss:
    """Build the training loss, for one-hot labels and probabilities.

    Raises:
        ImpossibleModelError: ``config.focal_alpha`` contains neither one number nor one number for each class.
        KeyError: The loss is not implemented.
    """
    return LOSSES[config.loss](config, n_classes)


def focal_alphas(config: TrialConfig, n_classes: int) -> list[float]:
    """Return the weight of each class in the focal loss.

    Raises:
        ImpossibleModelError: ``config.focal_alpha`` contains neither one number nor one number for each class.
    """
    alphas = [float(number) for number in config.focal_alpha.split(",")]
    if len(alphas) not in (1, n_classes):
        raise ImpossibleModelError(
            f"Hyperparameter 'focal_alpha' must contain 1 number or {n_classes}, one for each class; "
            f"received {len(alphas)} ('{config.focal_alpha}'). `automl-cxr data inspect` shows the classes of the data."
        )
    return alphas * (n_classes // len(alphas))


def build_optimizer(config: TrialConfig, *, learning_rate: float) -> keras.optimizers.Optimizer:
    """Build the optimizer. Weight decay is decoupled for every optimizer (Loshchilov & Hutter 2019).

    Raises:
        KeyError: The optimizer is not implemented.
    """
    kind, settings = OPTIMIZERS[config.optimizer]
    parts = config.gradient_accumulation if config.gradient_accumulation > 1 else None
    optimizer = kind(learning_rate=learning_rate, gradient_accumulation_steps=parts, **settings)
    optimizer.weight_decay = config.weight_decay or None  # AdamW refuses None in its constructor, and has a default of 0.004
    return optimizer
