"""Output: results (tables and JSON) on stdout, messages and progress on stderr.

Control characters of names and messages are escaped in everything that a person reads. Files, and JSON and CSV that another
program reads, contain the original values.
"""

from __future__ import annotations

import contextlib
import logging
import math
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from automl_cxr.errors import UsageError
from automl_cxr.io import atomic_write
from automl_cxr.terminal import printable_json, printable_line, printable_text

if TYPE_CHECKING:
    import pandas as pd
    from rich.progress import TaskID


def print_message(message: str) -> None:
    """Print a message of one line to stderr."""
    click.echo(printable_line(message), err=True)


def print_line(line: str) -> None:
    """Print a line of results to stdout."""
    click.echo(printable_line(line))


def print_text(text: str, *, err: bool = False) -> None:
    """Print several lines of results to stdout, or to stderr."""
    click.echo(printable_text(text).removesuffix("\n"), err=err)


def print_data(text: str) -> None:
    """Print CSV or another table format to stdout: unchanged for a program, with control characters escaped for a terminal."""
    click.echo(printable_text(text) if sys.stdout.isatty() else text, nl=False)


def escape_messages_of_libraries() -> None:
    """Escape control characters in the warnings and log messages that libraries print to stderr."""
    format_warning = warnings.formatwarning
    warnings.formatwarning = lambda *arguments, **options: printable_text(format_warning(*arguments, **options))
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(_PrintableFormatter())


class _PrintableFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return printable_text(super().format(record))


def print_table(table: pd.DataFrame, *, title: str) -> None:
    """Print a table to stdout. Lines that are wider than the terminal wrap."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=None, pad_edge=False)
    for column in table:
        is_text = table[column].map(lambda cell: isinstance(cell, str)).all()
        grid.add_column(Text(printable_line(str(column))), justify="left" if is_text else "right", no_wrap=True)
    for row in table.itertuples(index=False):
        grid.add_row(*(Text(printable_line(_cell(value))) for value in row))
    console = Console()
    console.print(Text(printable_line(title), style="bold"), soft_wrap=True)
    needed = console.measure(grid, options=console.options.update(width=10_000)).maximum
    Console(width=max(console.width, needed)).print(grid)


def _cell(value: Any) -> str:
    if value is None or value != value:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4f}" if abs(value) < 10 else f"{value:.1f}"
    return f"{value:,}" if isinstance(value, Integral) else str(value)


def short(value: Any) -> str:
    """Format the value of a hyperparameter with at most four significant digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def human_bytes(n_bytes: int) -> str:
    """Format a number of bytes, such as "812 kB" or "3.4 GB"."""
    size, unit = float(n_bytes), "bytes"
    for larger in ("kB", "MB", "GB", "TB"):
        if size < 1000:
            break
        size, unit = size / 1000, larger
    return f"{size:,.0f} {unit}" if unit == "bytes" or size >= 100 else f"{size:.1f} {unit}"


def print_json(value: Mapping[str, Any]) -> None:
    """Print a mapping to stdout as JSON. NaN and infinity become null."""
    import json

    click.echo(printable_json(json.dumps(_plain(value), indent=1, ensure_ascii=False)))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    value = value.item() if hasattr(value, "item") else value
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8, see ``write_bytes``."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file that is complete or unchanged if the disk is full. A link is followed; a device is written directly.

    Raises:
        UsageError: The file cannot be written.
    """
    target = path.resolve()
    try:
        if target.exists() and not target.is_file():  # such as /dev/stdout
            target.write_bytes(content)
        else:
            with atomic_write(target) as file:
                file.write(content)
    except OSError as error:
        raise UsageError(f"Cannot write {path} ({error.strerror or error}). Choose another --out.") from error


def write_table(path: Path, table: pd.DataFrame, kind: str, *, title: str) -> None:
    """Write a table to a file.

    Args:
        path: File to write.
        table: Table.
        kind: A name in ``results.tables.FORMATS``.
        title: Title of the table, for formats that have one.

    Raises:
        UsageError: The file cannot be written.
    """
    from automl_cxr.results.tables import format_table

    content = format_table(table, kind, title=title)
    write_bytes(path, content.encode("utf-8") if isinstance(content, str) else content)


def print_formatted(table: pd.DataFrame, kind: str) -> None:
    """Print a table to stdout in a format of ``results.tables.FORMATS``.

    Raises:
        UsageError: The format is binary.
    """
    from automl_cxr.results.tables import format_table

    content = format_table(table, kind)
    if isinstance(content, bytes):
        raise UsageError(f"The format {kind} is binary and cannot be printed. Write it to a file with --out.")
    print_data(content)


def progress_bar(title: str) -> AbstractContextManager[Callable[[int, int], None]]:
    """Return a context manager for a progress bar on stderr. Its value is called with (processed items, all items).

    Nothing is drawn if stderr is not a terminal.
    """
    return _drawn_bar(title) if sys.stderr.isatty() else contextlib.nullcontext(lambda _done, _all: None)


@contextlib.contextmanager
def _drawn_bar(title: str) -> Iterator[Callable[[int, int], None]]:
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as progress:
        tasks: list[TaskID] = []

        def on_progress(n_done: int, n_all: int) -> None:
            if not tasks:
                tasks.append(progress.add_task(title, total=n_all))
            progress.update(tasks[0], completed=n_done, total=n_all)

        yield on_progress


def check_out(path: Path | None) -> None:
    """Check that a file can be written, before the work starts.

    Raises:
        UsageError: The folder of the file does not exist, or the path is a folder.
    """
    if path is not None and (not path.absolute().parent.is_dir() or path.is_dir()):
        raise UsageError(f"Cannot write {path}: its folder must exist, and it must not be a folder. Choose another --out.")
