"""Where studies are kept, and opening one."""

from __future__ import annotations

import os
from pathlib import Path

from automl_cxr.api.study import Study
from automl_cxr.storage.urls import absolute_storage, default_storage
from automl_cxr.study.store import StudyStore


def locate(runs: str | Path | None = None, storage: str | None = None) -> tuple[Path, str]:
    """Settle where studies are kept.

    Args:
        runs: Folder of their files; by default $AUTOML_CXR_RUNS, else ``automl_runs``.
        storage: Optuna storage URL; by default $AUTOML_CXR_STORAGE, else an SQLite file in ``runs``.
    """
    folder = Path(runs or os.environ.get("AUTOML_CXR_RUNS") or "automl_runs").expanduser().absolute()  # workers start elsewhere
    url = storage or os.environ.get("AUTOML_CXR_STORAGE")
    return folder, absolute_storage(url) if url else default_storage(folder)


def open_study(name: str, *, runs: str | Path | None = None, storage: str | None = None) -> Study:
    """Open an existing study.

    Raises:
        StudyError: There is none of that name.
    """
    folder, url = locate(runs, storage)
    return Study(StudyStore.open(name, runs=folder, storage=url))
