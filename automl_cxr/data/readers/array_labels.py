"""What a CSV says of the rows of an array, however it was written: with or without a header, an index, other columns."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from automl_cxr.data.arrays import name_rows
from automl_cxr.data.csv_io import COLUMN_NAMES, Columns, find_columns
from automl_cxr.data.files import IMAGE_SUFFIXES
from automl_cxr.data.layout_rows import ImageRow, RawTable, part_named
from automl_cxr.errors import DataError

Lines = Sequence[Sequence[str]]  # the texts of a CSV, line by line

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
        places: By our names; ``label`` is always among them.
        is_index_meant: Whether the column ``index`` calls itself one or has no name; otherwise it may be anything.
        index_name: What the column ``index`` calls itself where a person named it, else empty.
    """

    places: Mapping[str, int]
    is_index_meant: bool
    index_name: str

    def texts(self, rows: Lines, column: str) -> list[str]:
        """List a column's texts, empty where a line is too short or there is no such column."""
        place = self.places.get(column)
        return ["" if place is None or place >= len(row) else row[place] for row in rows]


def names_files(lines: Lines) -> bool:
    """Tell whether a table lists image files, so that no array is needed beside it."""
    return any(text.lower().endswith(IMAGE_SUFFIXES) for line in lines[:2] for text in line)


def split_header(lines: Lines, n_images: int) -> tuple[Sequence[str], Lines] | None:
    """Split the lines into header (empty where there is none) and one row for each image; None where they do not agree.

    A first line is taken for a header only if it looks like one: were a row of labels taken for it, every label would
    stand beside the wrong image.
    """
    first, rest = lines[0], lines[1:]
    # pandas writes an index without a name as an empty text.
    is_header = not first[0] or bool(find_columns(list(first), _COLUMNS))
    # A header of other words is one if its last word is the label of no image.
    may_be_header = is_header or first[-1] not in {line[-1] for line in rest}
    if len(rest) == n_images and may_be_header:
        return first, rest
    return ([], lines) if len(lines) == n_images and not is_header else None


def label_rows(array: Path, table: Path, lines: Lines, n_images: int, *, part: str) -> RawTable:
    """Give each image of an array what the table says of it.

    Args:
        array: The array's file.
        table: The table's file; for messages.
        lines: All lines of the table, for which ``split_header`` finds as many rows as images.
        n_images: Images in the array.
        part: "train", "valid" or "test" for all rows; "" leaves it to the split column.

    Raises:
        DataError: The split column names a part that is none, or numbers that are not the images' are out of order.
    """
    split = split_header(lines, n_images)
    if split is None:
        raise DataError(
            f"'{table}' must have a row for each of the {n_images} images; received {len(lines)} lines. Correct it."
        )
    header, rows = split
    columns = _find_columns(header, rows)
    places, index_notes = _place_rows(columns, rows, table)
    names = name_rows(array.name, n_images)
    labels, patients, parts, views = (columns.texts(rows, name) for name in ("label", "patient_id", "split", "view"))
    labelled = tuple(
        ImageRow(names[place], _plain(label), patient, part or part_named(said, table.name), view)
        for place, label, patient, said, view in zip(places, labels, patients, parts, views, strict=True)
        if label
    )
    return RawTable(labelled, notes=(*index_notes, *_note_unlabelled(n_images - len(labelled), table.name)))


def _find_columns(header: Sequence[str], rows: Lines) -> _Columns:
    found = find_columns(list(header), _COLUMNS)
    places = {column: header.index(name) for column, name in found.items()}
    n_columns = len(header or rows[0])
    places.setdefault("label", n_columns - 1)
    is_meant = "index" in places or not header or not header[0]
    index_name = found.get("index", "")
    if 0 not in places.values():
        places.setdefault("index", 0)  # an index only if it turns out to count the images
    return _Columns(places, is_meant, "" if index_name.lower().startswith("unnamed") else index_name)


def _place_rows(columns: _Columns, rows: Lines, table: Path) -> tuple[list[int], list[str]]:
    """Say which image each row of the table is about: its index where that counts all images, else its own place.

    Raises:
        DataError: A column that calls itself an index numbers each row, out of order, and does not count the images.
    """
    in_order = list(range(len(rows)))
    index = [_plain(text) for text in columns.texts(rows, "index")]
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
            f"The rows of {table.name} are not in the order of the images: its index says which is which."
        ]
    if columns.index_name and is_unique and not is_sorted:
        # They may be numbers of the images in another order than the array's: every label could be a neighbour's.
        raise DataError(
            f"The column '{columns.index_name}' of '{table}' must count the {len(rows)} images from 0 or 1 on, or ascend; "
            f"received {', '.join(map(str, numbers[:3]))}, ... Number the rows by the images' places in the array, "
            "or, where they are in its order, remove the column."
        )
    if columns.is_index_meant and (is_unique or not is_sorted):
        # What pandas keeps of a larger table that was cut, without a name also of one that was shuffled, as was the array.
        note = (
            f"The index in {table.name} does not count the images from 0 or 1 on: "
            "its rows are taken in the order of the images."
        )
        return in_order, [note]
    return in_order, []


def _plain(text: str) -> str:
    """Write a number as a person would, since NumPy and pandas make 1.0 or 1.000e+00 of class 1; other texts stay."""
    if not _DECIMAL.fullmatch(text):
        return text
    number = float(text)
    return str(int(number)) if number.is_integer() else text


def _note_unlabelled(n_unlabelled: int, table_name: str) -> Iterator[str]:
    if n_unlabelled:
        yield f"{n_unlabelled} rows of {table_name} lack a label and are left out."
