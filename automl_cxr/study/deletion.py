"""Deletion of a study: its record and its files. An interrupted deletion can be repeated.

The folder is first renamed to a hidden name (an atomic operation), then the record is deleted, then the hidden folder. If the
process is killed before the record is deleted, a study without files remains: every command reports it, and a second deletion
completes the first. If the process is killed later, a hidden folder remains, which the next deletion of any study removes.
"""

from __future__ import annotations

import glob
import shutil
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import optuna

from automl_cxr.errors import StudyError
from automl_cxr.storage.urls import explained_storage_errors, open_existing_storage
from automl_cxr.study.heartbeat import DriverMonitor
from automl_cxr.study.store import (
    StudyStore,
    creation_lock,
    explained_disk_errors,
    unknown_study_error,
)
from automl_cxr.study.study_info import count_bytes, count_models, list_ensembles, summarise

_DELETED_PREFIX = ".deleted-"
_HEX = "[0-9a-f]" * 32  # a UUID, by which the folders that this program has renamed are recognised


@dataclass(frozen=True, kw_only=True)
class Loss:
    """The contents of a study that a deletion removes.

    Attributes:
        name: Name of the study.
        trials: Number of trials by state.
        models: Number of trials that have a model on disk.
        ensembles: Names of its ensembles.
        n_bytes: Size of its files in bytes.
        folder: Folder of its files; None if they are not in the runs folder, so that only the record is deleted.
    """

    name: str
    trials: Mapping[str, int]
    models: int
    ensembles: Sequence[str]
    n_bytes: int
    folder: Path | None


def preview_deletion(name: str, *, runs: Path, storage: str) -> Loss:
    """Return the contents of a study that a deletion would remove.

    Raises:
        StudyError: The study does not exist, the files in ``runs`` belong to another study, or a search is running on it.
    """
    backend = open_existing_storage(storage)
    if name not in optuna.study.get_all_study_names(backend):
        raise unknown_study_error(name, backend, storage)
    folder = runs / name
    summary = summarise(optuna.load_study(study_name=name, storage=backend), folder)
    if summary.folder is not None:
        StudyStore.find(name, runs=runs, storage=storage)  # raises StudyError if the folder belongs to another study
        alive = DriverMonitor(folder).alive()
        if alive:
            raise StudyError(
                f"A study can be deleted if no search is running on it; {', '.join(sorted(alive))} is running on '{name}'. "
                f"Stop it first. If it was killed on another machine, delete its files in {folder / 'drivers'}."
            )
    return Loss(
        name=name,
        trials=summary.trials,
        models=count_models(folder) if summary.folder is not None else 0,
        ensembles=list_ensembles(folder) if summary.folder is not None else [],
        n_bytes=count_bytes(folder) if summary.folder is not None else 0,
        folder=summary.folder,
    )


def delete_study(name: str, *, runs: Path, storage: str) -> Loss:
    """Delete a study permanently, including its ensembles, and return what was removed.

    Raises:
        StudyError: As for ``preview_deletion``, or the folder or the storage cannot be written.
    """
    open_existing_storage(storage)  # before ``creation_lock`` creates the runs folder
    with creation_lock(name, runs):
        loss = preview_deletion(name, runs=runs, storage=storage)
        with explained_disk_errors(runs), explained_storage_errors():
            if loss.folder is not None:
                loss.folder.replace(runs / f"{_DELETED_PREFIX}{name}-{uuid.uuid4().hex}")
            optuna.delete_study(study_name=name, storage=open_existing_storage(storage))
        unfinished_copies = runs.glob(f".{glob.escape(name)}.{_HEX}.partial/")
        for folder in (*runs.glob(f"{_DELETED_PREFIX}*-{_HEX}/"), *unfinished_copies):
            shutil.rmtree(folder, ignore_errors=True)
        return loss
