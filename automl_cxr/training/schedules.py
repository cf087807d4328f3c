"""The phases of training, and the learning rate of each epoch and of each gradient step."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from automl_cxr.config import TrialConfig

_LEAST_IMPROVEMENT = 0.001
_LOWEST_SHARE = 1e-3
_RATED_BATCH_SIZE = 32  # the batch size for which scaled learning rates are meant
_RATE_FACTORS: Mapping[str, float] = {"adam": 1.0, "adamw": 1.0, "rmsprop": 1.0, "sgd": 10.0, "adadelta": 300.0}


@dataclass(frozen=True, kw_only=True)
class Phase:
    """Consecutive epochs with the same optimizer and the same trainable layers.

    Attributes:
        n_epochs: Maximum number of epochs.
        learning_rate: Highest learning rate.
        frozen: Whether the backbones are frozen.
    """

    n_epochs: int
    learning_rate: float
    frozen: bool


def plan_phases(config: TrialConfig) -> tuple[Phase, ...]:
    """Return the phases: first the epochs with frozen backbones, if any, then the others at ``fine_tune_rate``."""
    n_frozen, factor = config.frozen_epochs, rate_factor(config)
    phases = (
        Phase(n_epochs=n_frozen, learning_rate=factor * config.learning_rate, frozen=True),
        Phase(
            n_epochs=config.epochs - n_frozen,
            learning_rate=factor * (config.fine_tune_rate if n_frozen > 0 else config.learning_rate),
            frozen=False,
        ),
    )
    return tuple(phase for phase in phases if phase.n_epochs > 0)


def rate_factor(config: TrialConfig) -> float:
    """Return the factor of ``scaled_rate`` on the learning rates of a configuration.

    The rate grows with the batch size, because the noise of the gradient decreases: linearly for SGD (Goyal et al. 2017,
    arXiv:1706.02677), with the square root for optimizers that divide by the size of the gradient (Malladi et al. 2022,
    arXiv:2205.10287).
    """
    if not config.scaled_rate:
        return 1.0
    exponent = 1.0 if config.optimizer == "sgd" else 0.5
    return _RATE_FACTORS[config.optimizer] * (config.batch_size / _RATED_BATCH_SIZE) ** exponent


def changes_by_step(config: TrialConfig) -> bool:
    """Return whether the learning rate changes with each gradient step, and not only between epochs."""
    return config.schedule == "cosine" or (config.schedule == "constant" and config.warmup > 0)


def build_rate(config: TrialConfig, phase: Phase, *, n_steps: int) -> float | keras.optimizers.schedules.LearningRateSchedule:
    """Return the learning rate of a new optimizer: a schedule, or the initial rate if it only changes between epochs.

    Args:
        config: The schedule and its settings.
        phase: The phase of the optimizer.
        n_steps: Number of batches of an epoch, or of their parts if gradients are accumulated.
    """
    if not changes_by_step(config):
        return phase.learning_rate
    n_all = phase.n_epochs * n_steps / config.gradient_accumulation
    n_rising = config.warmup * n_all
    schedule = keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=0.0 if n_rising > 0 else phase.learning_rate,
        warmup_target=phase.learning_rate if n_rising > 0 else None,
        warmup_steps=n_rising,
        decay_steps=n_all - n_rising,
        alpha=1.0 if config.schedule == "constant" else 0.0,  # the final rate as a share of the highest
    )
    return schedule if config.gradient_accumulation == 1 else RateOfUpdates(schedule, config.gradient_accumulation)


@keras.saving.register_keras_serializable(package="automl_cxr")
class RateOfUpdates(keras.optimizers.schedules.LearningRateSchedule):
    """A schedule in updates of the weights, for an optimizer that counts the parts of the batches of each update.

    Args:
        schedule: The schedule.
        n_parts: Number of parts of a batch.
    """

    def __init__(self, schedule: keras.optimizers.schedules.LearningRateSchedule, n_parts: int) -> None:
        self.schedule = schedule
        self.n_parts = n_parts

    def __call__(self, step: Any) -> Any:
        return self.schedule(keras.ops.floor_divide(step, self.n_parts))

    def get_config(self) -> dict[str, Any]:
        return {"schedule": keras.saving.serialize_keras_object(self.schedule), "n_parts": self.n_parts}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> RateOfUpdates:
        return cls(keras.saving.deserialize_keras_object(config["schedule"]), config["n_parts"])


def scheduled_learning_rate(config: TrialConfig, phase: Phase, monitored: Sequence[float], *, within: float = 0.5) -> float:
    """Return the learning rate at a point of a phase's next epoch; it equals that of ``build_rate``.

    The cosine schedule spans the planned epochs of the phase, so the learning rates do not depend on early stopping. The
    plateau schedule never reduces the learning rate below a thousandth of the initial one: lower rates have no visible effect.

    Args:
        config: The schedule and its settings.
        phase: The phase of the epoch.
        monitored: The value that ``config.monitor`` names after each epoch of the phase so far; larger is better.
        within: The point: the share of the epoch's gradient steps before it.

    Raises:
        NotImplementedError: The schedule is not implemented.
    """
    done = (len(monitored) + within) / phase.n_epochs
    is_rising = config.reads("warmup") and done < config.warmup
    match config.schedule:
        case "constant" | "cosine" if is_rising:
            return phase.learning_rate * done / config.warmup
        case "constant":
            return phase.learning_rate
        case "cosine":
            return phase.learning_rate * 0.5 * (1 + math.cos(math.pi * (done - config.warmup) / (1 - config.warmup)))
        case "plateau":
            patience = max(1, round(config.plateau_share * config.patience))
            n_plateaus = count_plateaus(monitored, patience=patience)
            return phase.learning_rate * max(_LOWEST_SHARE, config.plateau_factor**n_plateaus)
    raise NotImplementedError(f"No learning rate is implemented for schedule '{config.schedule}'.")


def rates_of_steps(config: TrialConfig, phase: Phase, monitored: Sequence[float], *, n_steps: int) -> np.ndarray:
    """Return the learning rate of each gradient step of a phase's next epoch, float (n_steps,)."""
    return np.array([scheduled_learning_rate(config, phase, monitored, within=step / n_steps) for step in range(n_steps)])


def count_plateaus(values: Sequence[float], *, patience: int) -> int:
    """Count the plateaus: ``patience`` consecutive epochs whose values exceed the best value so far by no more than 0.001.

    The count follows Keras' ``ReduceLROnPlateau`` (``min_delta=0.001, cooldown=0``): the best value is that of the last
    improvement, and counting restarts after each plateau.
    """
    best, n_waited, n_plateaus = -math.inf, 0, 0
    for value in values:
        if value - _LEAST_IMPROVEMENT > best:
            best, n_waited = value, 0
            continue
        n_waited += 1
        if n_waited == patience:
            n_plateaus, n_waited = n_plateaus + 1, 0
    return n_plateaus
