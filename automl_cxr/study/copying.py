"""Copies a study: its record into a storage, its files into a folder, so that the copy can be continued by itself.

The record is copied first and the folder is moved to its place last: a copy that was killed in the middle stands in the storage
without files, is refused by every command with that reason, and is removed by `automl-cxr studies delete`.

What was running belongs to the original's search. In the copy it waits with the values that it had; a trial that continued
another one has failed there, and its parent can be continued again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import uuid
import warnings
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial

from automl_cxr.errors import StudyError, UsageError
from automl_cxr.optuna_private import enqueued_attrs, enqueued_values, storage_of, study_id_of
from automl_cxr.storage.urls import explained_storage_errors, open_storage
from automl_cxr.study.store import (
    StudyStore,
    check_study_name,
    explained_disk_errors,
    founding,
)

_OF_A_SEARCH = shutil.ignore_patterns("drivers", "propose.*", "*.lock", ".*")
_INTERRUPTED = "It was running, continuing trial {parent}, when the study was copied."


def copy_study(original: StudyStore, name: str, *, runs: Path, storage: str) -> StudyStore:
    """Copy a study; the copy goes on by itself, and neither knows of what the other does from then on.

    Looks at the test part come along, since they were looks at the copy's test part too.

    Args:
        original: What is copied, while a search works on it or not.
        name: Of the copy.
        runs: Folder that gets the copy's folder.
        storage: Optuna storage URL that gets the copy's record; the original's own is fine.

    Raises:
        UsageError: The name is no folder's, or taken.
        StudyError: The storage cannot be opened, or something cannot be written.
    """
    check_study_name(name)
    folder = runs / name
    with founding(name, runs):
        backend = open_storage(storage)
        if name in optuna.study.get_all_study_names(backend) or folder.exists():
            where = "the folder" if folder.exists() else "the storage"
            raise UsageError(f"A copy needs a name that is free; {where} has a '{name}' already. Take another name.")
        trials = original.study.get_trials(deepcopy=False)  # before the files: whatever is finished by now has its files
        study = None
        try:
            with explained_storage_errors(), explained_disk_errors(folder):
                study = _copy_record(original, trials, name, backend)
                _copy_files(original, trials, name, folder)
        except StudyError:
            if study is not None:
                with contextlib.suppress(Exception):
                    optuna.delete_study(study_name=name, storage=backend)
            raise
        return StudyStore.open(name, runs=runs, storage=storage)


def _copy_record(
    original: StudyStore, trials: list[FrozenTrial], name: str, backend: optuna.storages.BaseStorage
) -> optuna.Study:
    source = original.study
    study = optuna.create_study(study_name=name, storage=backend, directions=source.directions)
    if source.metric_names is not None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study.set_metric_names(source.metric_names)
    for key, value in storage_of(source).get_study_system_attrs(study_id_of(source)).items():
        storage_of(study).set_study_system_attr(study_id_of(study), key, value)
    for key, value in source.user_attrs.items():
        study.set_user_attr(key, value)
    study.set_user_attr("copied_from", source.study_name)
    study.add_trials([_without_search(trial) if trial.state is TrialState.RUNNING else trial for trial in trials])
    return study


def _without_search(trial: FrozenTrial) -> FrozenTrial:
    """Give what becomes of a trial that the original's search still runs."""
    parent = trial.user_attrs.get("parent")
    origin = {key: value for key, value in trial.user_attrs.items() if key == "warm_start"}
    if parent is None:
        values = {**enqueued_values(trial), **trial.params}
        return create_trial(state=TrialState.WAITING, system_attrs=enqueued_attrs(values), user_attrs=origin)
    return create_trial(
        state=TrialState.FAIL,
        params=trial.params,
        distributions=trial.distributions,
        user_attrs={**origin, "error": _INTERRUPTED.format(parent=parent)},
    )


def _copy_files(original: StudyStore, trials: list[FrozenTrial], name: str, folder: Path) -> None:
    """Copy everything but what belongs to a search at work, under a hidden name until it is whole."""
    finished = {f"{trial.number:05d}" for trial in trials if trial.state.is_finished()}

    def ignore(where: str, names: list[str]) -> set[str]:
        of_trials = Path(where).name in ("trials", "checkpoints") and Path(where).parent == original.folder
        unfinished = {entry for entry in names if Path(entry).stem not in finished} if of_trials else set()
        return {*_OF_A_SEARCH(where, names), *unfinished}

    staged = folder.with_name(f".{name}.{uuid.uuid4().hex}")
    try:
        shutil.copytree(original.folder, staged, ignore=ignore, copy_function=_copy_if_there)
        spec = dataclasses.replace(original.spec, name=name)
        (staged / "study.json").write_text(spec.to_json(), encoding="utf-8")
        for path in staged.glob("ensembles/*/ensemble.json"):
            ensemble = json.loads(path.read_text(encoding="utf-8"))
            path.write_text(json.dumps({**ensemble, "study": name}, indent=1, ensure_ascii=False), encoding="utf-8")
        os.replace(staged, folder)
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def _copy_if_there(source: str, target: str) -> None:
    with contextlib.suppress(
        FileNotFoundError
    ):  # a search at work drops the models of trials that are no longer among the best
        shutil.copy2(source, target)
