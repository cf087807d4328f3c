"""When a trial trains what, and at which learning rate: its phases, and the rate of each of their epochs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from automl_cxr.config import TrialConfig

_LEAST_IMPROVEMENT = 0.001
_LOWEST_SHARE = 1e-3


@dataclass(frozen=True, kw_only=True)
class Phase:
    """A stretch of epochs with one optimizer and one choice of trained layers.

    Attributes:
        n_epochs: Epochs at most.
        learning_rate: Step size at its start.
        frozen: Whether the backbones stand still.
    """

    n_epochs: int
    learning_rate: float
    frozen: bool


def plan_phases(config: TrialConfig) -> tuple[Phase, ...]:
    """Split the epochs: the backbones' frozen ones first, then those at ``fine_tune_rate``; one phase where none are frozen."""
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


def scheduled_learning_rate(config: TrialConfig, phase: Phase, figures: Sequence[float]) -> float:
    """Give the learning rate of a phase's next epoch.

    The cosine's length is that of the phase as planned, so a trial that is stopped early saw the same rates as one that is
    not. A plateau never takes the rate below a thousandth of the start, where training stands still all the same.

    Args:
        config: The schedule and its settings.
        phase: Where the epoch belongs.
        figures: What ``config.monitor`` names after each epoch of the phase so far, larger for better.
    """
    if config.schedule == "constant":
        return phase.learning_rate
    if config.schedule == "cosine":
        return phase.learning_rate * 0.5 * (1 + math.cos(math.pi * len(figures) / phase.n_epochs))
    patience = max(1, round(config.plateau_share * config.patience))
    return phase.learning_rate * max(_LOWEST_SHARE, config.plateau_factor ** count_plateaus(figures, patience=patience))


def count_plateaus(figures: Sequence[float], *, patience: int) -> int:
    """Count the runs of ``patience`` epochs that did not beat the best figure before them by more than 0.001.

    As Keras' ``ReduceLROnPlateau`` (``min_delta=0.001, cooldown=0``) counts them: the best figure is that of the last
    improvement, and counting begins again after each plateau.
    """
    best, n_waited, n_plateaus = -math.inf, 0, 0
    for figure in figures:
        if figure - _LEAST_IMPROVEMENT > best:
            best, n_waited = figure, 0
            continue
        n_waited += 1
        if n_waited == patience:
            n_plateaus, n_waited = n_plateaus + 1, 0
    return n_plateaus
