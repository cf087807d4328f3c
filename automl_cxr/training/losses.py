"""Losses and optimizers by the names of the hyperparameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import keras

from automl_cxr.config import ASYMMETRIC, TrialConfig
from automl_cxr.tasks import MULTICLASS, MULTILABEL
from automl_cxr.training.finding_losses import FindingLoss, asymmetric, binary_focal
from automl_cxr.training.schedules import Phase, build_rate


def _cross_entropy(config: TrialConfig, n_classes: int) -> keras.losses.Loss:
    return keras.losses.CategoricalCrossentropy(label_smoothing=config.label_smoothing)


def _focal(config: TrialConfig, n_classes: int) -> keras.losses.Loss:
    """Build the focal loss of Lin et al. 2017 (arXiv:1708.02002), in which alpha multiplies the term of each class."""
    return keras.losses.CategoricalFocalCrossentropy(
        alpha=config.focal_alphas(n_classes), gamma=config.focal_gamma, label_smoothing=config.label_smoothing
    )


def _binary_cross_entropy(config: TrialConfig, n_findings: int) -> keras.losses.Loss:
    return FindingLoss(keras.ops.binary_crossentropy, label_smoothing=config.label_smoothing)


def _binary_focal(config: TrialConfig, n_findings: int) -> keras.losses.Loss:
    alphas = config.focal_alphas(n_findings)
    return FindingLoss(binary_focal, label_smoothing=config.label_smoothing, alpha=alphas, gamma=config.focal_gamma)


def _asymmetric(config: TrialConfig, n_findings: int) -> keras.losses.Loss:
    return FindingLoss(
        asymmetric,
        label_smoothing=config.label_smoothing,
        gamma_positive=config.asymmetric_gamma_positive,
        gamma_negative=config.asymmetric_gamma_negative,
        margin=config.asymmetric_margin,
    )


LOSSES: Mapping[str, Mapping[str, Callable[[TrialConfig, int], keras.losses.Loss]]] = {
    MULTICLASS: {"ce": _cross_entropy, "focal": _focal},
    MULTILABEL: {"ce": _binary_cross_entropy, "focal": _binary_focal, ASYMMETRIC: _asymmetric},
}
"""Builder of each loss by the task and the name in a configuration."""

OPTIMIZERS: Mapping[str, tuple[type[keras.optimizers.Optimizer], Mapping[str, Any]]] = {
    "adam": (keras.optimizers.Adam, {}),
    "adamw": (keras.optimizers.AdamW, {}),
    "rmsprop": (keras.optimizers.RMSprop, {}),
    "sgd": (keras.optimizers.SGD, {"momentum": 0.9, "nesterov": True}),
    "adadelta": (keras.optimizers.Adadelta, {}),
}
"""Class and settings of each optimizer, by its name in a configuration."""


def build_loss(config: TrialConfig, n_classes: int) -> keras.losses.Loss:
    """Build the training loss, for the targets of ``training_targets`` and probabilities.

    Raises:
        ImpossibleModelError: ``config.focal_alpha`` contains neither one number nor one number for each class.
        KeyError: The loss is not implemented.
    """
    return LOSSES[config.task][config.loss](config, n_classes)


def build_optimizer(config: TrialConfig, phase: Phase, *, n_steps: int) -> keras.optimizers.Optimizer:
    """Build the optimizer of a phase. Weight decay is decoupled for every optimizer (Loshchilov & Hutter 2019).

    Args:
        config: The configuration.
        phase: The phase; its epochs determine the learning rate of each step and the averaging of weights.
        n_steps: Number of batches of an epoch.

    Raises:
        KeyError: The optimizer is not implemented.
    """
    kind, settings = OPTIMIZERS[config.optimizer]
    n_averaged = config.weight_average * phase.n_epochs * n_steps
    optimizer = kind(
        learning_rate=build_rate(config, phase, n_steps=n_steps),
        gradient_accumulation_steps=config.gradient_accumulation if config.gradient_accumulation > 1 else None,
        global_clipnorm=config.gradient_clip or None,
        use_ema=n_averaged > 1,
        ema_momentum=max(0.0, 1 - 1 / n_averaged) if n_averaged > 0 else 0.0,
        **settings,
    )
    optimizer.weight_decay = config.weight_decay or None  # AdamW refuses None in its constructor, and has a default of 0.004
    return optimizer
