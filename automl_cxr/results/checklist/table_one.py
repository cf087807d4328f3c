"""Table 1 of a publication: the characteristics of the images and patients of each part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from automl_cxr.data.dataset import Dataset
from automl_cxr.data.patient_metadata import AGE
from automl_cxr.records import SplitRecord
from automl_cxr.tasks import PRESENT

SEALED = "sealed"
_MAX_LEVELS = 12  # of a column; one with more values names images or reports


def table_one(dataset: Dataset, split: SplitRecord, *, is_test_open: bool) -> pd.DataFrame:
    """Return the characteristics of each part.

    Args:
        dataset: The images of the study.
        split: The parts.
        is_test_open: Whether the test part was evaluated. Otherwise only its number of images is read.

    Returns:
        characteristic, and a column for each part: images, patients, images per patient, and for each class, finding and
        column of metadata the number of images and their share, or the mean and standard deviation of ages and other numbers.
        Shares are those of the images whose value is known. Unknown values are counted in rows of their own.
    """
    parts = _parts(split)
    columns = {
        name: dict(_characteristics(dataset, images) if is_test_open or name != "test" else _sealed(images))
        for name, images in parts.items()
    }
    names = list(dict.fromkeys(row for column in columns.values() for row in column))
    absent = {name: SEALED if name == "test" and not is_test_open else "" for name in columns}
    return pd.DataFrame(
        {
            "characteristic": names,
            **{part: [column.get(name, absent[part]) for name in names] for part, column in columns.items()},
        }
    )


def _parts(split: SplitRecord) -> dict[str, Sequence[str]]:
    first = {"folds": split.train.images} if split.folds else {"training": split.train.images, "validation": split.valid.images}
    return {**first, **({"test": split.test} if split.test else {})}


def _sealed(images: Sequence[str]) -> Mapping[str, str]:
    return {"images": f"{len(images):,}"}


def _characteristics(dataset: Dataset, images: Sequence[str]) -> dict[str, str]:
    table = dataset.table.set_index("image").loc[list(images)]
    rows = {"images": f"{len(table):,}"}
    if dataset.patients_known:
        n_patients = table["patient_id"].nunique()
        rows |= {"patients": f"{n_patients:,}", "images per patient, mean": f"{len(table) / max(1, n_patients):.2f}"}
    rows |= _findings(dataset, images) if dataset.is_multilabel else _levels("class", table["label"], dataset.classes)
    metadata = dataset.metadata.reindex(list(images))
    for name in metadata.columns:
        rows |= _column(str(name), metadata[name])
    return rows


def _findings(dataset: Dataset, images: Sequence[str]) -> dict[str, str]:
    labels = dataset.labels_of(images)
    rows = {}
    for number, name in enumerate(dataset.classes):
        of_finding = labels[:, number]
        n_known = int((of_finding >= 0).sum())
        rows[f"finding: {name}"] = _share(int((of_finding == PRESENT).sum()), n_known)
        if n_known < len(of_finding):
            rows[f"finding: {name}, unknown or uncertain"] = f"{len(of_finding) - n_known:,}"
    return rows


def _column(name: str, values: pd.Series) -> dict[str, str]:
    """Return the rows of a column of metadata: levels, or mean and standard deviation; none for texts of many kinds."""
    texts = values.fillna("").astype(str)
    known = texts[texts != ""]
    unknown = {f"{name}: unknown": f"{len(texts) - len(known):,}"} if len(known) < len(texts) else {}
    if known.empty:
        return {}
    levels = sorted(known.unique())
    if len(levels) <= _MAX_LEVELS and name != AGE:
        return _levels(name, known, levels) | unknown
    numbers = pd.to_numeric(known, errors="coerce")
    if numbers.isna().any():
        return {}
    return {f"{name}, mean (SD)": f"{numbers.mean():.1f} ({np.std(numbers, ddof=1):.1f})"} | unknown


def _levels(name: str, values: pd.Series, levels: Sequence[str]) -> dict[str, str]:
    counts = values.value_counts()
    return {f"{name}: {level}": _share(int(counts.get(level, 0)), len(values)) for level in levels}


def _share(n: int, n_all: int) -> str:
    return f"{n:,} ({n / n_all:.1%})" if n_all else f"{n:,}"
