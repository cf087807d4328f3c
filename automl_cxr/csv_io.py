"""Strict reading of CSV tables as text, and writing of tables that are read again.

All tables of users are read here. A row with more or fewer fields than the header, or a quotation mark that is not closed, is
an error that names the line: a lenient reader would move fields to other columns, or append the following rows to a cell.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from automl_cxr.errors import DataError

Row = list[str]
_NUL = "\0"
_OTHER_SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "vertical bars"}


def read_header(path: Path) -> Row:
    """Read the first line of a CSV file; an empty list if the file is empty.

    Raises:
        DataError: The file cannot be read, is not UTF-8, or its first line is not valid CSV.
    """
    with _open_csv(path) as file:
        return next((row for _, row in _parse(file, path)), [])


def read_rows(path: Path, *, empty_last_name: bool = False) -> tuple[Row, list[Row]]:
    """Read a CSV file as text without type conversion. Blank lines are skipped.

    Args:
        path: The file, in UTF-8 with or without byte order mark.
        empty_last_name: Whether all rows may lack the last field if its name in the header is empty.

    Returns:
        The header and the rows, each with one field for each column. Both are empty if the file is empty.

    Raises:
        DataError: The file cannot be read or is not UTF-8, a quotation mark is not closed, the rows have different numbers of
            fields, or the separator is not a comma. The message contains the line.
    """
    with _open_csv(path) as file:
        numbered = list(_parse(file, path))
    if not numbered:
        return [], []
    _check_separator([numbered[0][1]], path)
    (_, header), *rest = numbered
    if empty_last_name and rest and not header[-1].strip() and len(rest[0][1]) == len(header) - 1:
        header = header[:-1]
    for line, row in rest:
        _check_length(row, len(header), line, path)
    _check_hidden_rows(rest, path)
    return header, [row for _, row in rest]


def read_lines(path: Path) -> list[Row]:
    """Read a CSV file that may have no header, as lines of stripped fields.

    A blank line is an empty field if the file has one column, because its position counts. Blank lines at the end are skipped.

    Raises:
        DataError: As in ``read_rows``.
    """
    with _open_csv(path) as file:
        numbered = list(_parse(file, path, skip_blank=False))
    while numbered and not any(text.strip() for text in numbered[-1][1]):
        numbered.pop()
    if not numbered:
        return []
    n_fields = next(len(row) for _, row in numbered if row)
    rows = []
    for line, row in numbered:
        if row or n_fields == 1:
            _check_length(row or [""], n_fields, line, path)
            rows.append([text.strip() for text in row or [""]])
    _check_separator(rows, path)
    return rows


def format_rows(rows: Iterable[Sequence[object]]) -> str:
    r"""Return rows as CSV text from which ``read_rows`` reads the same strings. Lines end in ``\n``."""
    line = io.StringIO(newline="")
    writer = csv.writer(line, lineterminator="\r\n")  # so that the writer quotes fields that contain either character
    lines = []
    for row in rows:
        line.seek(0)
        line.truncate()
        writer.writerow(row)
        lines.append(line.getvalue().removesuffix("\r\n") + "\n")
    return "".join(lines)


@contextmanager
def _open_csv(path: Path) -> Iterator[IO[str]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield file
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"A table must be a CSV file in UTF-8; '{path}' is not ({reason}). Save it as CSV in UTF-8.") from error


def _parse(file: IO[str], path: Path, *, skip_blank: bool = True) -> Iterator[tuple[int, Row]]:
    """Yield the first line number and the fields of each row.

    Raises:
        DataError: A quotation mark is misplaced, or a field contains a NUL character.
    """
    reader = csv.reader(file, strict=True)
    while True:
        line = reader.line_num + 1
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise DataError(
                f"A quotation mark in a CSV table must enclose a whole field; '{path}' is not valid CSV from line {line} on "
                f"({error}). Remove the quotation mark, or close it before the next comma."
            ) from error
        if any(_NUL in text for text in row):
            raise DataError(
                f"A table must be a CSV file in UTF-8; line {line} of '{path}' contains a NUL character. Save it as CSV "
                "in UTF-8."
            )
        if row or not skip_blank:
            yield line, row


def _check_separator(rows: Sequence[Row], path: Path) -> None:
    """Check that rows of one field do not consist of fields with another separator."""
    for separator, name in _OTHER_SEPARATORS.items():
        if all(len(row) == 1 and separator in row[0] for row in rows):
            raise DataError(
                f"The columns of a table must be separated by commas; received {name} in '{path}' ({rows[0][0][:60]!r}). "
                "Save it as CSV with commas."
            )


def _check_length(row: Row, n_fields: int, line: int, path: Path) -> None:
    if len(row) != n_fields:
        raise DataError(
            f"Each row of a table must have as many fields as its first line; line {line} of '{path}' has {len(row)} instead "
            f"of {n_fields}. Enclose text that contains a comma in quotation marks, or correct the number of commas."
        )


def _check_hidden_rows(numbered: Sequence[tuple[int, Row]], path: Path) -> None:
    """Check that no field consists of rows between two misplaced quotation marks, which are valid CSV.

    Besides the numbers of fields, a field of these rows must be in the same column elsewhere, such as a label.
    """
    counts: dict[int, Counter[str]] = {}
    for line, row in numbered:
        for column, text in enumerate(row):
            for place, part in _rows_in_field(text, column, len(row)):
                if place not in counts:
                    counts[place] = Counter(other[place] for _, other in numbered)
                if part and counts[place][part] > (row[place] == part):
                    raise DataError(
                        f"A quotation mark in a CSV table must be closed in the same row; a field of line {line} of '{path}' "
                        "contains the following rows. Remove the quotation mark."
                    )


def _rows_in_field(text: str, column: int, n_fields: int) -> list[tuple[int, str]]:
    """Split a field into (column, field) as if it were the rows between two quotation marks in a column.

    The first line is then the end of a row from this column on, the last line the start of a row up to this column, and each
    line between is a row. The list is empty if the numbers of fields are others, as in nearly all text with line breaks.
    """
    if "," not in text or len(text.splitlines()) < 2:
        return []
    first, *between, last = [line.split(",") for line in text.splitlines()]
    if len(first) != n_fields - column or len(last) != column + 1 or any(len(parts) != n_fields for parts in between):
        return []
    return [
        *enumerate(first[1:], start=column + 1),
        *(place for parts in between for place in enumerate(parts)),
        *enumerate(last[:-1]),
    ]
