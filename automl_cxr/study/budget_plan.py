"""The plan of a search with a time limit: the number of epochs of a trial, and the expected time of the trials of each family.

It follows from the time of a few training steps, which are measured on this machine before the study is created.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from automl_cxr.architectures import FAMILIES
from automl_cxr.config import TrialConfig
from automl_cxr.engine.parameters import Value
from automl_cxr.engine.space import Space
from automl_cxr.records import SplitRecord
from automl_cxr.study.expected_workers import ExpectedWorkers
from automl_cxr.study.spaces import families_of

SHORTEST_SECONDS = 180.0
"""Time limit below which nothing is measured, because the measurement would take too much of it."""

_FULL_TRIALS, _FULL_TRIALS_WITH_FOLDS = 6, 2  # trials to the last epoch for which the time should suffice
_FEWEST_EPOCHS = 6
_PROBE_SECONDS = 10.0  # of the fits of a probe, after its features are computed
_START_SECONDS = 20.0  # until the first worker process has loaded its libraries
_MOST_FOR_PROBES = 0.5  # share of the time, if a space has networks to train too
_TIMEOUT_SECONDS = 90.0
_THREADS = ("TF_NUM_INTRAOP_THREADS", "OMP_NUM_THREADS")  # as in a worker of the search
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


class StepTimes:
    """A running measurement of the step times of a space, in another process, so that the driver does not load Keras.

    Args:
        space: The space, with its fixed hyperparameters.
        settings: The settings of the study, see ``settings.resolve_settings``.
        n_classes: Number of classes.
        workers: The workers of the search, whose number of threads is used.

    Attributes:
        configs: One configuration of each family, whose time is measured.
        n_probes: Number of probes in the portfolio of the space.
        workers: The workers of the search.
    """

    def __init__(self, space: Space, settings: Mapping[str, Any], *, n_classes: int, workers: ExpectedWorkers) -> None:
        constants = {name: settings[name] for name in ("task", "image_size", "fit", "batch_size")}
        self.configs = {
            family: TrialConfig.from_values({**constants, **space.constants, **point})
            for family, point in _first_points(space).items()
        }
        constant = {"family": TrialConfig().family, **space.constants}
        families = [str({**constant, **point}["family"]) for point in space.portfolio]
        self.n_probes = sum(not FAMILIES[family].has_gradient_steps for family in families)
        self.workers = workers
        self._request = json.dumps({"configs": list(map(dataclasses.asdict, self.configs.values())), "n_classes": n_classes})
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> StepTimes:
        """Start to measure."""
        command = [sys.executable, *_COMMAND, self._request]
        with contextlib.suppress(OSError):
            self._process = subprocess.Popen(  # noqa: S603 - this package, by this interpreter
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                env={**os.environ, **dict.fromkeys(_THREADS, str(self.workers.threads))},
            )
        return self

    def __exit__(self, *_: object) -> None:
        """End the process, if an error has occurred before its result was read."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()

    def seconds_per_image(self) -> dict[str, float] | None:
        """Wait for the result and return the seconds per image of each family; None if they could not be measured."""
        if self._process is None:
            return None
        try:
            output, _ = self._process.communicate(timeout=_TIMEOUT_SECONDS)
            measured: list[float] = json.loads(output)
        except (OSError, subprocess.SubprocessError, ValueError):
            return None
        return dict(zip(self.configs, measured, strict=True))


def plan_budget(times: StepTimes, split: SplitRecord, *, seconds: Callable[[], float], most_epochs: int) -> BudgetPlan | None:
    """Plan a search.

    Args:
        times: The measurement, which is waited for.
        split: The images of the study.
        seconds: Returns the time that is left for the trials after the measurement.
        most_epochs: Largest number of epochs.

    Returns:
        None if the step times could not be measured.
    """
    measured = times.seconds_per_image()
    if measured is None:
        return None
    left = seconds()
    n_networks = split.n_folds or 1
    n_images = len(split.train.images) * (1 - 1 / n_networks if split.n_folds else 1)
    trained = [family for family in measured if FAMILIES[family].has_gradient_steps]
    of_epoch = {family: measured[family] * n_images * n_networks for family in trained}
    n_pooled = len(split.train.images) + len(split.valid.images)
    expected = {
        family: _START_SECONDS + _PROBE_SECONDS + of_image * n_pooled
        for family, of_image in measured.items()
        if family not in trained
    }
    epochs = most_epochs
    if trained:
        of_probes = _START_SECONDS + times.n_probes * max(expected.values(), default=0.0) / times.workers.number
        available = left - min(of_probes, _MOST_FOR_PROBES * left)
        n_trials = _FULL_TRIALS_WITH_FOLDS if split.n_folds else _FULL_TRIALS
        of_worker = math.ceil(n_trials / times.workers.number)
        epochs = choose_epochs(available, min(of_epoch.values()), of_worker, most_epochs)
        expected |= {family: of_epoch[family] * epochs for family in trained}
    sizes = {family: config.image_size for family, config in times.configs.items()}
    return BudgetPlan(epochs, expected, _describe(expected, sizes, trained, epochs, split.n_folds, left))


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
