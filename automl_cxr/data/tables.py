"""A CSV file as text under our column names, whatever its own spelling of them."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from automl_cxr.errors import DataError

COLUMN_NAMES = {  # in order of preference
    "image": ("path", "image", "filename"),
    "label": ("label", "class", "finding"),
    "patient_id": ("patient_id", "patientid", "patient"),
    "split": ("split",),
    "view": ("view",),
}


def read_columns(path: Path) -> dict[str, str]:
    """Read which of our columns a table has, and what it calls them.

    Raises:
        DataError: The file is no UTF-8 CSV.
    """
    with _opened(path) as file:
        return _column_of_field(next(csv.reader(file), []))


def read_table(path: Path) -> tuple[dict[str, str], list[dict[str, str]]]:
    """Read a CSV as text, so that a class called NA and a patient called 007 stay what they are.

    Returns:
        Our column names to the file's, and one mapping by our names for each row, its texts stripped.

    Raises:
        DataError: The file is no UTF-8 CSV.
    """
    with _opened(path) as file:
        reader = csv.reader(file)
        header = next(reader, [])
        columns = _column_of_field(header)
        positions = {column: header.index(name) for column, name in columns.items()}
        records = [
            {column: line[place].strip() if place < len(line) else "" for column, place in positions.items()}
            for line in reader
            if line
        ]
    return columns, records


@contextmanager
def _opened(path: Path) -> Iterator[IO[str]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield file
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"A table must be a CSV file in UTF-8; '{path}' is not ({error}). Save it as such.") from error


def _column_of_field(header: list[str]) -> dict[str, str]:
    by_folded = {name.strip().casefold(): name for name in reversed(header)}
    wanted = {column: [name for name in names if name in by_folded] for column, names in COLUMN_NAMES.items()}
    return {column: by_folded[names[0]] for column, names in wanted.items() if names}
