"""The record of a splice search in the folder of its study: scores and costs of all pairs, without their heads."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from automl_cxr.io import write_text
from automl_cxr.study.store import explained_disk_errors, read_record

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
    """

    first: str
    second: str
    cuts: tuple[tuple[str, ...], tuple[str, ...]]
    table: pd.DataFrame
    parents: pd.DataFrame
    n_train: int
    n_valid: int

    @classmethod
    def from_json(cls, text: str) -> SpliceRecord:
        values = json.loads(text)
        tables = {
            name: pd.read_json(io.StringIO(json.dumps(values[name])), orient="split", precise_float=True)
            for name in ("table", "parents")
        }
        first, second = values["cuts"]
        return cls(**{**values, **tables, "cuts": (tuple(first), tuple(second))})

    def to_json(self) -> str:
        tables = {
            name: json.loads(getattr(self, name).to_json(orient="split", index=False, double_precision=15))
            for name in ("table", "parents")
        }
        return json.dumps({**vars(self), **tables}, ensure_ascii=False)


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
