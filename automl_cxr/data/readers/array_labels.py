"""Labels for the rows of an array from a CSV file, with or without a header, an index and other columns."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from automl_cxr.data.arrays import name_rows
from automl_cxr.data.data_options import DataOptions
from automl_cxr.data.files import IMAGE_SUFFIXES
from automl_cxr.data.findings import Findings
from automl_cxr.data.layout_rows import UsedTable, parse_parts
from automl_cxr.data.patient_metadata import metadata_columns
from automl_cxr.data.readers.findings import finding_columns, from_columns, from_texts
from automl_cxr.data.table_columns import (
    COLUMN_NAMES,
    Columns,
    check_label_column,
    check_unique,
    find_columns,
    list_names,
    with_label_column,
)
from automl_cxr.errors import DataError

Lines = Sequence[Sequence[str]]  # the fields of a CSV file, by line

_COLUMNS: Columns = {
    "label": (*COLUMN_NAMES["label"], "labels", "target"),
    "index": ("index", "id", "image", "image_id", "image_index", "unnamed: 0", "unnamed"),
    **{column: COLUMN_NAMES[column] for column in ("patient_id", "split", "view")},
}
_DECIMAL = re.compile(r"[+-]?\d+\.\d*(e[+-]?\d+)?", re.IGNORECASE)


@dataclass(frozen=True)
class _Columns:
    """Position of each column in a line.

    Attributes:
        positions: Position by standard column name; includes ``label`` unless there are columns of findings.
        is_index_named: Whether the column ``index`` has the name of an index or no name. If not, it may not be an index.
        index_name: Name of the column ``index``; empty if it has none, or one that pandas generated.
        findings: Positions of the columns of findings, if there is no label column.
    """

    positions: Mapping[str, int]
    is_index_named: bool
    index_name: str
    findings: tuple[int, ...] = ()

    def fields(self, rows: Lines, column: str) -> list[str]:
        """Return the fields of a column; empty strings if there is no such column."""
        position = self.positions.get(column)
        return ["" if position is None else row[position] for row in rows]

    def describe(self, header: Sequence[str]) -> dict[str, str]:
        """Return the name of the column of each use, for the user."""
        ordered = sorted(self.positions.items(), key=lambda item: item[1])
        named = {role: header[place] if header else f"column {place + 1}" for role, place in ordered}
        if self.findings:
            named["label"] = f"{len(self.findings)} columns"
        return named


def lists_images(lines: Lines) -> bool:
    """Return whether a table lists image files and therefore does not label an array."""
    return any(text.lower().endswith(IMAGE_SUFFIXES) for line in lines[:2] for text in line)


def split_header(lines: Lines, n_images: int, label_column: str | None = None) -> tuple[Sequence[str], Lines] | None:
    """Split the lines into header (empty if there is none) and one row for each image; None if the numbers do not match.

    The first line is a header only if it looks like one. If a row of labels were read as a header, or a header as a row of
    labels, every label would be assigned to the wrong image.
    """
    first, rest = lines[0], lines[1:]
    columns = list(zip(first, zip(*rest, strict=True), strict=True)) if rest else []
    # pandas writes an empty string as the name of an unnamed index. A header is text, also above a column of numbers.
    is_header = (
        (not first[0] and len(first) > 1)
        or bool(find_columns(first, with_label_column(_COLUMNS, label_column)))
        or any(name and not _is_number(name) and all(map(_is_number, fields)) for name, fields in columns)
    )
    # A line without known column names is a header if none of its fields is in its column again, such as the label of an image.
    may_be_header = is_header or all(name not in fields for name, fields in columns)
    if len(rest) == n_images and may_be_header:
        return first, rest
    return ([], lines) if len(lines) == n_images and not is_header else None


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


@dataclass(frozen=True)
class ArrayLabels:
    """The labels of the images of one array, before one label is chosen for each image.

    Attributes:
        table: Name of the table.
        images: Id of each image.
        findings: Findings of each image.
        patients: Patient of each image.
        parts: Part of each image.
        views: Projection of each image.
        finding_columns: Names of the columns of findings.
        used: The use of the columns.
        notes: Sentences for the user.
        metadata: Texts of each column of metadata.
    """

    table: str
    images: Sequence[str]
    findings: Sequence[Findings]
    patients: Sequence[str]
    parts: Sequence[str]
    views: Sequence[str]
    finding_columns: Sequence[str]
    used: UsedTable
    notes: tuple[str, ...]
    metadata: Mapping[str, Sequence[str]]


def read_labels(array: Path, table: Path, lines: Lines, n_images: int, *, part: str, options: DataOptions) -> ArrayLabels:
    """Assign the rows of a table to the images of an array.

    Args:
        array: File of the array.
        table: File of the table, for messages.
        lines: All lines of the table, in which ``split_header`` finds as many rows as images.
        n_images: Number of images in the array.
        part: "train", "valid" or "test" for all rows; "" to use the split column.
        options: The label column and the treatment of the parts.

    Raises:
        DataError: There is no label column, the split column contains an unknown part, or the index has unsorted numbers that
            do not count the images.
        UnknownNameError: There is no column ``label_column``.
    """
    split = split_header(lines, n_images, options.label_column)
    if split is None:
        raise DataError(
            f"'{table}' must have a row for each of the {n_images} images; received {len(lines)} lines. Correct it."
        )
    header, rows = split
    columns = _find_columns(header, rows, table, options.label_column)
    image_numbers, index_notes = _match_rows_to_images(columns, rows, table)
    names = name_rows(array.name, n_images)
    patients, parts, views = (columns.fields(rows, name) for name in ("patient_id", "split", "view"))
    names_of: Sequence[str] = ()
    if columns.findings:
        names_of = header or [f"class {position}" for position in range(len(rows[0]))]
        findings = from_columns({names_of[place]: [row[place] for row in rows] for place in columns.findings})
    else:
        findings = from_texts([_normalise_number(text) for text in columns.fields(rows, "label")])
    part_of = parse_parts(() if part else parts, table.name, resplit=options.resplit)
    places = sorted({*columns.positions.values(), *columns.findings})
    metadata = metadata_columns(header, options)
    used = columns.describe(header) | {name: header[place] for name, place in metadata.items()}
    unused = tuple(name for place, name in enumerate(header) if place not in {*places, *metadata.values()} and name.strip())
    n_unlabelled = sum(one.is_unlabelled for one in findings)
    return ArrayLabels(
        table=table.name,
        images=[names[number] for number in image_numbers],
        findings=findings,
        patients=patients,
        parts=[part or part_of[split_name] for split_name in parts],
        views=views,
        finding_columns=[names_of[place] for place in columns.findings],
        used=UsedTable(table.name, used, unused),
        notes=(*index_notes, *_note_unlabelled(n_unlabelled, table.name)),
        metadata={name: [row[place] for row in rows] for name, place in metadata.items()},
    )


def _find_columns(header: Sequence[str], rows: Lines, table: Path, label_column: str | None) -> _Columns:
    """Find the columns of a table.

    Raises:
        DataError: Several columns may contain the labels, or two columns have the same name.
        UnknownNameError: There is no column ``label_column``.
    """
    check_label_column(header, label_column)
    found = find_columns(header, with_label_column(_COLUMNS, label_column))
    check_unique(header, found, table)
    positions = {column: header.index(name) for column, name in found.items()}
    is_named = "index" in positions or not header or not header[0]
    index_name = found.get("index", "")
    n_columns = len(header or rows[0])
    has_index = n_columns > 1 and 0 not in positions.values() and _is_index(header, [row[0] for row in rows])
    if has_index:
        positions.setdefault("index", 0)
    findings: tuple[int, ...] = ()
    if "label" not in positions:
        others = [place for place in range(n_columns) if place not in positions.values() and (not header or header[place])]
        findings = finding_columns({place: [row[place] for row in rows] for place in others})
    if "label" not in positions and not findings:
        positions["label"] = _only_other_column(header, n_columns, positions, table)
    return _Columns(positions, is_named, "" if index_name.lower().startswith("unnamed") else index_name, findings)


def _is_index(header: Sequence[str], fields: Sequence[str]) -> bool:
    """Return whether the first column, which has no known name, is an index: it has no name, or it counts the images."""
    numbers = [_normalise_number(text) for text in fields]
    if not all(number.isdecimal() for number in numbers) or len(set(numbers)) < len(numbers):
        return bool(header) and not header[0]
    return not header or not header[0] or sorted(map(int, numbers)) in (_count_from(0, numbers), _count_from(1, numbers))


def _count_from(first: int, numbers: Sequence[str]) -> list[int]:
    return list(range(first, first + len(numbers)))


def _only_other_column(header: Sequence[str], n_columns: int, positions: Mapping[str, int], table: Path) -> int:
    """Return the position of the only column without another use.

    Raises:
        DataError: There are several, or none.
    """
    others = [position for position in range(n_columns) if position not in positions.values()]
    named = [position for position in others if not header or header[position]]
    if len(named) == 1:
        return named[0]
    if not header:
        raise DataError(
            f"The label column of '{table}' must be known; received {n_columns} columns without names. Add a header with the "
            "column label."
        )
    received = list_names([header[position] for position in named])
    raise DataError(
        f"The labels of '{table}' must be in a column {'|'.join(_COLUMNS['label'])}, or in the only one without other use; "
        f"received {received}. Name it with --label-column, or rename it."
    )


def _match_rows_to_images(columns: _Columns, rows: Lines, table: Path) -> tuple[list[int], list[str]]:
    """Return the image number of each row, and notes: the row's index if it counts all images, else the row's position.

    Raises:
        DataError: An index has unsorted numbers that do not count the images.
    """
    in_order = list(range(len(rows)))
    index = [_normalise_number(text) for text in columns.fields(rows, "index")]
    if not all(text.isdecimal() for text in index):
        return in_order, []
    numbers = [int(text) for text in index]
    if numbers == in_order:
        return in_order, []
    first = min(numbers, default=0)
    is_sorted, is_unique = numbers == sorted(numbers), len(set(numbers)) == len(numbers)
    if first in (0, 1) and sorted(numbers) == list(range(first, first + len(numbers))):
        if is_sorted:
            return in_order, []
        return [number - first for number in numbers], [
            f"The rows of {table.name} are not in the order of the images. They are matched by the index column."
        ]
    if columns.index_name and is_unique and not is_sorted:
        # The numbers may follow another order than the array, so that every label could be assigned to the wrong image.
        raise DataError(
            f"The column '{columns.index_name}' of '{table}' must count the {len(rows)} images from 0 or 1, or be sorted; "
            f"received {', '.join(map(str, numbers[:3]))}, ... Number the rows by the positions of the images in the array, "
            "or remove the column if the rows are in the order of the array."
        )
    if columns.is_index_named and (is_unique or not is_sorted):
        # pandas writes such an index for a part of a larger table; without a name also for a shuffled table and array.
        note = f"The index in {table.name} does not count the images from 0 or 1. The rows are matched to the images in order."
        return in_order, [note]
    return in_order, []


def _normalise_number(text: str) -> str:
    """Convert whole numbers such as 1.0 or 1.000e+00, as NumPy and pandas write them, to "1"; other strings are unchanged."""
    if not _DECIMAL.fullmatch(text):
        return text
    number = float(text)
    return str(int(number)) if number.is_integer() else text


def _note_unlabelled(n_unlabelled: int, table_name: str) -> Iterator[str]:
    if n_unlabelled:
        yield f"{n_unlabelled} rows of {table_name} have no label and are not used."
