"""Small HTML tables with escaped text, by which notebooks show objects (``_repr_html_``).

Colours come from the notebook, so that the tables can be read in light and dark themes. Jinja2 is not used, because records of
trials are imported by every command and by worker processes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from automl_cxr.terminal import printable_line

_TABLE = "border-collapse: collapse; margin: .3em 0; color: inherit; background: transparent"
_CELL = (
    "padding: .2em .8em .2em 0; border: 0; border-bottom: 1px solid rgba(128, 128, 128, .35); text-align: left; "
    "vertical-align: top; background: transparent; color: inherit; font-variant-numeric: tabular-nums; "
    "white-space: normal; overflow-wrap: anywhere"
)
_TITLE = "font-weight: 600; margin: .4em 0 .1em"
_NOTE = "margin: .3em 0; max-width: 60em"
_WARNING = f"{_NOTE}; border-left: .3em solid #d98a00; padding-left: .6em"


def facts_table(facts: Mapping[str, Any]) -> str:
    """Return a table with a row for each name and value. Values that are None are omitted."""
    shown = {name: value for name, value in facts.items() if value is not None}
    return _table(_row(("th", "td"), pair) for pair in shown.items())


def rows_table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Return a table with a header. None is an empty cell."""
    n_columns = len(header)
    return _table((_row(("th",) * n_columns, header), *(_row(("td",) * n_columns, row) for row in rows)))


def title_line(text: str) -> str:
    """Return a title."""
    return _paragraph(text, _TITLE)


def note_line(text: str) -> str:
    """Return a paragraph."""
    return _paragraph(text, _NOTE)


def warning_line(text: str) -> str:
    """Return a paragraph with a coloured bar at its left."""
    return _paragraph(text, _WARNING)


def escaped(value: Any) -> str:
    """Format a value as HTML text: floats with four decimals or four digits, control characters as in Python."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        text = f"{value:.4f}" if 0.01 <= abs(value) < 1000 or value == 0 else f"{value:.4g}"
    else:
        text = f"{value:,}" if isinstance(value, int) else str(value)
    return escape(printable_line(text))


def _paragraph(text: str, style: str) -> str:
    return f'<div style="{style}">{escaped(text)}</div>'


def _table(rows: Iterable[str]) -> str:
    return f'<table style="{_TABLE}">{"".join(rows)}</table>'


def _row(tags: Sequence[str], cells: Sequence[Any]) -> str:
    shown = (f'<{tag} style="{_CELL}">{escaped(cell)}</{tag}>' for tag, cell in zip(tags, cells, strict=True))
    return f"<tr>{''.join(shown)}</tr>"
