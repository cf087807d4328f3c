"""Reading of CSV files as text under standard column names."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from automl_cxr.errors import DataError

Columns = Mapping[str, tuple[str, ...]]
"""Standard column name to the accepted names in a file, in order of preference."""

COLUMN_NAMES: Columns = {
    "image": ("path", "image", "filename"),
    "label": ("label", "class", "finding"),
    "patient_id": ("patient_id", "patientid", "patient"),
    "split": ("split",),
    "view": ("view",),
}


def read_columns(path: Path, names: Columns = COLUMN_NAMES) -> dict[str, str]:
    """Read the header of a table. Return standard column names to names in the file.

    Raises:
        DataError: The file is not a CSV file in UTF-8.
    """
    with _open_csv(path) as file:
        return find_columns(next(csv.reader(file), []), names)


def read_table(path: Path, names: Columns = COLUMN_NAMES) -> tuple[dict[str, str], list[dict[str, str]]]:
    """Read a CSV file without type conversion, so that a class named NA and a patient named 007 are unchanged.

    Returns:
        Standard column names to names in the file; and for each row a mapping of standard names to stripped strings.

    Raises:
        DataError: The file is not a CSV file in UTF-8.
    """
    with _open_csv(path) as file:
        reader = csv.reader(file)
        header = next(reader, [])
        columns = find_columns(header, names)
        positions = {column: header.index(name) for column, name in columns.items()}
        records = [
            {column: line[position].strip() if position < len(line) else "" for column, position in positions.items()}
            for line in reader
            if line
        ]
    return columns, records


def read_lines(path: Path) -> list[list[str]]:
    """Read a CSV file as lines of stripped strings, without empty lines.

    Raises:
        DataError: The file is not a CSV file in UTF-8.
    """
    with _open_csv(path) as file:
        lines = [[text.strip() for text in line] for line in csv.reader(file)]
    return [line for line in lines if any(line)]


@contextmanager
def _open_csv(path: Path) -> Iterator[IO[str]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield file
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"A table must be a CSV file in UTF-8; '{path}' is not ({error}). Save it as CSV in UTF-8.") from error


def find_columns(header: list[str], names: Columns = COLUMN_NAMES) -> dict[str, str]:
    """Find the standard columns in a header. Return standard name to name in the file, the first of several."""
    by_casefolded = {name.strip().casefold(): name for name in reversed(header)}
    known = {column: [name for name in spellings if name in by_casefolded] for column, spellings in names.items()}
    return {column: by_casefolded[found[0]] for column, found in known.items() if found}
