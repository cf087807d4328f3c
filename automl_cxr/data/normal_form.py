"""The normal form of a data set: a table with the columns path, label, patient_id, split and view.

Of several findings, a column for each of them replaces the label: 1 (present), 0 (absent), -1 (uncertain) or empty (unknown).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from automl_cxr.data.arrays import split_row
from automl_cxr.data.table_columns import NORMAL_FORM
from automl_cxr.errors import UsageError
from automl_cxr.tasks import ABSENT, PRESENT, UNCERTAIN, UNKNOWN

_TEXT_OF_CODE = {PRESENT: "1", ABSENT: "0", UNCERTAIN: "-1", UNKNOWN: ""}


def path_for_table(file: Path, beside: Path) -> str:
    """Return the path of a file for a table: relative if it is below the folder of the table.

    A path that a spreadsheet could interpret as a formula, or that begins with a space, begins with ``./``.
    """
    if not file.is_relative_to(beside):
        return file.as_posix()
    relative = file.relative_to(beside).as_posix()
    return f"./{relative}" if relative.startswith(("=", "+", "-", "@", "\t", "\r", " ")) else relative


def check_files(images: Sequence[str]) -> None:
    """Check that images are files, which a table can name.

    Raises:
        UsageError: The images are rows of arrays.
    """
    if any(split_row(image)[1] is not None for image in images):
        raise UsageError(
            "A table of images needs image files; received rows of arrays. Use the arrays with their table of labels."
        )


def is_normal_form(header: Sequence[str]) -> bool:
    """Return whether the names of columns are those of the normal form."""
    first, _, *last = NORMAL_FORM
    return len(header) >= len(NORMAL_FORM) and header[0] == first and list(header[-len(last) :]) == last


def label_columns(labels: Sequence[str], findings: pd.DataFrame | None) -> pd.DataFrame:
    """Return the columns of the labels in the normal form.

    Args:
        labels: The label of each image.
        findings: Label codes (``tasks``) of the same images, with the findings as columns; None for classes.
    """
    if findings is None:
        return pd.DataFrame({NORMAL_FORM[1]: list(labels)})
    return findings.reset_index(drop=True).map(_TEXT_OF_CODE.__getitem__)


def to_normal_form(root: Path, table: pd.DataFrame, *, beside: Path, findings: pd.DataFrame | None = None) -> pd.DataFrame:
    """Return the table of a data set in the normal form, from which the same images, labels, patients and parts are read.

    Args:
        root: Folder that the paths of the table are relative to.
        table: Columns image, label, patient_id ("" where it is unknown), split and view.
        beside: Folder of the new table.
        findings: Label codes of the same images, with the findings as columns; None for classes.

    Raises:
        UsageError: The images are rows of arrays.
    """
    check_files(list(table["image"]))
    paths = [path_for_table(root / image, beside) for image in table["image"]]
    labels = label_columns(list(table["label"]), findings)
    others = table[list(NORMAL_FORM[2:])].reset_index(drop=True)
    return pd.concat([pd.DataFrame({NORMAL_FORM[0]: paths}), labels, others], axis=1)
