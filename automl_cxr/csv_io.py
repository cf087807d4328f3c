"""Strict reading of tables as text, and writing of tables that are read again.

All tables of users are read here. A row with more or fewer fields than the header, or a quotation mark that is not closed, is
an error that names the line: a lenient reader would move fields to other columns, or append the following rows to a cell.
The separator is a comma, unless the first lines have several fields with another one only.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO

from automl_cxr.errors import DataError
from automl_cxr.table_files import is_workbook, open_text, read_workbook

Row = list[str]
_NUL = "\0"
SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars", " ": "spaces"}
_A = {",": "a comma", ";": "a semicolon", "\t": "a tab", "|": "a vertical bar", " ": "a space"}
_DECLARED = "sep="  # Excel writes the separator into the first line
_SPACED_SUFFIXES = (".txt", ".lst", ".list")
_SAMPLE_LINES = 50


@dataclass(frozen=True)
class TextTable:
    """The fields of a table, as text.

    Attributes:
        lines: The fields of each row, the header first if there is one. All rows have equal length.
        separator: The character between fields; empty for a workbook.
        encoding: The encoding; empty for a workbook.
    """

    lines: list[Row]
    separator: str = ","
    encoding: str = "utf-8"


def read_header(path: Path) -> Row:
    """Read the first line of a table; an empty list if the file is empty.

    Raises:
        DataError: The file cannot be read, is not a table, or its first line is not valid.
    """
    if is_workbook(path):
        return next(iter(_workbook(path).lines), [])
    with _Opened(path) as opened:
        return next((row for _, row in opened.rows()), [])


def read_text_table(path: Path, *, empty_last_name: bool = False) -> TextTable:
    """Read a table without type conversion. Blank lines are skipped.

    Args:
        path: A file with separated fields, which may be compressed with gzip, or an Excel workbook.
        empty_last_name: Whether all rows may lack the last field if its name in the header is empty.

    Raises:
        DataError: The file cannot be read, a quotation mark is not closed, or the rows have different numbers of fields. The
            message contains the line.
    """
    if is_workbook(path):
        return _workbook(path)
    with _Opened(path) as opened:
        numbered = list(opened.rows())
        separator, encoding = opened.separator, opened.encoding
    if not numbered:
        return TextTable([], separator, encoding)
    (_, header), *rest = numbered
    if empty_last_name and rest and not header[-1].strip() and len(rest[0][1]) == len(header) - 1:
        header = header[:-1]
    for line, row in rest:
        _check_length(row, len(header), line, path, separator)
    _check_hidden_rows(rest, path, separator)
    return TextTable([header, *(row for _, row in rest)], separator, encoding)


def read_rows(path: Path) -> tuple[Row, list[Row]]:
    """Read a table with a header as ``read_text_table`` does.

    Returns:
        The header and the rows, each with one field for each column. Both are empty if the file is empty.

    Raises:
        DataError: As in ``read_text_table``.
    """
    header, *rows = read_text_table(path).lines or [[]]
    return header, rows


def read_lines(path: Path) -> list[Row]:
    """Read a table that may have no header, as lines of stripped fields.

    A blank line is an empty field if the file has one column, because its position counts. Blank lines at the end are skipped.

    Raises:
        DataError: As in ``read_text_table``.
    """
    if is_workbook(path):
        return [[text.strip() for text in row] for row in _workbook(path).lines]
    with _Opened(path) as opened:
        numbered = list(opened.rows(skip_blank=False))
        separator = opened.separator
    while numbered and not any(text.strip() for text in numbered[-1][1]):
        numbered.pop()
    if not numbered:
        return []
    n_fields = next(len(row) for _, row in numbered if row)
    rows = []
    for line, row in numbered:
        if row or n_fields == 1:
            _check_length(row or [""], n_fields, line, path, separator)
            rows.append([text.strip() for text in row or [""]])
    return rows


def format_rows(rows: Iterable[Sequence[object]]) -> str:
    r"""Return rows as CSV text from which ``read_rows`` reads the same strings. Lines end in ``\n``.

    The names in the first row must contain no separator except the comma; otherwise another separator may be found in them.
    """
    line = io.StringIO(newline="")
    writer = csv.writer(line, lineterminator="\r\n")  # so that the writer quotes fields that contain either character
    lines = []
    for row in rows:
        line.seek(0)
        line.truncate()
        writer.writerow(row)
        lines.append(line.getvalue().removesuffix("\r\n") + "\n")
    return "".join(lines)


def _workbook(path: Path) -> TextTable:
    try:
        return TextTable(read_workbook(path), "", "")
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> DataError:
    reason = getattr(error, "strerror", None) or error
    return DataError(
        f"A table must be a text file with separated fields or an .xlsx workbook; '{path}' is not ({reason}). Save it as CSV "
        "in UTF-8."
    )


class _Opened:
    """An open text table with its separator. A context manager; errors of reading are raised as DataError."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.separator = ","
        self.encoding = "utf-8"
        self._n_skipped = 0

    def __enter__(self) -> _Opened:
        try:
            with open_text(self.path) as (file, self.encoding):
                first = list(islice(file, _SAMPLE_LINES))
                self.separator, self._n_skipped = find_separator(first, self.path)
            self._context = open_text(self.path)
            self._file, _ = self._context.__enter__()
        except (OSError, ValueError) as error:
            raise _unreadable(self.path, error) from error
        return self

    def __exit__(self, *details: object) -> None:
        self._context.__exit__(None, None, None)

    def rows(self, *, skip_blank: bool = True) -> Iterator[tuple[int, Row]]:
        try:
            for _ in range(self._n_skipped):
                next(self._file)
            yield from _parse(self._file, self.path, self.separator, self._n_skipped, skip_blank=skip_blank)
        except (OSError, UnicodeDecodeError) as error:
            raise _unreadable(self.path, error) from error


