"""The metadata of a study's images, by which groups are formed: those stored with the study, else those of its data."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from automl_cxr.data.image_metadata import load_image_metadata
from automl_cxr.data.patient_metadata import SUBGROUP_COLUMN
from automl_cxr.errors import DataError, UnknownNameError
from automl_cxr.results.study_data import load_study_dataset
from automl_cxr.scoring.subgroups import split_columns
from automl_cxr.study.store import StudyStore


def load_metadata(store: StudyStore, by: Sequence[str] | None = None, *, data: str | None = None) -> pd.DataFrame:
    """Return the metadata of a study's images.

    Args:
        store: The study.
        by: Names of columns or intersections that are needed. The data are read if the study has not stored one of them.
        data: Current location of the data; by default the recorded one.

    Returns:
        Texts, "" where unknown, with the images as index. Without a column if nothing is known and ``by`` is None.

    Raises:
        DataError: The data are missing or have changed.
        UnknownNameError: There is no such column.
        UsageError: An intersection has more than two columns.
    """
    needed = list(dict.fromkeys(column for name in by or () for column in split_columns(name)))
    stored = load_image_metadata(store.folder)
    missing = [name for name in needed if name not in stored]
    if not missing and (needed or not stored.columns.empty):
        return stored
    try:
        found = load_study_dataset(store, data, subgroups=missing).metadata
    except DataError:
        if needed:
            raise
        return stored
    unknown = [name for name in needed if name not in found and name not in stored]
    if unknown:
        raise UnknownNameError(SUBGROUP_COLUMN, unknown[0], dict.fromkeys([*stored.columns, *found.columns]))
    return found if stored.empty else stored.join(found[missing])
