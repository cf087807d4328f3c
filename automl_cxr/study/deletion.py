"""Deletes a study, its record and its files, so that a kill in the middle leaves something that can be deleted again.

The folder gets a hidden name first (one step of the file system), then the record goes, then the hidden folder. In between
the study stands in the storage without files: every command says so, and deleting it again finishes the work. What is left
of a folder after that is swept up by the next deletion.
"""

from __future__ import annotations

import glob
import os
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
    explained_disk_errors,
    founding,
    unknown_study,
)
from automl_cxr.study.study_info import count_bytes, count_models, list_ensembles, summarise

_TRASH = ".deleted-"


@dataclass(frozen=True, kw_only=True)
class Loss:
    """What a deletion takes away.

    Attributes:
        name: The study.
        trials: Number of trials by state.
        models: Number of trials that have a model on disk.
        ensembles: Names of its ensembles.
        n_bytes: Size of its files.
        folder: Their folder; None where they are not in the runs folder, so that the record alone goes.
    """

    name: str
    trials: Mapping[str, int]
    models: int
    ensembles: Sequence[str]
    n_bytes: int
    folder: Path | None


def weigh_deletion(name: str, *, runs: Path, storage: str) -> Loss:
    """Tell what deleting a study would take away.

    Raises:
        StudyError: There is no such study, the files in ``runs`` are another's, or a search is at work on it.
    """
    backend = open_existing_storage(storage)
    if name not in optuna.study.get_all_study_names(backend):
        raise unknown_study(name, backend, storage)
    folder = runs / name
    summary = summarise(optuna.load_study(study_name=name, storage=backend), folder)
    if summary.folder is not None:
        StudyStore.find(name, runs=runs, storage=storage)  # refuses the folder of another study
        alive = DriverMonitor(folder).alive()
        if alive:
            raise StudyError(
                f"A study can be deleted when no search works on it; {', '.join(sorted(alive))} works on '{name}' now. Stop it "
                f"first; one that died on another machine is forgotten without its files in {folder / 'drivers'}."
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
    """Delete a study for good, ensembles included, and tell what was lost.

    Raises:
        StudyError: As ``weigh_deletion``, or something cannot be written.
    """
    open_existing_storage(storage)  # before the runs folder is made for the lock
    with founding(name, runs):
        loss = weigh_deletion(name, runs=runs, storage=storage)
        with explained_disk_errors(runs), explained_storage_errors():
            if loss.folder is not None:
                os.replace(loss.folder, runs / f"{_TRASH}{name}-{uuid.uuid4().hex}")
            optuna.delete_study(study_name=name, storage=open_existing_storage(storage))
        for left in (
            *runs.glob(f"{_TRASH}*"),
            *runs.glob(f".{glob.escape(name)}.{'[0-9a-f]' * 32}/"),
        ):  # the second by a copy that was killed
            shutil.rmtree(left, ignore_errors=True)
        return loss
