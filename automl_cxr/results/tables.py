"""Export of tables as CSV, JSON, Markdown, HTML, XLSX and LaTeX. A new format is one row of ``FORMATS``.

A CSV table is written by one of two functions. ``to_plain_csv`` writes tables that a command of this program reads: the cleaned
table of `data audit --fix`, and the predictions of `predict` and `ensemble apply`. Their cells are unchanged, so that classes,
patients and image names are the same after reading. ``to_csv`` writes all other tables, which people open in a spreadsheet
(leaderboards, splices, errors, changes of an audit, the index of explanations): it escapes formulas.
"""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pandas as pd

from automl_cxr.csv_io import format_rows
from automl_cxr.errors import UnknownNameError, UsageError
from automl_cxr.results.html_page import Section, Table, Text, render_page

_LATEX = str.maketrans(
    {
        **{character: f"\\{character}" for character in "&%$#_{}"},
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "\n": " ",
        "\r": " ",
    }
)
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
_SIGNED_NUMBER = re.compile(r"[+-](\d+(\.\d*)?|\.\d+)(e[+-]?\d+)?", re.IGNORECASE)
_FORBIDDEN_IN_XLSX = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f]")  # not allowed in XML 1.0


def table_of_rows(rows: Sequence[Mapping[str, Any]], columns: Sequence[str] | None = None) -> pd.DataFrame:
    """Create a table in which optional integers remain integers; pandas would convert them to floating point.

    Args:
        rows: The cells of each row by column. A missing cell is None or NaN.
        columns: The columns; None for those of the rows.
    """
    table = pd.DataFrame(rows, columns=None if columns is None else list(columns))
    for name in map(str, table.select_dtypes(float)):
        cells = [row.get(name) for row in rows]
        if any(isinstance(cell, Integral) for cell in cells) and all(map(_is_optional_integer, cells)):
            table[name] = pd.Series([math.nan if cell is None else cell for cell in cells], index=table.index, dtype=object)
    return table


def _is_optional_integer(cell: object) -> bool:
    return cell is None or isinstance(cell, Integral) or (isinstance(cell, float) and math.isnan(cell))


def format_table(table: pd.DataFrame, kind: str, *, title: str = "Leaderboard") -> str | bytes:
    """Convert a table to a format; Markdown, HTML, XLSX and LaTeX include the messages in ``attrs["notes"]``.

    Args:
        table: The table; its index is not written.
        kind: A name in ``FORMATS``.
        title: Title of a page or a sheet.

    Returns:
        Text, or the bytes of a spreadsheet.

    Raises:
        UnknownNameError: The format is unknown.
    """
    if kind not in FORMATS:
        raise UnknownNameError("format", kind, FORMATS)
    return FORMATS[kind](table, title)


def format_of(file: Path) -> str:
    """Return the format for the suffix of a file; CSV if there is no suffix.

    Raises:
        UsageError: The suffix is not that of a known format.
    """
    suffix = file.suffix.lower().removeprefix(".") or "csv"
    kind = {"tex": "latex"}.get(suffix, suffix)
    if kind not in FORMATS:
        raise UsageError(
            f"A table's file name must end in .csv, .json, .md, .html, .xlsx or .tex; received {file.name}. Change the "
            "suffix, or specify the format with --format."
        )
    return kind


def safe_cells(table: pd.DataFrame) -> pd.DataFrame:
    """Prefix cells and headers that a spreadsheet would interpret as a formula with an apostrophe (OWASP "CSV injection").

    Numbers, such as -1 and +0.5, are not formulas and are unchanged.
    """

    def escape(cell: object) -> object:
        is_formula = isinstance(cell, str) and cell.startswith(_FORMULA_STARTS) and not _SIGNED_NUMBER.fullmatch(cell)
        return f"'{cell}" if is_formula else cell

    # The type of each column is set, because pandas would convert integers with gaps to floating point.
    return pd.DataFrame(
        {escape(name): pd.Series([escape(cell) for cell in table[name]], dtype=table[name].dtype) for name in table}
    )


def fold_intervals(table: pd.DataFrame) -> pd.DataFrame:
    """Replace each pair of ``_low`` and ``_high`` columns by one text column, for display."""
    folded: dict[str, Any] = {}
    for column in map(str, table.columns):
        name, ends = column.removesuffix("_low"), f"{column.removesuffix('_low')}_high"
        if column.endswith("_low") and ends in table:
            pairs = zip(table[column], table[ends], strict=True)
            folded[f"{name} 95%"] = ["" if math.isnan(low) else f"{low:.3f}..{high:.3f}" for low, high in pairs]
        elif not (column.endswith("_high") and f"{column.removesuffix('_high')}_low" in table):
            folded[column] = table[column]
    return table.assign(**folded)[list(folded)]


