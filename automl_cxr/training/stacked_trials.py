"""Joint training of trials that train only a head. Each trial has the interface of ``run_trial``; frozen layers are shared.

The frozen layers, and each epoch of all heads, are computed when the first trial needs them. Costs, deadlines, checkpoints,
files and errors are separate for each trial.
"""

from __future__ import annotations

import functools
import time
from collections import defaultdict
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path

from automl_cxr.config import TrialConfig
from automl_cxr.data.downscaled import downscaled_images
from automl_cxr.errors import NotCacheableError
from automl_cxr.model.devices import n_devices
from automl_cxr.records import EpochRecord, SplitRecord
from automl_cxr.training.checkpoint import load_checkpoint
from automl_cxr.training.frozen_base import FrozenBase, base_config_of
from automl_cxr.training.stack_grouping import can_be_stacked
from automl_cxr.training.stacked_training import HeadTraining, StackedTrainer
from automl_cxr.training.trial import (
    TrialResult,
    TrialTask,
    finish_trial,
    load_parts,
    observe_training,
    run_trial,
    valid_predictions,
)
from automl_cxr.training.trial_costs import measure_costs
from automl_cxr.training.trial_files import history_rows, log_start

_MAX_BASES = 4  # in the memory of a process

HeadTrial = Generator[EpochRecord, None, TrialResult]


def run_stacked_trials(tasks: Sequence[TrialTask]) -> list[HeadTrial]:
    """Return one generator for each task, in their order; each yields and returns the same values as ``run_trial``.

    When an epoch of one trial is requested, this epoch is trained for all active trials with the same frozen layers that have
    not reached it. Training of a trial ends when its generator is closed. Trials whose features cannot be cached, or whose loss
    or optimizer is not implemented for stacked heads, are run one by one with ``run_trial``.

    Args:
        tasks: Tasks of configurations that train only a head (``TrialConfig.trains_head_only``); image sizes may differ.
    """
    by_base: dict[tuple[object, ...], _TrialsOfBase] = defaultdict(_TrialsOfBase)
    trials = []
    for task in tasks:
        if not can_be_stacked(task.config):
            trials.append(run_trial(task))
            continue
        trials.append(by_base[base_config_of(task.config), task.images, task.split, task.weights_folder].add(task))
    return trials


@dataclass(frozen=True)
class _StartedTrial:
    """The training and the costs of a trial that has started."""

    training: HeadTraining
    costs: dict[str, float]


class _TrialsOfBase:
    """Trials that share frozen layers and images."""

    def __init__(self) -> None:
        self._tasks: list[TrialTask] = []
        self._started: list[_StartedTrial | Exception] | None = None

    def add(self, task: TrialTask) -> HeadTrial:
        self._tasks.append(task)
        return self._run(len(self._tasks) - 1)

    def _run(self, index: int) -> HeadTrial:
        task = self._tasks[index]
        if self._started is None:
            self._start_all()
        started = self._started[index]
        if isinstance(started, NotCacheableError):
            return (yield from run_trial(task))
        if isinstance(started, Exception):
            raise started
        try:
            return (yield from self._train(task, started))
        finally:
            started.training.stop()

    def _start_all(self) -> None:
        """Build the shared layers and start each trial; a failure of one trial does not affect the others."""
        self._start_time = time.monotonic()
        first = self._tasks[0]
        try:
            _refuse_several_devices()
            self._split = SplitRecord.from_json(first.split.read_text(encoding="utf-8"))
            self._base = _cached_base(base_config_of(first.config), first.images, first.split, first.weights_folder)
        except Exception as error:  # noqa: BLE001 - each trial fails with it, as if run separately
            self._started = [error for _ in self._tasks]
            return
        self._started = [self._start(task) for task in self._tasks]
        trainings = [started.training for started in self._started if isinstance(started, _StartedTrial)]
        self._trainer = StackedTrainer(trainings, inputs=self._base.inputs, n_classes=len(self._split.classes))

    def _start(self, task: TrialTask) -> _StartedTrial | Exception:
        try:
            costs = measure_costs(task, len(self._split.classes))
            training = HeadTraining(
                self._base.with_head(task.config),
                task.config,
                objective=task.objective(costs),
                until=task.until,
                deadline=task.deadline(self._start_time),
            )
            if task.resume is not None:
                training.restore(load_checkpoint(task.resume))
            return _StartedTrial(training, costs)
        except Exception as error:  # noqa: BLE001 - raised when the first epoch of this trial is requested
            return error

    def _train(self, task: TrialTask, started: _StartedTrial) -> HeadTrial:
        training, model = started.training, started.training.model
        (task.folder / "config.json").write_text(task.config.to_json(), encoding="utf-8")
        with (task.folder / "train.log").open("w", encoding="utf-8") as log:
            log_start(log, task, model)
            end = yield from observe_training(training, training.epochs(self._trainer), task, log)
            probabilities, message = self._base.predict_valid(model)
            log.write(f"{message}\n")
        start = time.monotonic() - sum(epoch.seconds for epoch in training.history)  # its share of the shared computing time
        return finish_trial(
            task,
            valid_predictions(self._split, probabilities),
            model,
            self._base.valid,
            rows=history_rows(task, training.history),
            history=training.history,
            best_epoch=end.best_epoch,
            cut_short=end.cut_short,
            costs=started.costs,
            started=start,
            save_model=self._base.save,
        )


def _refuse_several_devices() -> None:
    if n_devices() > 1:
        raise NotCacheableError("each batch is divided among devices")


@functools.lru_cache(maxsize=_MAX_BASES)
def _cached_base(config: TrialConfig, images: Path, split_file: Path, weights_folder: Path | None) -> FrozenBase:
    split = SplitRecord.from_json(split_file.read_text(encoding="utf-8"))
    train, valid = load_parts(downscaled_images(images, config.input_size), split)
    return FrozenBase(config, train=train, valid=valid, n_classes=len(split.classes), weights_folder=weights_folder)
