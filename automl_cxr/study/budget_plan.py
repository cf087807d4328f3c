"""The plan of a search with a time limit: the number of epochs of a trial, and the expected time of the trials of each family.

It follows from the time of a few training steps, which are measured on this machine before the study is created.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from automl_cxr.architectures import FAMILIES
from automl_cxr.config import TrialConfig
from automl_cxr.engine.space import Space, Value
from automl_cxr.records import SplitRecord
from automl_cxr.study.spaces import families_of

SHORTEST_SECONDS = 180.0
"""Time limit below which nothing is measured, because the measurement would take too much of it."""

_FULL_TRIALS, _FULL_TRIALS_WITH_FOLDS = 6, 2  # trials to the last epoch for which the time should suffice
_FEWEST_EPOCHS = 6
_PROBE_SECONDS = 10.0  # of the fits of a probe, after its features are computed
_START_SECONDS = 20.0  # until the first worker process has loaded its libraries
_SHARE_FOR_TRAINING = 0.5  # of the time, if a space has probes and networks to train
_TIMEOUT_SECONDS = 90.0
_COMMAND = ("-m", "automl_cxr.training.step_times")


@dataclass(frozen=True)
class BudgetPlan:
    """The plan of a search.

    Attributes:
        epochs: Number of epochs of a trial.
        seconds: Expected seconds of a trial of each family.
        description: The plan in one sentence, for the user.
    """

    epochs: int
    seconds: Mapping[str, float]
    description: str


def plan_budget(
    space: Space, settings: Mapping[str, Any], split: SplitRecord, *, seconds: float, most_epochs: int
) -> BudgetPlan | None:
    """Plan a search.

    Args:
        space: The space, with its fixed hyperparameters.
        settings: The settings of the study, see ``settings.resolve_settings``.
        split: The images of the study.
        seconds: Time that is left for the trials.
        most_epochs: Largest number of epochs.

    Returns:
        None if the step times could not be measured.
    """
    points = _first_points(space)
    constants = {name: settings[name] for name in ("image_size", "fit", "batch_size")}
    configs = [TrialConfig.from_values({**constants, **space.constants, **point}) for point in points.values()]
    measured = _measure(configs, len(split.classes))
    if measured is None:
        return None
    n_networks = split.n_folds or 1
    n_images = len(split.train.images) * (1 - 1 / n_networks if split.n_folds else 1)
    of_epoch = {family: each * n_images * n_networks for family, each in zip(points, measured, strict=True)}
    trained = [family for family in points if FAMILIES[family].has_gradient_steps]
    expected = {
        family: _START_SECONDS + _PROBE_SECONDS + each * (len(split.train.images) + len(split.valid.images))
        for family, each in zip(points, measured, strict=True)
        if family not in trained
    }
    epochs = most_epochs
    if trained:
        available = (seconds - _START_SECONDS) * (_SHARE_FOR_TRAINING if expected else 1.0)
        n_trials = _FULL_TRIALS_WITH_FOLDS if split.n_folds else _FULL_TRIALS
        epochs = choose_epochs(available, min(of_epoch[family] for family in trained), n_trials, most_epochs)
        expected |= {family: of_epoch[family] * epochs for family in trained}
    sizes = {family: config.image_size for family, config in zip(points, configs, strict=True)}
    return BudgetPlan(epochs, expected, _describe(expected, sizes, trained, epochs, split.n_folds, seconds))


def _first_points(space: Space) -> dict[str, Mapping[str, Value]]:
    """Return one point of each family: the first one of the portfolio, or the preset."""
    constant = str(space.constants.get("family", TrialConfig().family))
    points = [*space.portfolio, *([] if (preset := space.preset()) is None else [preset])]
    found: dict[str, Mapping[str, Value]] = {}
    for point in points:
        found.setdefault(str(point.get("family", constant)), point)
    return {family: found[family] for family in families_of(space) if family in found}


def choose_epochs(seconds: float, seconds_of_epoch: float, n_trials: int, most: int) -> int:
    """Return the number of epochs for which several trials fit in the time, or at least one with the fewest useful epochs."""
    for several in range(n_trials, 0, -1):
        epochs = int(seconds / (several * seconds_of_epoch))
        if epochs >= min(_FEWEST_EPOCHS, most):
            return min(epochs, most)
    return min(_FEWEST_EPOCHS, most)


def _measure(configs: Sequence[TrialConfig], n_classes: int) -> list[float] | None:
    """Measure the seconds per image in another process, so that the driver does not load Keras."""
    request = {"configs": [dataclasses.asdict(config) for config in configs], "n_classes": n_classes}
    command = [sys.executable, *_COMMAND]
    try:
        done = subprocess.run(  # noqa: S603 - this package, by this interpreter
            command, input=json.dumps(request), capture_output=True, text=True, timeout=_TIMEOUT_SECONDS, check=True
        )
        measured: list[float] = json.loads(done.stdout)
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
    return measured


def _describe(
    expected: Mapping[str, float],
    sizes: Mapping[str, int],
    trained: Sequence[str],
    epochs: int,
    n_folds: int,
    seconds: float,
) -> str:
    folds = f" in {n_folds} folds" if n_folds else ""
    parts = [
        f"{family} at {sizes[family]} pixels, "
        + (f"{epochs} epochs{folds}, " if family in trained else "")
        + f"about {_minutes(expected[family])} per trial"
        + (" (more than the time limit, not started)" if expected[family] > seconds else "")
        for family in expected
    ]
    return f"Plan for {_minutes(seconds)}, from step times measured on this machine: {'; '.join(parts)}."


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
