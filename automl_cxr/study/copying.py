"""Copies of a study: the record is copied to a storage and the files to a folder. The copy can be continued independently.

The record is copied first, and the folder is renamed to its final name last. Therefore an interrupted copy is a study without
files: every command reports it, and `automl-cxr studies delete` removes it.

Running trials belong to the original's search. In the copy they are WAITING with the same values. A running trial that
continues another trial is FAILED in the copy, and its parent can be continued again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
import warnings
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial

from automl_cxr.errors import StudyError, UsageError
from automl_cxr.io import atomic_folder
from automl_cxr.optuna_private import enqueued_attrs, enqueued_values, storage_of, study_id_of
from automl_cxr.storage.urls import explained_storage_errors, open_storage
from automl_cxr.study.store import (
    StudyStore,
    creation_lock,
    explained_disk_errors,
)
from automl_cxr.study.study_folder import check_folder_name
from automl_cxr.text_records import parse_json

_FILES_OF_DRIVERS = shutil.ignore_patterns("drivers", "propose.*", "*.lock", ".*")
_INTERRUPTED = "When the study was copied, this trial was running as a continuation of trial {parent}."


def copy_study(original: StudyStore, name: str, *, runs: Path, storage: str) -> StudyStore:
    """Copy a study. The original and the copy are independent afterwards.

    The recorded evaluations on the test part are copied too, because both studies have the same test part.

    Args:
        original: The study to copy. A search may be running on it.
        name: Name of the copy.
        runs: Folder in which the folder of the copy is created.
        storage: Optuna storage URL for the record of the copy; it may be that of the original.

    Returns:
        The copy.

    Raises:
        UsageError: The name is invalid or exists already.
        StudyError: The storage cannot be opened, or the folder or the storage cannot be written.
    """
    folder = check_folder_name(name, runs=runs, storage=storage)
    with creation_lock(name, runs):
        backend = open_storage(storage)
        if name in optuna.study.get_all_study_names(backend) or folder.exists():
            where = "the folder" if folder.exists() else "the storage"
            raise UsageError(f"The name of a copy must be new; {where} already contains '{name}'. Choose another name.")
        trials = original.study.get_trials(deepcopy=False)  # read before the files, so that each finished trial has its files
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
    study.add_trials([_copy_running_trial(trial) if trial.state is TrialState.RUNNING else trial for trial in trials])
    return study


def _copy_running_trial(trial: FrozenTrial) -> FrozenTrial:
    """Return the copy of a running trial: WAITING with the same values, or FAILED if it continues another trial."""
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
    """Copy all files except those of drivers and unfinished trials, under a hidden name until the copy is complete."""
    finished = {f"{trial.number:05d}" for trial in trials if trial.state.is_finished()}

    def ignore(where: str, names: list[str]) -> set[str]:
        is_by_trial = Path(where).name in ("trials", "checkpoints") and Path(where).parent == original.folder
        unfinished = {entry for entry in names if Path(entry).stem not in finished} if is_by_trial else set()
        return {*_FILES_OF_DRIVERS(where, names), *unfinished}

    with atomic_folder(folder) as staged:
        shutil.copytree(original.folder, staged, ignore=ignore, copy_function=_copy_if_present, dirs_exist_ok=True)
        spec = dataclasses.replace(original.spec, name=name)
        (staged / "study.json").write_text(spec.to_json(), encoding="utf-8")
        for path in staged.glob("ensembles/*/ensemble.json"):
            ensemble = parse_json(path.read_text(encoding="utf-8"))
            path.write_text(json.dumps({**ensemble, "study": name}, indent=1, ensure_ascii=False), encoding="utf-8")


def _copy_if_present(source: str, target: str) -> None:
    with contextlib.suppress(FileNotFoundError):  # a running search removes models that are no longer among the best
        shutil.copy2(source, target)
