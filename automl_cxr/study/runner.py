"""The search of a study: an executor runs the trials of a proposer, and results are stored in the study."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path

from automl_cxr.config import TrialConfig
from automl_cxr.data.image_rows import kept_in_cache
from automl_cxr.engine.base_proposer import StudyProposer
from automl_cxr.engine.parameters import Value
from automl_cxr.engine.protocol import Objective, Proposer
from automl_cxr.engine.registry import build_proposer
from automl_cxr.scoring.objectives import Requirement
from automl_cxr.storage.passwords import command_without_passwords
from automl_cxr.storage.urls import explained_storage_errors
from automl_cxr.study.budget import Budget, BudgetCheck
from automl_cxr.study.heartbeat import DriverHeartbeat, HeartbeatSettings
from automl_cxr.study.listener import Listener
from automl_cxr.study.model_retention import ModelRetention
from automl_cxr.study.objective import TrialObjective, trial_seed
from automl_cxr.study.provenance import SearchEntry
from automl_cxr.study.recorded_proposer import RecordedProposer
from automl_cxr.study.spec import StudySpec
from automl_cxr.study.store import StudyStore
from automl_cxr.study.trial_times import TrialTimes
from automl_cxr.study.warm_start import read_warm_start_points

Execute = Callable[[Objective, Proposer], None]
"""``run_inline``, or ``run_with_ray`` with its resources as bound arguments."""


def run_search(
    store: StudyStore,
    images: Path,
    *,
    weights_folder: Path | None,
    sampler: str,
    budget: Budget,
    execute: Execute,
    listener: Listener,
    command: str = "",
    heartbeat_settings: HeartbeatSettings | None = None,
    deadline: float | None = None,
    planned_seconds: Mapping[str, float] | None = None,
) -> None:
    """Run trials until the budget is spent. Abandoned trials of dead drivers are run first.

    Args:
        store: The study.
        images: File of the decoded training and validation images.
        weights_folder: Folder that is searched first for pretrained weights, or None.
        sampler: Name of the sampler.
        budget: Limits of the search.
        execute: Runs the trials.
        listener: Receives the events of the search.
        command: Command line of the search, for the record.
        heartbeat_settings: Interval and time-out of heartbeats.
        deadline: ``time.monotonic()`` at which the trials should have ended. [default: after the wall time of the budget]
        planned_seconds: Expected seconds of a trial of each family, for families without a finished trial.

    Raises:
        StudyError: All trials failed or were refused (the message contains the last reason), or the storage failed.
    """
    spec = store.spec
    store = store.for_driver(on_away=listener.on_storage_away)
    check = BudgetCheck(budget, store, deadline=deadline, times=TrialTimes(store, planned_seconds))
    with kept_in_cache(images), DriverHeartbeat(store.folder, settings=heartbeat_settings) as heartbeat:
        store.clear_leftovers(heartbeat.monitor)
        store.checkpoints.mkdir(exist_ok=True)
        objective = _build_objective(store, spec, images=images, weights_folder=weights_folder, driver=heartbeat.driver)
        proposer = _build_proposer(store, spec, sampler=sampler, driver=heartbeat.driver, fits=check.fits)
        store.record_search(
            SearchEntry.begin(
                heartbeat.driver,
                position=len(store.searches()),
                command=command_without_passwords(command),
                sampler=sampler,
                budget=dataclasses.asdict(budget),
                full_trials=proposer.n_planned_full_trials,
            )
        )
        retention = ModelRetention(store, budget.keep_models, budget.disk_bytes)
        recorded = RecordedProposer(store, proposer, budget=check, retention=retention, heartbeat=heartbeat, listener=listener)
        with explained_storage_errors():
            execute(objective, recorded)
        retention.remove_other_models()
        recorded.raise_if_all_failed()
        recorded.raise_if_all_refused()


def _build_objective(
    store: StudyStore, spec: StudySpec, *, images: Path, weights_folder: Path | None, driver: str
) -> TrialObjective:
    return TrialObjective(
        fixed=spec.constants,
        study_seed=spec.seed,
        images=images,
        weights_folder=weights_folder,
        split=store.folder / "split.json",
        trials=store.folder / "trials",
        checkpoints=store.checkpoints,
        driver=driver,
        objectives=spec.objectives,
        requirements=tuple(Requirement.parse(text) for text in spec.requirements),
        normal_class=spec.normal_index,
        folds=spec.folds,
        fidelity=spec.fidelity,
        classes=spec.classes,
    )


def _build_proposer(
    store: StudyStore, spec: StudySpec, *, sampler: str, driver: str, fits: Callable[[Mapping[str, Value]], bool]
) -> StudyProposer:
    constants = spec.constants
    return build_proposer(
        store.study,
        spec.space,
        sampler=sampler,
        pruner=spec.pruner,
        epochs=spec.epochs,
        folds=spec.folds,
        seed=spec.seed,
        priors=read_warm_start_points(store),
        sign=lambda number: {"driver": driver, "seed": trial_seed(spec.seed, number)},
        fits=fits,
        effective=lambda point: TrialConfig.from_values({**constants, **point}).effective(point),
    )
