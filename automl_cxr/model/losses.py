"""Losses and optimizers by the names that a configuration uses."""

from __future__ import annotations

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


def build_loss(config: TrialConfig, n_classes: int) -> keras.losses.Loss:
    """Make the loss on one-hot labels: cross-entropy, or the focal loss of Lin et al. 2017 (arXiv:1708.02002).

    Each class's term of the focal loss is multiplied by its alpha. That comes on top of what ``config.imbalance`` does.

    Raises:
        ImpossibleModelError: ``config.focal_alpha`` holds neither one number nor one for each class.
    """
    if config.loss == "focal":
        return keras.losses.CategoricalFocalCrossentropy(
            alpha=focal_alphas(config, n_classes), gamma=config.focal_gamma, label_smoothing=config.label_smoothing
        )
    return keras.losses.CategoricalCrossentropy(label_smoothing=config.label_smoothing)


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
    """Make the optimizer; a weight decay above 0 is decoupled (Loshchilov & Hutter 2019) whichever it is."""
    # Adam and the others skip the decay's step when told None; AdamW insists on a number.
    none = 0.0 if config.optimizer == "adamw" else None
    parts = config.gradient_accumulation if config.gradient_accumulation > 1 else None
    kind, settings = OPTIMIZERS[config.optimizer]
    return kind(
        learning_rate=learning_rate, weight_decay=config.weight_decay or none, gradient_accumulation_steps=parts, **settings
    )
