"""Searching, and searching on."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from automl_cxr.api.locations import locate
from automl_cxr.api.study import Study
from automl_cxr.engine.registry import ENDING_SAMPLERS, default_batch_trials
from automl_cxr.errors import UnknownNameError, UsageError
from automl_cxr.study.prepare import OnProgress, PreparedStudy, StudyRequest, prepare_study
from automl_cxr.study.progress import SearchProgress
from automl_cxr.study.runner import Budget, Execute, run_search

if TYPE_CHECKING:
    from automl_cxr.engine.ray_execution import RayResources

EXECUTORS = ("ray", "inline")
_TRIALS_BY_DEFAULT = 20
MODELS_BY_DEFAULT = 10


def search(
    space: str | None = None,
    data: str | os.PathLike[str] | None = None,
    *,
    name: str | None = None,
    trials: int | None = None,
    seconds: float | None = None,
    total_epochs: int | None = None,
    target: float | None = None,
    trial_seconds: float | None = None,
    disk_budget: int | None = None,
    layout: str | None = None,
    classes: Sequence[str] | None = None,
    patients: str | None = None,
    fixed: Mapping[str, Any] | None = None,
    weights_folder: str | Path | None = None,
    image_size: int | None = None,
    fit: str | None = None,
    batch_size: int | None = None,
    epochs: int | None = None,
    objective: str | Sequence[str] | None = None,
    require: str | Sequence[str] | None = None,
    normal_class: str | None = None,
    sampler: str | None = None,
    pruner: str | None = None,
    valid_fraction: float | None = None,
    test_fraction: float | None = None,
    folds: int | None = None,
    seed: int | None = None,
    fidelity: str | None = None,
    warm_start: str | None = None,
    warm_start_top: int | None = None,
    keep_models: int = MODELS_BY_DEFAULT,
    executor: str = "ray",
    resources: RayResources | None = None,
    batch_trials: int | None = None,
    runs: str | Path | None = None,
    storage: str | None = None,
    command: str = "",
    stream: TextIO | None = None,
    decoding: AbstractContextManager[OnProgress] | None = None,
) -> Study:
    """Begin a study or continue one of the same name until its budget ends.

    Settings left at None are the study's own when it is continued, and defaults when it is new.

    Args:
        space: Name of a shipped search space, or path of a TOML file.
        data: Folder or table of images; None searches on phantom radiographs and says so.
        name: Name of the study; by default made of the space and the data folder.
        trials: Trials in total, those of earlier searches included; 20 where nothing else ends the search (neither time,
            epochs, a target, nor the sampler itself).
        seconds: Wall seconds of this search.
        total_epochs: Epochs of all trials together, after which no further trial begins.
        target: Score of the objective that is good enough: the search ends when a trial reaches it.
        trial_seconds: Wall seconds that a trial may take. One that takes longer is stopped there.
        disk_budget: Bytes of models and checkpoints; beyond them models are removed, the worst first.
        layout: Name of the data's layout; found by itself when None.
        classes: Classes to use, in the order of their indices.
        patients: Regular expression that finds the patient in a file name.
        fixed: Hyperparameters set by hand, whatever the space says of them.
        weights_folder: Folder that pretrained weights are looked for in first.
        image_size: Height and width in pixels.
        fit: How an image meets its square: "stretch", "pad" or "crop".
        batch_size: Images a gradient step.
        epochs: Passes over the training images at most, a trial.
        objective: Metric that ranks trials; or several metrics and costs (parameters, multiply_adds, weight_bytes, latency), of
            which the first, a metric, ranks where one ranking is needed.
        require: Bounds that a trial must keep, such as "parameters<=10e6" or "fnfr<=0.05".
        normal_class: Class without a finding, for the False No-Finding Rate and sensitivities.
        sampler: Who proposes.
        pruner: Who stops trials early.
        valid_fraction: Share of the images that chooses epochs and trials.
        test_fraction: Share of the images that stays sealed.
        folds: Folds that each trial trains a network for each, judged by the images that it did not learn from; None or 0
            for one network and one validation part.
        seed: Decides split, proposals and weights.
        fidelity: "image_size" lets the rungs of kt-hyperband raise the resolution together with the epochs; see
            ``study.fidelity``.
        warm_start: An earlier study of the same storage, whose best configurations are tried first and whose scores teach
            the sampler where they compare; see ``study.warm_start``.
        warm_start_top: How many of its best; 5 if left out.
        keep_models: Number of best trials that keep their model on disk.
        executor: "ray", or "inline" for this process.
        resources: What Ray may use.
        batch_trials: Trials at most that run as one where they are cheap enough; 1 runs each alone. By default as many as leave
            the sampler something to learn, see ``engine.proposers.default_batch_trials``.
        runs: Folder of all studies; see ``locate``.
        storage: Optuna storage URL; see ``locate``.
        command: What was typed, for the record.
        stream: Where progress is written; by default stderr.
        decoding: A context whose value is told how far decoding has come.

    Raises:
        UsageError: An impossible setting, or another one than the study was begun with.
        DataError: The data cannot serve.
        StudyError: Every trial failed, or the record cannot be written.
    """
    if executor not in EXECUTORS:
        raise UnknownNameError("executor", executor, EXECUTORS)
    limits = {
        "trials": trials,
        "seconds": seconds,
        "total_epochs": total_epochs,
        "trial_seconds": trial_seconds,
        "disk_budget": disk_budget,
        "keep_models": keep_models,
        "batch_trials": batch_trials,
    }
    for what, value in limits.items():
        if value is not None and not value > 0:
            raise UsageError(f"{what} must be above 0; received {value}.")
    folder, url = locate(runs, storage)
    request = StudyRequest(
        space=space,
        data=None if data is None else os.fspath(data),
        name=name,
        layout=layout,
        classes=classes,
        patients=patients,
        fixed=fixed,
        weights_folder=None if weights_folder is None else os.fspath(weights_folder),
        image_size=image_size,
        fit=fit,
        batch_size=batch_size,
        epochs=epochs,
        objectives=_as_names(objective),
        requirements=_as_names(require),
        normal_class=normal_class,
        sampler=sampler,
        pruner=pruner,
        valid_fraction=valid_fraction,
        test_fraction=test_fraction,
        folds=folds,
        seed=seed,
        fidelity=fidelity,
        warm_start=warm_start,
        warm_start_top=warm_start_top,
        command=command,
    )
    prepared = _prepare(request, folder, url, decoding)
    sampler = sampler or prepared.store.spec.sampler
    is_open = {trials, seconds, total_epochs, target} == {None} and sampler not in ENDING_SAMPLERS
    budget = Budget(
        n_trials=_TRIALS_BY_DEFAULT if is_open else trials,
        seconds=seconds,
        keep_models=keep_models,
        n_epochs=total_epochs,
        target=target,
        disk_bytes=disk_budget,
    )
    execute = choose_executor(
        executor, resources, trial_seconds, batch_trials or default_batch_trials(sampler, n_trials=budget.n_trials)
    )
    run_prepared(prepared, budget, execute, sampler=sampler, command=command, stream=stream)
    return Study(prepared.store)


def run_prepared(
    prepared: PreparedStudy,
    budget: Budget,
    execute: Execute,
    *,
    sampler: str | None = None,
    command: str,
    stream: TextIO | None,
) -> None:
    """Search a study and show how far it is; the sampler is by default the study's."""
    with SearchProgress(prepared.store, budget, stream=stream) as progress:
        progress.print_study(prepared)
        run_search(
            prepared.store,
            prepared.images,
            weights_folder=prepared.weights_folder,
            sampler=sampler or prepared.store.spec.sampler,
            budget=budget,
            execute=execute,
            listener=progress,
            command=command,
        )


def _as_names(said: str | Sequence[str] | None) -> Sequence[str] | None:
    """Take one name for a list of one, and an empty list for nothing said."""
    return [said] if isinstance(said, str) else said or None


def _prepare(
    request: StudyRequest, runs: Path, storage: str, decoding: AbstractContextManager[OnProgress] | None
) -> PreparedStudy:
    if decoding is None:
        return prepare_study(request, runs=runs, storage=storage)
    with decoding as on_progress:
        return prepare_study(request, runs=runs, storage=storage, on_progress=on_progress)


def choose_executor(name: str, resources: RayResources | None, seconds_per_trial: float | None, batch_trials: int) -> Execute:
    """Give what runs trials, by its name in ``EXECUTORS``."""
    if name == "inline":
        from automl_cxr.engine.inline_execution import run_inline

        return partial(run_inline, seconds_per_trial=seconds_per_trial, batch_trials=batch_trials)
    from automl_cxr.engine.ray_execution import RayResources, run_with_ray  # three seconds to load

    return partial(
        run_with_ray, resources=resources or RayResources(), seconds_per_trial=seconds_per_trial, batch_trials=batch_trials
    )
