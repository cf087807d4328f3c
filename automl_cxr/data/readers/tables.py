"""A CSV table of image files and their labels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from automl_cxr.csv_io import read_header
from automl_cxr.data.files import explain_unusable, image_folders, relative_path
from automl_cxr.data.layout_rows import ImageRow, RawTable, parse_part
from automl_cxr.data.readers.metadata import METADATA_NAME
from automl_cxr.data.table_columns import (
    COLUMN_NAMES,
    Columns,
    check_label_column,
    describe_columns,
    list_names,
    read_columns,
    read_table,
    with_label_column,
)
from automl_cxr.errors import DataError


def recognises(root: Path, label_column: str | None = None) -> bool:
    """Return whether the root is a CSV file, or a folder with one table of images that are not in class folders."""
    if not root.is_dir():
        return root.suffix.casefold() == ".csv"
    names = with_label_column(COLUMN_NAMES, label_column)
    tables = _label_tables(root, names)
    if len(tables) != 1:
        return False
    folders = {folder.name for folder in image_folders(root)}
    if len(folders) < 2:
        return True
    # Two or more image folders may be class folders, which the table supplements, or only storage, such as NIH's images_001
    # and images_002. Class folders have the names of labels, and metadata.csv is always a supplement.
    return tables[0].name != METADATA_NAME and not folders & _labels_in(tables[0], names)


def _labels_in(table: Path, names: Columns) -> set[str]:
    try:
        return {record["label"] for record in read_table(table, names)[1]}
    except DataError:
        return set()  # recognised, so that reading it reports the error


def read(root: Path, label_column: str | None = None) -> RawTable:
    """Read the table and check that the listed files exist.

    Args:
        root: The table, or a folder that contains one.
        label_column: Name of the label column; by default one of the accepted names.

    Raises:
        DataError: There is no table, or more than one; or the table is not a CSV file in UTF-8, lacks a column, or lists no
            existing file.
        UnknownNameError: There is no column ``label_column``.
    """
    names = with_label_column(COLUMN_NAMES, label_column)
    path = root if root.is_file() else _only_table(root, names)
    columns, records = read_table(path, names)
    header = read_header(path)
    check_label_column(header, label_column)
    for column, remedy in (("image", "Rename one"), ("label", "Rename one, or name it with --label-column")):
        if column not in columns:
            accepted = "|".join(names[column])
            raise DataError(f"The table '{path}' must have a column {accepted}; received {list_names(header)}. {remedy}.")
    found = _rows_from_records(path, records)
    return replace(found, notes=(*found.notes, *describe_columns(path.name, header, list(columns.values()))))


def _only_table(root: Path, accepted: Columns) -> Path:
    tables = _label_tables(root, accepted)
    if len(tables) != 1:
        names = ", ".join(path.name for path in tables) or "none"
        raise DataError(
            f"The layout 'csv' needs exactly one table with columns {'|'.join(accepted['image'])} and "
            f"{'|'.join(accepted['label'])} in '{root}'; found {names}. Name the CSV file to use."
        )
    return tables[0]


def _label_tables(root: Path, names: Columns) -> list[Path]:
    """List the CSV files directly in a folder that have columns for image and label."""
    tables = []
    for path in sorted(root.glob("*.[cC][sS][vV]")):
        try:
            columns = read_columns(path, names)
        except DataError:
            continue  # it may belong to another program
        if "image" in columns and "label" in columns:
            tables.append(path)
    return tables


def _rows_from_records(path: Path, records: Iterable[Mapping[str, str]]) -> RawTable:
    root = path.parent
    rows: dict[str, ImageRow] = {}
    ignored: dict[str, str] = {}
    n_unlabelled = n_repeated = 0
    for record in records:
        if not record["image"] or not record["label"]:
            n_unlabelled += 1
            continue
        row = _row_from_record(root, path.name, record)
        n_repeated += row.image in rows
        if rows.get(row.image, row) != row:
            ignored[row.image] = f"listed more than once in {path.name}, with different entries"
        rows[row.image] = row
    for image in rows:
        reason = explain_unusable(root / image)
        if reason:
            ignored[image] = f"listed in {path.name} but {reason}"
    usable = tuple(row for row in rows.values() if row.image not in ignored)
    if rows and not usable:
        image, reason = next(iter(ignored.items()))
        raise DataError(
            f"The paths in '{path}' must be relative to its folder; none of {len(rows)} images can be used, "
            f"for example '{image}' ({reason}). Correct the paths or move the table."
        )
    notes = []
    if n_unlabelled:
        notes.append(f"{n_unlabelled} rows of {path.name} have no image or no label and are not used.")
    if n_repeated:
        notes.append(f"{n_repeated} rows of {path.name} repeat an image. Equal rows are used once.")
    return RawTable(usable, ignored, tuple(notes))


def _row_from_record(root: Path, table_name: str, record: Mapping[str, str]) -> ImageRow:
    return ImageRow(
        image=relative_path(root, record["image"]),
        label=record["label"],
        patient_id=record.get("patient_id", ""),
        split=parse_part(record.get("split", ""), table_name),
        view=record.get("view", ""),
    )
