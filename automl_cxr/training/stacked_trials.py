"""Trials of which only the head is trained, together: each by the contract of ``run_trial``, all on one frozen trunk.

What they share, the trunk and an epoch of all heads at once, is computed when the first of them asks for it. In all else they
are apart: each has its costs, its deadline, its checkpoint, its files and its errors.
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
from automl_cxr.errors import UndividedError
from automl_cxr.model.devices import n_devices
from automl_cxr.records import EpochRecord, SplitRecord
from automl_cxr.training.checkpoint import load_checkpoint
from automl_cxr.training.frozen_base import FrozenBase, base_config_of
from automl_cxr.training.stacked_training import HeadTraining, StackedTrainer
from automl_cxr.training.trial import (
    TrainedNetwork,
    TrialResult,
    TrialTask,
    deadline_of,
    finish_trial,
    load_parts,
    log_start,
    measure_costs,
    objective_of,
    observe_training,
    run_trial,
)

_TRUNKS = 4  # kept by a process

HeadTrial = Generator[EpochRecord, None, TrialResult]


def run_stacked_trials(tasks: Sequence[TrialTask]) -> list[HeadTrial]:
    """Train heads, a generator each, in the order of their tasks; each yields and returns what ``run_trial`` does.

    The first that is asked for an epoch trains it for all that share its trunk, are at work and have not come that far. One
    that is closed is trained no further. Those whose features cannot be kept are trained by ``run_trial``, one by one.

    Args:
        tasks: Of configurations that train nothing but a head (``TrialConfig.trains_head_only``), each at its own image size.
    """
    companions: dict[tuple[object, ...], _StackPartners] = defaultdict(_StackPartners)
    trials = []
    for task in tasks:
        shared = companions[base_config_of(task.config), task.images, task.split, task.weights_folder]
        trials.append(shared.enrol(task))
    return trials


@dataclass(frozen=True)
class _StartedTrial:
    """What a trial needs to train and to end."""

    training: HeadTraining
    costs: dict[str, float]


class _StackPartners:
    """Trials of one trunk."""

    def __init__(self) -> None:
        self._tasks: list[TrialTask] = []
        self._begun: list[_StartedTrial | Exception] | None = None

    def enrol(self, task: TrialTask) -> HeadTrial:
        self._tasks.append(task)
        return self._run(len(self._tasks) - 1)

    def _run(self, place: int) -> HeadTrial:
        task = self._tasks[place]
        if self._begun is None:
            self._begin()
        begun = self._begun[place]
        if isinstance(begun, UndividedError):
            return (yield from run_trial(task))
        if isinstance(begun, Exception):
            raise begun
        try:
            return (yield from self._train(task, begun))
        finally:
            begun.training.leave()

    def _begin(self) -> None:
        """Build what all share, and begin each trial, which may fail at once."""
        self._started = time.monotonic()
        first = self._tasks[0]
        try:
            _refuse_several_devices()
            self._split = SplitRecord.from_json(first.split.read_text(encoding="utf-8"))
            self._scratch_branch = _cached_base(base_config_of(first.config), first.images, first.split, first.weights_folder)
        except Exception as error:  # noqa: BLE001 - each of them dies of it, as it would alone
            self._begun = [error for _ in self._tasks]
            return
        self._begun = [self._begin_one(task) for task in self._tasks]
        trainings = [begun.training for begun in self._begun if isinstance(begun, _StartedTrial)]
        self._population = StackedTrainer(trainings, road=self._scratch_branch.road, n_classes=len(self._split.classes))

    def _begin_one(self, task: TrialTask) -> _StartedTrial | Exception:
        try:
            costs = measure_costs(task, len(self._split.classes))
            training = HeadTraining(
                self._scratch_branch.with_head(task.config),
                task.config,
                objective=objective_of(task, costs),
                until=task.until,
                deadline=deadline_of(task, self._started),
            )
            if task.resume is not None:
                training.restore(load_checkpoint(task.resume))
            return _StartedTrial(training, costs)
        except Exception as error:  # noqa: BLE001 - which is what this one dies of, when it is asked
            return error

    def _train(self, task: TrialTask, begun: _StartedTrial) -> HeadTrial:
        training, model = begun.training, begun.training.model
        (task.folder / "config.json").write_text(task.config.to_json(), encoding="utf-8")
        with (task.folder / "train.log").open("w", encoding="utf-8") as log:
            log_start(log, task, model)
            end = yield from observe_training(training, training.epochs(self._population), task, log)
            probabilities, note = self._scratch_branch.predict_valid(model)
            log.write(f"{note}\n")
        trained = TrainedNetwork(model=model, probabilities=probabilities, history=training.history, end=end)
        own_start = time.monotonic() - sum(epoch.seconds for epoch in training.history)  # its share of what all took
        return finish_trial(
            task,
            self._split,
            self._scratch_branch.valid,
            trained,
            costs=begun.costs,
            started=own_start,
            save_model=self._scratch_branch.save,
        )


def _refuse_several_devices() -> None:
    if n_devices() > 1:
        raise UndividedError("each batch is divided among devices")


@functools.lru_cache(maxsize=_TRUNKS)
def _cached_base(config: TrialConfig, images: Path, split_file: Path, weights_folder: Path | None) -> FrozenBase:
    split = SplitRecord.from_json(split_file.read_text(encoding="utf-8"))
    train, valid = load_parts(downscaled_images(images, config.image_size), split)
    return FrozenBase(config, train=train, valid=valid, n_classes=len(split.classes), weights_folder=weights_folder)
