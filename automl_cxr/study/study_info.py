"""Lists of the studies in a storage, and details of one study: settings, images, trials, searches and files."""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial

from automl_cxr.records import TrialState
from automl_cxr.storage.urls import open_existing_storage
from automl_cxr.study.heartbeat import DriverMonitor
from automl_cxr.study.spec import StudySpec
from automl_cxr.study.store import StudyStore
from automl_cxr.study.trial_records import state_of


@dataclass(frozen=True, kw_only=True)
class StudySummary:
    """The summary of a study, read only from its storage.

    Attributes:
        name: Name of the study.
        space: Name of its search space; "" if another program created the study.
        data: Path of its data; "" if another program created the study.
        objective: Names of its objectives.
        trials: Number of trials by state, for the states that occur.
        best: Best score of a COMPLETE trial; None without such a trial or with several objectives.
        best_trial: Number of that trial.
        changed: Local time at which a trial last started or ended; None without trials.
        folder: Folder of its files; None if they are not in the runs folder.
    """

    name: str
    space: str
    data: str
    objective: str
    trials: Mapping[str, int]
    best: float | None
    best_trial: int | None
    changed: datetime.datetime | None
    folder: Path | None


@dataclass(frozen=True, kw_only=True)
class SearchSummary:
    """The summary of one search on a study.

    Attributes:
        driver: Name of the driver, which is also recorded on its trials.
        began: Local start time with its UTC offset.
        command: Command line; "" if the search was started from Python.
        sampler: Name of the sampler.
        trials: Number of trials whose last attempt this driver ran.
        last_ended: Local time at which the last of them ended; None if none has ended.
        at_work: Whether the search may be running: its driver is not known to be dead.
    """

    driver: str
    began: str
    command: str
    sampler: str
    trials: int
    last_ended: datetime.datetime | None
    at_work: bool


@dataclass(frozen=True, kw_only=True)
class StudyDetails:
    """The details of a study.

    Attributes:
        summary: Its summary.
        spec: Its specification.
        images: Number of images by part: "train", "valid", "test", and "unreadable" for those that were omitted.
        grouped: Whether patients are known, so that all images of a patient are in the same part of the split.
        n_without_patient: Number of images of the data that have no patient although others have one.
        searches: Its searches, by start time.
        models: Number of trials that have a model on disk.
        ensembles: Names of its ensembles.
        n_bytes: Size of all its files in bytes.
        test_opened: Number of evaluations on its test part.
    """

    summary: StudySummary
    spec: StudySpec
    images: Mapping[str, int]
    grouped: bool
    n_without_patient: int
    searches: Sequence[SearchSummary]
    models: int
    ensembles: Sequence[str]
    n_bytes: int
    test_opened: int


def list_studies(*, runs: Path, storage: str) -> list[StudySummary]:
    """Return the summary of every study in a storage, by name. Files are located in ``runs`` but not read.

    Raises:
        StudyError: The storage does not exist or cannot be opened.
    """
    backend = open_existing_storage(storage)
    names = sorted(optuna.study.get_all_study_names(backend))
    return [summarise(optuna.load_study(study_name=name, storage=backend), runs / name) for name in names]


def summarise(study: optuna.Study, folder: Path) -> StudySummary:
    """Return the summary of an Optuna study, created by this or another program, whose files are expected in ``folder``."""
    trials, attrs = study.get_trials(deepcopy=False), study.user_attrs
    best = _best(study, trials)
    return StudySummary(
        name=study.study_name,
        space=str(attrs.get("space_name", "")),
        data=str(attrs.get("data", "")),
        objective=", ".join(study.metric_names or ["value"] * len(study.directions)),
        trials=count_states(trials),
        best=None if best is None else best.value,
        best_trial=None if best is None else best.number,
        changed=max((time for trial in trials for time in _start_and_end(trial)), default=None),
        folder=folder if (folder / "study.json").is_file() else None,
    )


def count_states(trials: Sequence[FrozenTrial]) -> dict[str, int]:
    """Count trials by state, in the order of ``TrialState``."""
    counts = Counter(state_of(trial) for trial in trials)
    return {str(state): counts[state] for state in TrialState if counts[state]}


def _best(study: optuna.Study, trials: Sequence[FrozenTrial]) -> FrozenTrial | None:
    complete = [trial for trial in trials if state_of(trial) is TrialState.COMPLETE]
    if len(study.directions) > 1 or not complete:
        return None
    sign = -1 if study.direction == optuna.study.StudyDirection.MAXIMIZE else 1
    return min(complete, key=lambda trial: sign * trial.values[0])


def _start_and_end(trial: FrozenTrial) -> list[datetime.datetime]:
    return [time for time in (trial.datetime_start, trial.datetime_complete) if time is not None]


def describe_study(store: StudyStore) -> StudyDetails:
    """Return the details of a study.

    Raises:
        StudyError: One of its files is damaged.
    """
    split = store.split
    images = {"train": len(split.train.images), "valid": len(split.valid.images), "test": len(split.test)}
    if split.unreadable:
        images["unreadable"] = len(split.unreadable)
    return StudyDetails(
        summary=summarise(store.study, store.folder),
        spec=store.spec,
        images=images,
        grouped=split.grouped,
        n_without_patient=split.n_without_patient,
        searches=_searches(store),
        models=count_models(store.folder),
        ensembles=list_ensembles(store.folder),
        n_bytes=count_bytes(store.folder),
        test_opened=len(store.test_opened()),
    )


def _searches(store: StudyStore) -> list[SearchSummary]:
    alive = DriverMonitor(store.folder).alive()
    trials = store.study.get_trials(deepcopy=False)
    trials_of = {
        entry.driver: [trial for trial in trials if trial.user_attrs.get("driver") == entry.driver]
        for entry in store.searches()
    }
    return [
        SearchSummary(
            driver=entry.driver,
            began=entry.when,
            command=entry.command,
            sampler=entry.sampler,
            trials=len(trials_of[entry.driver]),
            last_ended=max(
                (t.datetime_complete for t in trials_of[entry.driver] if t.datetime_complete is not None), default=None
            ),
            at_work=entry.driver in alive,
        )
        for entry in store.searches()
    ]


def count_models(folder: Path) -> int:
    """Count the trials in a study's folder that have a model."""
    return sum(1 for _ in (folder / "trials").glob("[0-9]*/model.keras"))


def list_ensembles(folder: Path) -> list[str]:
    """Return the names of the ensembles in a study's folder."""
    return sorted(path.name for path in (folder / "ensembles").glob("[!.]*") if path.is_dir())


def count_bytes(folder: Path) -> int:
    """Return the total size of the files below a folder in bytes. Files that are deleted meanwhile are skipped."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.lstat().st_size if path.is_file() else 0
        except OSError:
            continue
    return total
