"""The record of a splice search in the folder of its study: scores and costs of all pairs, without their heads."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from automl_cxr.io import write_text
from automl_cxr.splicing.table import columns_of, parent_columns_of
from automl_cxr.study.store import explained_disk_errors, read_record
from automl_cxr.text_records import build_record, parse_json

AS_TRAINED = ", as trained"  # suffix of the name of a parent that is a trial with its trained head
_FILE = "splices.json"


@dataclass(frozen=True)
class SpliceRecord:
    """The scores of all pairs of cuts of two branches.

    Attributes:
        first: Name of the first branch.
        second: Name of the second branch.
        cuts: Scored cuts of each branch, from shallow to deep.
        table: Leaderboard, see ``splicing.table.tabulate``.
        parents: Comparison of the best pair with complete networks, see ``splicing.table.compare_with_parents``.
        n_train: Number of training images.
        n_valid: Number of validation images, on which pairs are scored.
        metric: Metric that ranks the pairs.
    """

    first: str
    second: str
    cuts: tuple[tuple[str, ...], tuple[str, ...]]
    table: pd.DataFrame
    parents: pd.DataFrame
    n_train: int
    n_valid: int
    metric: str = "macro_f1"

    @classmethod
    def from_json(cls, text: str) -> SpliceRecord:
        """Restore a record from ``to_json``.

        Raises:
            ValueError: The text is not such a record.
        """
        saved: _SavedRecord = build_record(_SavedRecord, parse_json(text))
        tables = {
            "table": _to_frame(saved.table, columns_of(saved.metric)),
            "parents": _to_frame(saved.parents, parent_columns_of(saved.metric)),
        }
        return cls(**{**vars(saved), **tables})

    def to_json(self) -> str:
        tables = {
            name: json.loads(getattr(self, name).to_json(orient="split", index=False, double_precision=15))
            for name in ("table", "parents")
        }
        return json.dumps({**vars(self), **tables}, ensure_ascii=False)


@dataclass(frozen=True)
class _SavedTable:
    """A table in JSON, as pandas writes it with ``orient="split"``."""

    columns: tuple[str, ...]
    data: tuple[tuple[str | bool | int | float | None, ...], ...]


@dataclass(frozen=True)
class _SavedRecord:
    """A ``SpliceRecord`` in JSON."""

    first: str
    second: str
    cuts: tuple[tuple[str, ...], tuple[str, ...]]
    table: _SavedTable
    parents: _SavedTable
    n_train: int
    n_valid: int
    metric: str = "macro_f1"


def _to_frame(table: _SavedTable, columns: Sequence[str]) -> pd.DataFrame:
    """Convert a table; an empty one has no columns.

    Raises:
        ValueError: A column is missing, or a row has another length.
    """
    missing = [name for name in columns if name not in table.columns]
    if (missing and table.data) or len(set(table.columns)) < len(table.columns):
        raise ValueError(f"a table must have the columns {', '.join(columns)}; received {', '.join(table.columns)}")
    if any(len(row) != len(table.columns) for row in table.data):
        raise ValueError("a row of a table has another length than its header")
    return pd.DataFrame(list(table.data), columns=list(table.columns))


def save_splices(folder: Path, record: SpliceRecord) -> None:
    """Write the scores of all pairs to the folder of the study that trains the best pairs.

    Raises:
        StudyError: The folder cannot be written.
    """
    with explained_disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / _FILE, record.to_json())


def load_splices(folder: Path) -> SpliceRecord | None:
    """Return the scores of all pairs from a study's folder; None if the study is not from a splice search.

    Raises:
        StudyError: The file is damaged.
    """
    file = folder / _FILE
    return read_record(file, SpliceRecord.from_json) if file.is_file() else None
