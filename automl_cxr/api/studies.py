"""Functions for all studies of a storage: list, copy, delete."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from automl_cxr.api.locations import locate
from automl_cxr.api.study import Study
from automl_cxr.records import TrialState
from automl_cxr.results.tables import table_of_rows
from automl_cxr.study import copying, deletion, study_info
from automl_cxr.study.store import StudyStore

_STUDY_COLUMNS = (
    *("name", "space", "data", "objective"),
    *map(str, TrialState),
    *("best", "best_trial", "changed", "folder"),
)


def list_studies(*, runs: str | Path | None = None, storage: str | None = None) -> pd.DataFrame:
    """List the studies of a storage.

    Args:
        runs: Folder that contains the files of all studies; see ``open_study``.
        storage: Optuna storage URL; see ``open_study``.

    Returns:
        One row per study, by name: name, space, data, objective, the number of trials in each state (``waiting`` to
        ``failed``), best (score), best_trial, changed (local time at which a trial last began or ended) and folder (None
        where the files are not in ``runs``).

    Raises:
        StudyError: The storage does not exist.
    """
    folder, url = locate(runs, storage)
    rows = []
    for study in study_info.list_studies(runs=folder, storage=url):
        row = {**vars(study), **{str(state): study.trials.get(state, 0) for state in TrialState}}
        rows.append({column: row[column] for column in _STUDY_COLUMNS})
    # pandas would convert missing dates to NaT
    objects = {column: pd.Series([row[column] for row in rows], dtype=object) for column in ("changed", "folder")}
    return table_of_rows(rows, _STUDY_COLUMNS).assign(**objects)


def copy_study(
    name: str,
    new_name: str,
    *,
    runs: str | Path | None = None,
    storage: str | None = None,
    runs_to: str | Path | None = None,
    storage_to: str | None = None,
) -> Study:
    """Copy the record and the files of a study. The copy can be continued; see ``study.copying.copy_study``.

    Args:
        name: Name of the study.
        new_name: Name of the copy.
        runs: Folder that contains the files of all studies; see ``open_study``.
        storage: Optuna storage URL; see ``open_study``.
        runs_to: Folder for the files of the copy. [default: ``runs``]
        storage_to: Storage for the record of the copy. [default: ``storage``]

    Raises:
        UsageError: The new name is in use, or is not the name of a folder.
        StudyError: The study does not exist, or a file cannot be written.
    """
    folder, url = locate(runs, storage)
    original = StudyStore.open(name, runs=folder, storage=url)
    new_runs = folder if runs_to is None else Path(runs_to).expanduser().absolute()
    return Study(copying.copy_study(original, new_name, runs=new_runs, storage=storage_to or url))


def delete_study(name: str, *, runs: str | Path | None = None, storage: str | None = None) -> deletion.Loss:
    """Delete a study with its trials, models and ensembles, without asking for confirmation.

    Args:
        name: Name of the study.
        runs: Folder that contains the files of all studies; see ``open_study``.
        storage: Optuna storage URL; see ``open_study``.

    Returns:
        The number of deleted trials, models and bytes.

    Raises:
        StudyError: The study does not exist, or a search is running on it.
    """
    folder, url = locate(runs, storage)
    return deletion.delete_study(name, runs=folder, storage=url)
