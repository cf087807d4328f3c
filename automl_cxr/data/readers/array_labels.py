"""Labels for the rows of an array from a CSV file, with or without a header, an index and other columns."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from automl_cxr.data.arrays import name_rows
from automl_cxr.data.csv_io import COLUMN_NAMES, Columns, find_columns
from automl_cxr.data.files import IMAGE_SUFFIXES
from automl_cxr.data.layout_rows import ImageRow, RawTable, parse_part
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
        positions: Position by standard column name; always includes ``label``.
        is_index_named: Whether the column ``index`` has the name of an index or no name. If not, it may not be an index.
        index_name: Name of the column ``index``; empty if it has none, or one that pandas generated.
    """

    positions: Mapping[str, int]
    is_index_named: bool
    index_name: str

    def fields(self, rows: Lines, column: str) -> list[str]:
        """Return the fields of a column; empty strings if a line is too short or there is no such column."""
        position = self.positions.get(column)
        return ["" if position is None or position >= len(row) else row[position] for row in rows]


def lists_images(lines: Lines) -> bool:
    """Return whether a table lists image files and therefore does not label an array."""
    return any(text.lower().endswith(IMAGE_SUFFIXES) for line in lines[:2] for text in line)


def split_header(lines: Lines, n_images: int) -> tuple[Sequence[str], Lines] | None:
    """Split the lines into header (empty if there is none) and one row for each image; None if the numbers do not match.

    The first line is a header only if it looks like one. If a row of labels were read as a header, every label would be
    assigned to the wrong image.
    """
    first, rest = lines[0], lines[1:]
    # pandas writes an empty string as the name of an unnamed index.
    is_header = not first[0] or bool(find_columns(list(first), _COLUMNS))
    # A line without known column names is a header if its last field is not the label of an image.
    may_be_header = is_header or first[-1] not in {line[-1] for line in rest}
    if len(rest) == n_images and may_be_header:
        return first, rest
    return ([], lines) if len(lines) == n_images and not is_header else None


def label_rows(array: Path, table: Path, lines: Lines, n_images: int, *, part: str) -> RawTable:
    """Assign the rows of a table to the images of an array.

    Args:
        array: File of the array.
        table: File of the table, for messages.
        lines: All lines of the table, in which ``split_header`` finds as many rows as images.
        n_images: Number of images in the array.
        part: "train", "valid" or "test" for all rows; "" to use the split column.

    Raises:
        DataError: The split column contains an unknown part, or the index has unsorted numbers that do not count the images.
    """
    split = split_header(lines, n_images)
    if split is None:
        raise DataError(
            f"'{table}' must have a row for each of the {n_images} images; received {len(lines)} lines. Correct it."
        )
    header, rows = split
    columns = _find_columns(header, rows)
    image_numbers, index_notes = _match_rows_to_images(columns, rows, table)
    names = name_rows(array.name, n_images)
    labels, patients, parts, views = (columns.fields(rows, name) for name in ("label", "patient_id", "split", "view"))
    labelled = tuple(
        ImageRow(names[number], _normalise_number(label), patient, part or parse_part(split_name, table.name), view)
        for number, label, patient, split_name, view in zip(image_numbers, labels, patients, parts, views, strict=True)
        if label
    )
    return RawTable(labelled, notes=(*index_notes, *_note_unlabelled(n_images - len(labelled), table.name)))


def _find_columns(header: Sequence[str], rows: Lines) -> _Columns:
    found = find_columns(list(header), _COLUMNS)
    positions = {column: header.index(name) for column, name in found.items()}
    n_columns = len(header or rows[0])
    positions.setdefault("label", n_columns - 1)
    is_named = "index" in positions or not header or not header[0]
    index_name = found.get("index", "")
    if 0 not in positions.values():
        positions.setdefault("index", 0)  # used as an index only if it counts the images
    return _Columns(positions, is_named, "" if index_name.lower().startswith("unnamed") else index_name)


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
