"""Losses, optimizers and learning-rate schedules by the names that a configuration uses."""

from __future__ import annotations

import math

import keras

from automl_cxr.config import TrialConfig

_OPTIMIZERS = {
    "adam": keras.optimizers.Adam,
    "adamw": keras.optimizers.AdamW,
    "rmsprop": keras.optimizers.RMSprop,
    "sgd": lambda **settings: keras.optimizers.SGD(momentum=0.9, nesterov=True, **settings),
}


def build_loss(config: TrialConfig) -> keras.losses.Loss:
    """Make the loss on one-hot labels: cross-entropy, or the focal loss of Lin et al. 2017 (arXiv:1708.02002).

    The focal loss is used with alpha 1: class imbalance is the business of ``config.imbalance``.
    """
    if config.loss == "focal":
        return keras.losses.CategoricalFocalCrossentropy(
            alpha=1.0, gamma=config.focal_gamma, label_smoothing=config.label_smoothing
        )
    return keras.losses.CategoricalCrossentropy(label_smoothing=config.label_smoothing)


def build_optimizer(config: TrialConfig) -> keras.optimizers.Optimizer:
    """Make the optimizer; a weight decay above 0 is decoupled (Loshchilov & Hutter 2019) whichever it is."""
    # Adam and the others skip the decay's step when told None; AdamW insists on a number.
    none = 0.0 if config.optimizer == "adamw" else None
    return _OPTIMIZERS[config.optimizer](learning_rate=config.learning_rate, weight_decay=config.weight_decay or none)


def scheduled_learning_rate(config: TrialConfig, epoch: int) -> float:
    """Give the learning rate of an epoch, from 1: constant, or half a cosine from the full rate down towards 0.

    The cosine's length is ``config.epochs``, so a trial that is stopped early saw the same rates as one that is not.
    """
    if config.schedule == "constant":
        return config.learning_rate
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * (epoch - 1) / config.epochs))
