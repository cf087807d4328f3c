"""All studies of a storage: listing, copying, deleting."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from automl_cxr.api.locations import locate
from automl_cxr.api.study import Study
from automl_cxr.records import TrialState
from automl_cxr.study import copying, deletion, study_info
from automl_cxr.study.store import StudyStore

_STUDY_COLUMNS = (
    *("name", "space", "data", "objective"),
    *map(str, TrialState),
    *("best", "best_trial", "changed", "folder"),
)


def list_studies(*, runs: str | Path | None = None, storage: str | None = None) -> pd.DataFrame:
    """Tabulate the studies of a storage, one row each, by name.

    Returns:
        name, space, data, objective, the number of trials by state (``waiting`` to ``failed``), best, best_trial, changed
        (local time at which a trial last began or ended) and folder (None where the files are not in ``runs``).

    Raises:
        StudyError: There is no such storage.
    """
    folder, url = locate(runs, storage)
    rows = []
    for study in study_info.list_studies(runs=folder, storage=url):
        row = {**vars(study), **{str(state): study.trials.get(state, 0) for state in TrialState}}
        rows.append({column: row[column] for column in _STUDY_COLUMNS})
    return pd.DataFrame(rows, columns=_STUDY_COLUMNS).astype(dict.fromkeys(("best_trial", "changed", "folder"), object))


def copy_study(
    name: str,
    new_name: str,
    *,
    runs: str | Path | None = None,
    storage: str | None = None,
    runs_to: str | Path | None = None,
    storage_to: str | None = None,
) -> Study:
    """Copy a study, record and files; the copy can be continued. See ``study.copying.copy_study``.

    Args:
        name: The study.
        new_name: Name of the copy.
        runs: Folder of all studies; see ``locate``.
        storage: Optuna storage URL; see ``locate``.
        runs_to: Folder that gets the copy's files; by default ``runs``.
        storage_to: Storage that gets the copy's record; by default ``storage``.

    Raises:
        UsageError: The new name is taken, or is no folder's.
        StudyError: There is no such study, or something cannot be written.
    """
    folder, url = locate(runs, storage)
    original = StudyStore.open(name, runs=folder, storage=url)
    there = folder if runs_to is None else Path(runs_to).expanduser().absolute()
    return Study(copying.copy_study(original, new_name, runs=there, storage=storage_to or url))


def delete_study(name: str, *, runs: str | Path | None = None, storage: str | None = None) -> deletion.Loss:
    """Delete a study for good, with its trials, models and ensembles, and tell what was lost. Nothing is asked.

    Raises:
        StudyError: There is no such study, or a search is at work on it.
    """
    folder, url = locate(runs, storage)
    return deletion.delete_study(name, runs=folder, storage=url)
