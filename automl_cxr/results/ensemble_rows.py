"""The rows of a leaderboard for the ensembles of a study, and rows without a rank above the trials."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from automl_cxr.results.study_ensembles import read_ensembles
from automl_cxr.study.store import StudyStore


def ensemble_rows(store: StudyStore) -> list[dict[str, Any]]:
    """Return a row for each ensemble of a study: its name in the column trial, and its out-of-fold scores with intervals."""
    rows = []
    for name, record in read_ensembles(store).items():
        row: dict[str, Any] = {"study": store.name, "trial": f"ensemble {name}", "has_model": True}
        for scored in record["metrics"]:
            metric = scored["metric"]
            row |= {metric: _number(scored["score"])}
            row |= {f"{metric}_{end}": _number(scored[end]) for end in ("low", "high")}
        rows.append(row)
    return rows


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def add_rows_above(table: pd.DataFrame, rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Add rows above those of a leaderboard. Their cells in other columns are empty.

    Columns of external sites that the leaderboard lacks are added; other columns of the rows are not.
    """
    if not rows or table.empty:
        return table
    further = dict.fromkeys(name for row in rows for name in row if ":" in name and name not in table)
    columns = [*table.columns, *further]
    top = pd.DataFrame(rows).reindex(columns=columns).astype(object)
    joined = pd.concat([top.where(top.notna(), math.nan), table.reindex(columns=columns).astype(object)], ignore_index=True)
    joined.attrs = dict(table.attrs)
    return joined
