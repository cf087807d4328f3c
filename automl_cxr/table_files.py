"""Text and cells of table files: compression, encodings and Excel workbooks. The fields are read in ``csv_io.py``."""

from __future__ import annotations

import codecs
import gzip
import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, datetime
from pathlib import Path
from typing import IO, Any
from zipfile import BadZipFile

WORKBOOK_SUFFIXES = (".xlsx", ".xlsm")
_GZIP_MAGIC = b"\x1f\x8b"
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_SAMPLE_BYTES = 2**16  # for the guess of an encoding


def is_workbook(path: Path) -> bool:
    """Return whether a file is an Excel workbook by its suffix."""
    return path.suffix.casefold() in WORKBOOK_SUFFIXES


@contextmanager
def open_text(path: Path) -> Iterator[tuple[IO[str], str]]:
    """Open a text file that may be compressed with gzip, in any encoding. Line ends are unchanged.

    Yields:
        The open file and the name of its encoding.

    Raises:
        ValueError: The content is not text, or not valid gzip.
        OSError: The file cannot be read.
    """
    encoding = _find_encoding(path)
    with _open_bytes(path) as file, io.TextIOWrapper(file, encoding=encoding, newline="") as text:
        yield text, encoding


@contextmanager
def _open_bytes(path: Path) -> Iterator[IO[bytes]]:
    with path.open("rb") as file:
        is_gzip = file.read(2) == _GZIP_MAGIC
        file.seek(0)
        if not is_gzip:
            yield file
            return
        with gzip.open(file) as unpacked:
            yield unpacked  # type: ignore[misc]


def _find_encoding(path: Path) -> str:
    """Return utf-8 if the whole file is valid, else an encoding by its byte order mark or by its characters."""
    try:
        with _open_bytes(path) as file:
            content = file.read()
    except (EOFError, gzip.BadGzipFile) as error:
        raise ValueError(f"damaged gzip ({error})") from error
    for mark, name in _MARKS:
        if content.startswith(mark):
            return name
    if _utf16_without_mark(content):
        return _utf16_without_mark(content)
    try:
        content.decode("utf-8")
    except UnicodeDecodeError as error:
        if b"\0" in content:
            raise ValueError(str(error)) from error
    else:
        return "utf-8"
    from charset_normalizer import from_bytes

    lines = [line for line in content.splitlines() if not line.isascii()]
    best = from_bytes(b"\n".join(lines)[:_SAMPLE_BYTES], cp_exclusion=["utf_7"]).best()
    guess = "cp1252" if best is None else best.encoding
    for encoding in (guess, "cp1252", "latin-1"):
        try:
            content.decode(encoding)
        except (UnicodeDecodeError, LookupError):
            continue
        return encoding
    raise ValueError("its encoding is unknown")


def _utf16_without_mark(content: bytes) -> str:
    """Return the byte order of UTF-16 if every second byte of the first characters is zero; else an empty string."""
    first = content[:200]
    for encoding, zeros, letters in (("utf-16-le", first[1::2], first[::2]), ("utf-16-be", first[::2], first[1::2])):
        if zeros and not any(zeros[:20]) and all(letters[:20]):
            return encoding
    return ""


def read_workbook(path: Path) -> list[list[str]]:
    """Read the first sheet of an Excel workbook that has cells. Whole numbers have no decimals, as they are displayed.

    Returns:
        The rows with the texts of their cells, filled to equal length, without empty rows and columns at the end.

    Raises:
        ValueError: The file is not a workbook, or several of its sheets have cells.
        OSError: The file cannot be read.
    """
    from openpyxl import load_workbook

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about styles that openpyxl does not know
        try:
            book = load_workbook(path, read_only=True, data_only=True)
            sheets = {sheet.title: _cells(sheet) for sheet in book.worksheets}
            book.close()
        except OSError:
            raise
        except (BadZipFile, KeyError, ValueError, TypeError, AttributeError, SyntaxError) as error:
            raise ValueError(f"not an Excel workbook ({error})") from error
    filled = {title: rows for title, rows in sheets.items() if rows}
    if len(filled) > 1:
        raise ValueError(f"a workbook with several sheets ({', '.join(filled)}); save the one to use as CSV")
    return next(iter(filled.values()), [])


def _cells(sheet: Any) -> list[list[str]]:
    rows = [[_text(value) for value in row] for row in sheet.iter_rows(values_only=True)]
    width = max((number for row in rows for number, text in enumerate(row, start=1) if text), default=0)
    return [[*row[:width], *[""] * (width - len(row))] for row in rows if any(row)]


def _text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, datetime):
        return value.isoformat(sep=" ")
    return value.isoformat() if isinstance(value, date) else str(value)
