"""Which studies a storage holds, and what is known of one: its settings, its images, its trials, its files."""

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
    """What the storage alone tells of a study.

    Attributes:
        name: Its name.
        space: Name of its search space; "" where another program made the study.
        data: Where its data were; "" likewise.
        objective: What ranks its trials.
        trials: Number of trials by state, for the states that occur.
        best: Best score of a COMPLETE trial; None where there is none, and where several objectives rank.
        best_trial: Number of that trial.
        changed: When a trial last began or ended, in local time; None before the first.
        folder: Where its files lie; None where they are not in the runs folder.
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
    """What one search did for a study.

    Attributes:
        driver: Name of the search, as its trials carry it.
        began: When it began, in local time with its offset.
        command: What was typed; "" from Python.
        sampler: Who proposed.
        trials: Number of trials that it was the last to run.
        last_ended: When the last of them ended, in local time; None before.
        at_work: Whether the search still runs, as far as can be seen from here.
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
    """Everything that is known of a study.

    Attributes:
        summary: What the storage tells.
        spec: Its settings.
        images: Number of images by part: "train", "valid", "test", and "unreadable" ones that were left out.
        grouped: Whether patients are known and kept on one side of the split.
        searches: The searches that worked on it, by their beginning.
        models: Number of trials that have a model on disk.
        ensembles: Names of its ensembles.
        n_bytes: Size of all its files.
        test_opened: How often its test part was looked at.
    """

    summary: StudySummary
    spec: StudySpec
    images: Mapping[str, int]
    grouped: bool
    searches: Sequence[SearchSummary]
    models: int
    ensembles: Sequence[str]
    n_bytes: int
    test_opened: int


def list_studies(*, runs: Path, storage: str) -> list[StudySummary]:
    """Summarise every study of a storage, by name; files are looked for in ``runs`` but not read.

    Raises:
        StudyError: The storage does not exist or cannot be opened.
    """
    backend = open_existing_storage(storage)
    names = sorted(optuna.study.get_all_study_names(backend))
    return [summarise(optuna.load_study(study_name=name, storage=backend), runs / name) for name in names]


def summarise(study: optuna.Study, folder: Path) -> StudySummary:
    """Summarise an Optuna study, of this program or another, whose files should be in ``folder``."""
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
        changed=max((when for trial in trials for when in _moments(trial)), default=None),
        folder=folder if (folder / "study.json").is_file() else None,
    )


def count_states(trials: Sequence[FrozenTrial]) -> dict[str, int]:
    """Count trials by state, in the order of a trial's life."""
    counts = Counter(state_of(trial) for trial in trials)
    return {str(state): counts[state] for state in TrialState if counts[state]}


def _best(study: optuna.Study, trials: Sequence[FrozenTrial]) -> FrozenTrial | None:
    complete = [trial for trial in trials if state_of(trial) is TrialState.COMPLETE]
    if len(study.directions) > 1 or not complete:
        return None
    sign = -1 if study.direction == optuna.study.StudyDirection.MAXIMIZE else 1
    return min(complete, key=lambda trial: sign * trial.values[0])


def _moments(trial: FrozenTrial) -> list[datetime.datetime]:
    return [when for when in (trial.datetime_start, trial.datetime_complete) if when is not None]


def describe_study(store: StudyStore) -> StudyDetails:
    """Collect everything that is known of a study.

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
        searches=_searches(store),
        models=count_models(store.folder),
        ensembles=list_ensembles(store.folder),
        n_bytes=count_bytes(store.folder),
        test_opened=len(store.study.user_attrs.get("test_opened", [])),
    )


def _searches(store: StudyStore) -> list[SearchSummary]:
    alive = DriverMonitor(store.folder).alive()
    trials = store.study.get_trials(deepcopy=False)
    ran = {
        entry.driver: [trial for trial in trials if trial.user_attrs.get("driver") == entry.driver]
        for entry in store.searches()
    }
    return [
        SearchSummary(
            driver=entry.driver,
            began=entry.when,
            command=entry.command,
            sampler=entry.sampler,
            trials=len(ran[entry.driver]),
            last_ended=max((t.datetime_complete for t in ran[entry.driver] if t.datetime_complete is not None), default=None),
            at_work=entry.driver in alive,
        )
        for entry in store.searches()
    ]


def count_models(folder: Path) -> int:
    """Count the trials in a study's folder that have their model."""
    return sum(1 for _ in (folder / "trials").glob("[0-9]*/model.keras"))


def list_ensembles(folder: Path) -> list[str]:
    """Name the ensembles in a study's folder."""
    return sorted(path.name for path in (folder / "ensembles").glob("[!.]*") if path.is_dir())


def count_bytes(folder: Path) -> int:
    """Sum the sizes of the files below a folder, leaving out those that vanish meanwhile."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.lstat().st_size if path.is_file() else 0
        except OSError:
            continue
    return total