def find_separator(lines: Sequence[str], path: Path) -> tuple[str, int]:
    """Return the separator of a table, and the number of lines before the table.

    Args:
        lines: The first lines of the table.
        path: Its file; spaces separate fields only in text files.
    """
    if lines and lines[0].casefold().strip('"\r\n ').startswith(_DECLARED):
        declared = lines[0].strip('"\r\n')[len(_DECLARED) :][:1]
        return (declared if declared in SEPARATORS else ","), 1
    is_spaced = any(suffix.casefold() in _SPACED_SUFFIXES for suffix in path.suffixes[-2:])
    counts = {separator: _count_fields(lines, separator) for separator in SEPARATORS if is_spaced or separator != " "}
    several = {separator: found for separator, found in counts.items() if found and found[0] > 1}
    regular = {separator: found[0] for separator, found in several.items() if len(set(found)) == 1}
    if regular:
        return max(regular, key=lambda separator: (separator != " ", regular[separator], separator == ",")), 0
    return ("," if "," in several else max(several, key=lambda separator: several[separator][0], default=",")), 0


def _count_fields(lines: Sequence[str], separator: str) -> list[int]:
    """Return the number of fields in each row that is complete in the first lines."""
    reader = csv.reader(lines, delimiter=separator, strict=True)
    counts: list[int] = []
    with suppress(csv.Error):  # the last row may continue after the first lines; the reading reports a misplaced quotation mark
        counts.extend(len(row) for row in reader if row)
    return counts


def _parse(file: IO[str], path: Path, separator: str, n_skipped: int, *, skip_blank: bool) -> Iterator[tuple[int, Row]]:
    """Yield the first line number and the fields of each row. Equal fields are one string in memory.

    Raises:
        DataError: A quotation mark is misplaced, or a field contains a NUL character.
    """
    reader = csv.reader(file, delimiter=separator, strict=True)
    known: dict[str, str] = {}
    keep = known.setdefault
    while True:
        line = reader.line_num + 1 + n_skipped
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise DataError(
                f"A quotation mark in a CSV table must enclose a whole field; '{path}' is not valid CSV from line {line} on "
                f"({error}). Remove the quotation mark, or close it before the next separator."
            ) from error
        if _NUL in "".join(row):
            raise DataError(
                f"A table must be a text file; line {line} of '{path}' contains a NUL character. Save it as CSV in UTF-8."
            )
        if row or not skip_blank:
            yield line, [keep(text, text) for text in row]


def _check_length(row: Row, n_fields: int, line: int, path: Path, separator: str) -> None:
    if len(row) != n_fields:
        raise DataError(
            f"Each row of a table must have as many fields as its first line; line {line} of '{path}' has {len(row)} instead "
            f"of {n_fields}. Enclose text that contains {_A[separator]} in quotation marks, or correct the number of "
            f"{SEPARATORS[separator]}."
        )


def _check_hidden_rows(numbered: Sequence[tuple[int, Row]], path: Path, separator: str) -> None:
    """Check that no field consists of rows between two misplaced quotation marks, which are valid CSV.

    Besides the numbers of fields, a field of these rows must be in the same column elsewhere, such as a label.
    """
    counts: dict[int, Counter[str]] = {}
    for line, row in numbered:
        joined = "".join(row)
        if "\n" not in joined and "\r" not in joined:
            continue
        for column, text in enumerate(row):
            for place, part in _rows_in_field(text, column, len(row), separator):
                if place not in counts:
                    counts[place] = Counter(other[place] for _, other in numbered)
                if part and counts[place][part] > (row[place] == part):
                    raise DataError(
                        f"A quotation mark in a CSV table must be closed in the same row; a field of line {line} of '{path}' "
                        "contains the following rows. Remove the quotation mark."
                    )


def _rows_in_field(text: str, column: int, n_fields: int, separator: str) -> list[tuple[int, str]]:
    """Split a field into (column, field) as if it were the rows between two quotation marks in a column.

    The first line is then the end of a row from this column on, the last line the start of a row up to this column, and each
    line between is a row. The list is empty if the numbers of fields are others, as in nearly all text with line breaks.
    """
    if separator not in text or len(text.splitlines()) < 2:
        return []
    first, *between, last = [line.split(separator) for line in text.splitlines()]
    if len(first) != n_fields - column or len(last) != column + 1 or any(len(parts) != n_fields for parts in between):
        return []
    return [
        *enumerate(first[1:], start=column + 1),
        *(place for parts in between for place in enumerate(parts)),
        *enumerate(last[:-1]),
    ]
