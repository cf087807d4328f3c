"""The columns of tables of images: their accepted names, and the rows of a table under standard names."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from automl_cxr.csv_io import read_rows
from automl_cxr.data.layout_rows import UsedTable
from automl_cxr.errors import DataError, UnknownNameError

Columns = Mapping[str, tuple[str, ...]]
"""Standard column name to the accepted names in a file, in order of preference."""

_MAX_NAMES = 12  # in a message

NORMAL_FORM = ("path", "label", "patient_id", "split", "view")
"""Columns of the tables that this program writes and reads."""

COLUMN_NAMES: Columns = {
    "image": (
        *("path", "image", "filename", "image_path", "file_path", "file", "image_file", "image_filename", "image_name"),
        *("image_id", "image_index", "images", "img", "img_path", "img_name", "img_id", "dicom_id", "dicom_path"),
    ),
    "label": (
        *("label", "class", "finding", "labels", "class_name", "findings", "finding_labels", "diagnosis", "diagnoses"),
        *("target", "category", "disease", "condition", "pathology", "ground_truth"),
    ),
    "patient_id": (
        *("patient_id", "patientid", "patient", "subject_id", "subject", "pid", "mrn", "patient_no", "patient_number"),
        *("patient_name", "patient_identifier", "person_id", "case_id"),
    ),
    "split": ("split",),
    "view": ("view", "view_position", "projection", "view_position_dicom", "ap_pa", "frontal_lateral"),
}


def with_label_column(names: Columns, label_column: str | None) -> Columns:
    """Return the accepted names with one chosen name for the label column; unchanged if it is None."""
    return names if label_column is None else {**names, "label": (fold_name(label_column),)}


def match_key(name: str) -> str:
    """Return a column name for the comparison with accepted names: letters and digits only, regardless of case."""
    return "".join(character for character in name.casefold() if character.isalnum())


def fold_name(name: str) -> str:
    """Return a column name for comparison: without outer spaces, and regardless of case."""
    return name.strip().casefold()


def find_columns(header: Sequence[str], names: Columns = COLUMN_NAMES) -> dict[str, str]:
    """Find the standard columns in a header. Return standard name to name in the file, the first of several."""
    by_key = {match_key(name): name for name in reversed(header)}
    keys = {column: [match_key(name) for name in spellings] for column, spellings in names.items()}
    return {
        column: next(by_key[key] for key in spellings if key in by_key)
        for column, spellings in keys.items()
        if any(key in by_key for key in spellings)
    }


def check_label_column(header: Sequence[str], label_column: str | None) -> None:
    """Check that a chosen label column exists.

    Raises:
        UnknownNameError: No column has this name.
    """
    if label_column is not None and fold_name(label_column) not in map(fold_name, header):
        raise UnknownNameError("label column", label_column, [name.strip() for name in header if name.strip()])


def check_unique(header: Sequence[str], columns: Mapping[str, str], path: Path) -> None:
    """Check that each used column is named once.

    Raises:
        DataError: Two columns have the name of a used column.
    """
    folded = [fold_name(name) for name in header]
    for name in columns.values():
        positions = [str(position) for position, other in enumerate(folded, start=1) if other == fold_name(name)]
        if len(positions) > 1:
            raise DataError(
                f"A table must name each column once; '{path}' has the name '{name.strip()}' for the columns "
                f"{', '.join(positions)}. Rename the others."
            )


def read_table(
    path: Path, find_others: Callable[[Sequence[str]], Mapping[str, int]] | None = None
) -> tuple[dict[str, str], list[dict[str, str]]]:
    """Read a CSV file without type conversion, so that a class named NA and a patient named 007 are unchanged.

    Args:
        path: The file.
        find_others: Returns the positions of further columns by name, for a header; the standard columns take precedence.

    Returns:
        Standard column names to names in the file; and for each row a mapping of standard names to strings without outer
        spaces. The column image keeps its spaces, because file names may contain them.

    Raises:
        DataError: The file is not valid CSV in UTF-8, its rows have different numbers of fields, or it has two columns of the
            same name.
    """
    header, rows = read_rows(path)
    columns = find_columns(header)
    check_unique(header, columns, path)
    others = {} if find_others is None else find_others(header)
    positions = {**others, **{column: header.index(name) for column, name in columns.items()}}
    return columns, [{column: _clean(row[position], column) for column, position in positions.items()} for row in rows]


def _clean(text: str, column: str) -> str:
    stripped = text.strip()
    return text if stripped and column == "image" else stripped


def list_names(header: Sequence[str]) -> str:
    """Return the names of a header for a message, the first ones of a wide table."""
    names = [name.strip() or "''" for name in header]
    more = f", ... ({len(names)} columns)" if len(names) > _MAX_NAMES else ""
    return (", ".join(names[:_MAX_NAMES]) + more) or "no column"


def describe_columns(used: UsedTable) -> str:
    """Return a sentence on the columns of a table that are used and not used; empty if all are used."""
    if not used.unused:
        return ""
    return f"{used.name}: columns used: {', '.join(used.columns.values())}; not used: {list_names(used.unused)}."
