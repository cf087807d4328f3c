"""The location of studies, and the function that opens a study."""

from __future__ import annotations

import os
from pathlib import Path

from automl_cxr.api.study import Study
from automl_cxr.storage.urls import absolute_storage, default_storage
from automl_cxr.study.store import StudyStore


def locate(runs: str | os.PathLike[str] | None = None, storage: str | None = None) -> tuple[Path, str]:
    """Return the folder and the storage of the studies.

    Args:
        runs: Folder that contains the files of all studies. [default: $AUTOML_CXR_RUNS, else ``automl_runs``]
        storage: Optuna storage URL. [default: $AUTOML_CXR_STORAGE, else an SQLite file in ``runs``]

    Returns:
        The absolute path of the folder, and the storage URL.
    """
    folder = Path(runs or os.environ.get("AUTOML_CXR_RUNS") or "automl_runs").expanduser().absolute()  # workers start elsewhere
    url = storage or os.environ.get("AUTOML_CXR_STORAGE")
    return folder, absolute_storage(url) if url else default_storage(folder)


def open_study(name: str, *, runs: str | os.PathLike[str] | None = None, storage: str | None = None) -> Study:
    """Open an existing study.

    Args:
        name: Name of the study.
        runs: Folder that contains the files of all studies; see ``locate``.
        storage: Optuna storage URL; see ``locate``.

    Raises:
        StudyError: The storage contains no study of this name.
    """
    folder, url = locate(runs, storage)
    return Study(StudyStore.open(name, runs=folder, storage=url))