def to_csv(table: pd.DataFrame, _title: str = "") -> str:
    """Return a table as CSV for people; cells that a spreadsheet would interpret as formulas are escaped."""
    return safe_cells(table).to_csv(index=False)


def to_plain_csv(table: pd.DataFrame) -> str:
    """Return a table without missing values as CSV for programs; ``csv_io.read_rows`` reads the same strings."""
    return format_rows([list(table.columns), *table.itertuples(index=False, name=None)])


def to_json(table: pd.DataFrame, _title: str = "") -> str:
    """Return a table as a JSON list of rows; NaN is replaced by null, because JSON does not support NaN.

    ``attrs["row_fields"]`` contains pairs of the cells that identify a row, and further fields of this row, which are not cells
    of the table.
    """
    text = table.to_json(orient="records", indent=1, force_ascii=False, double_precision=15) + "\n"
    row_fields = table.attrs.get("row_fields", ())
    if not row_fields:
        return text
    rows = json.loads(text)
    for identity, fields in row_fields:
        for row in rows:
            if identity.items() <= row.items():
                row.update(fields)
    return json.dumps(rows, indent=1, ensure_ascii=False) + "\n"


def _to_markdown(table: pd.DataFrame, _title: str) -> str:
    cells = _format_cells(table)
    rows = [list(cells.columns), ["---"] * len(cells.columns), *cells.to_numpy()]
    lines = ["| " + " | ".join(_escape_markdown(str(cell)) for cell in row) + " |\n" for row in rows]
    return "".join([*lines, *(f"\n{note}\n" for note in _notes(table))])


def _escape_markdown(text: str) -> str:
    """Escape column separators and HTML in a cell."""
    return re.sub(r"\s+", " ", text).replace("|", "\\|").replace("<", "&lt;")


def _to_html(table: pd.DataFrame, title: str) -> str:
    notes = [Text(note, is_warning=True) for note in _notes(table)]
    return render_page(title, [Section("Table", [*notes, Table(_format_cells(table))])])


def _to_latex(table: pd.DataFrame, _title: str) -> str:
    """Return a booktabs table: text is left-aligned, other columns are right-aligned."""
    cells = _format_cells(fold_intervals(table))
    is_text = [name in table and all(isinstance(cell, str) for cell in table[name]) for name in cells]
    rows = [r" & ".join(str(cell).translate(_LATEX) for cell in row) + r" \\" for row in [list(cells), *cells.to_numpy()]]
    lines = [
        r"% \usepackage{booktabs}",
        f"\\begin{{tabular}}{{{''.join('l' if text else 'r' for text in is_text)}}}",
        r"\toprule",
        rows[0],
        r"\midrule",
        *rows[1:],
        r"\bottomrule",
        r"\end{tabular}",
        *(f"% {' '.join(note.split())}" for note in _notes(table)),
    ]
    return "\n".join(lines) + "\n"


def _to_xlsx(table: pd.DataFrame, title: str) -> bytes:
    """Return a sheet with a frozen header. Text cells are never formulas."""
    import openpyxl  # 0.2 s to import

    workbook = openpyxl.Workbook()
    sheet = workbook.active
    sheet.title = re.sub(r"[\[\]:*?/\\]", " ", title)[:31] or "Table"
    safe = safe_cells(table)
    for values in [list(safe.columns), *safe.astype(object).itertuples(index=False), *([note] for note in _notes(table))]:
        sheet.append([_spreadsheet_value(value) for value in values])
    sheet.freeze_panes = "A2"
    file = io.BytesIO()
    workbook.save(file)
    return file.getvalue()


def _spreadsheet_value(value: object) -> object:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return None
    if isinstance(value, bool | int | float):
        return value
    return _FORBIDDEN_IN_XLSX.sub(" ", str(value)) if not hasattr(value, "item") else value.item()


def _notes(table: pd.DataFrame) -> tuple[str, ...]:
    return tuple(table.attrs.get("notes", ()))


def _format_cells(table: pd.DataFrame) -> pd.DataFrame:
    """Format scores with four decimals, hyperparameters and small values with four digits, and missing values as ""."""

    def format_cell(name: str, cell: object) -> object:
        if isinstance(cell, bool):
            return "yes" if cell else "no"
        if not isinstance(cell, float):
            return "" if cell is None else cell
        if math.isnan(cell):
            return ""
        return f"{cell:.4g}" if name.startswith("params_") or 0 < abs(cell) < 0.01 else f"{cell:.4f}"

    return pd.DataFrame({name: [format_cell(str(name), cell) for cell in table[name]] for name in table}, dtype=object)


FORMATS: Mapping[str, Callable[[pd.DataFrame, str], str | bytes]] = MappingProxyType(
    {"csv": to_csv, "json": to_json, "md": _to_markdown, "html": _to_html, "xlsx": _to_xlsx, "latex": _to_latex}
)
"""Export formats by name: functions from a table and its title to the content of the file."""
