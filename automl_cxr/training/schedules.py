"""The phases of training, and the learning rate of each epoch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from automl_cxr.config import TrialConfig

_LEAST_IMPROVEMENT = 0.001
_LOWEST_SHARE = 1e-3


@dataclass(frozen=True, kw_only=True)
class Phase:
    """Consecutive epochs with the same optimizer and the same trainable layers.

    Attributes:
        n_epochs: Maximum number of epochs.
        learning_rate: Initial learning rate.
        frozen: Whether the backbones are frozen.
    """

    n_epochs: int
    learning_rate: float
    frozen: bool


def plan_phases(config: TrialConfig) -> tuple[Phase, ...]:
    """Return the phases: first the epochs with frozen backbones, if any, then the others at ``fine_tune_rate``."""
    n_frozen = config.frozen_epochs
    phases = (
        Phase(n_epochs=n_frozen, learning_rate=config.learning_rate, frozen=True),
        Phase(
            n_epochs=config.epochs - n_frozen,
            learning_rate=config.fine_tune_rate if n_frozen > 0 else config.learning_rate,
            frozen=False,
        ),
    )
    return tuple(phase for phase in phases if phase.n_epochs > 0)


def scheduled_learning_rate(config: TrialConfig, phase: Phase, monitored: Sequence[float]) -> float:
    """Return the learning rate of a phase's next epoch.

    The cosine schedule spans the planned epochs of the phase, so the learning rates do not depend on early stopping. The
    plateau schedule never reduces the learning rate below a thousandth of the initial one: lower rates have no visible effect.

    Args:
        config: The schedule and its settings.
        phase: The phase of the epoch.
        monitored: The value that ``config.monitor`` names after each epoch of the phase so far; larger is better.

    Raises:
        NotImplementedError: The schedule is not implemented.
    """
    match config.schedule:
        case "constant":
            return phase.learning_rate
        case "cosine":
            return phase.learning_rate * 0.5 * (1 + math.cos(math.pi * len(monitored) / phase.n_epochs))
        case "plateau":
            patience = max(1, round(config.plateau_share * config.patience))
            n_plateaus = count_plateaus(monitored, patience=patience)
            return phase.learning_rate * max(_LOWEST_SHARE, config.plateau_factor**n_plateaus)
    raise NotImplementedError(f"No learning rate is implemented for schedule '{config.schedule}'.")


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
