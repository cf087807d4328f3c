"""A CSV file as text under our column names, whatever its own spelling of them."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from automl_cxr.errors import DataError

Columns = Mapping[str, tuple[str, ...]]  # our name of a column to the names that a file may give it, in order of preference

COLUMN_NAMES: Columns = {
    "image": ("path", "image", "filename"),
    "label": ("label", "class", "finding"),
    "patient_id": ("patient_id", "patientid", "patient"),
    "split": ("split",),
    "view": ("view",),
}


def read_columns(path: Path, names: Columns = COLUMN_NAMES) -> dict[str, str]:
    """Read which of our columns a table has, and what it calls them.

    Raises:
        DataError: The file is no UTF-8 CSV.
    """
    with _opened(path) as file:
        return find_columns(next(csv.reader(file), []), names)


def read_table(path: Path, names: Columns = COLUMN_NAMES) -> tuple[dict[str, str], list[dict[str, str]]]:
    """Read a CSV as text, so that a class called NA and a patient called 007 stay what they are.

    Returns:
        Our column names to the file's, and one mapping by our names for each row, its texts stripped.

    Raises:
        DataError: The file is no UTF-8 CSV.
    """
    with _opened(path) as file:
        reader = csv.reader(file)
        header = next(reader, [])
        columns = find_columns(header, names)
        positions = {column: header.index(name) for column, name in columns.items()}
        records = [
            {column: line[place].strip() if place < len(line) else "" for column, place in positions.items()}
            for line in reader
            if line
        ]
    return columns, records


def read_lines(path: Path) -> list[list[str]]:
    """Read a CSV as lines of stripped texts, without those that hold none.

    Raises:
        DataError: The file is no UTF-8 CSV.
    """
    with _opened(path) as file:
        lines = [[text.strip() for text in line] for line in csv.reader(file)]
    return [line for line in lines if any(line)]


@contextmanager
def _opened(path: Path) -> Iterator[IO[str]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield file
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"A table must be a CSV file in UTF-8; '{path}' is not ({error}). Save it as such.") from error


def find_columns(header: list[str], names: Columns = COLUMN_NAMES) -> dict[str, str]:
    """Find our columns in a header: our name to the file's own, the first where there are several."""
    by_folded = {name.strip().casefold(): name for name in reversed(header)}
    known = {column: [name for name in spellings if name in by_folded] for column, spellings in names.items()}
    return {column: by_folded[found[0]] for column, found in known.items() if found}
