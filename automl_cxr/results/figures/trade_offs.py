"""Figures of the trade-off between objectives, and between the score and model size, computation or latency.

``optuna.visualization.plot_pareto_front`` is not used: it supports only two or three objectives and does not
draw the front as a line.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from automl_cxr.engine.pareto import is_on_front
from automl_cxr.errors import StudyError, UnknownNameError
from automl_cxr.records import TrialRecord
from automl_cxr.results.figures.style import ACCENT, styled
from automl_cxr.scoring.objectives import COSTS
from automl_cxr.study.store import StudyStore

if TYPE_CHECKING:
    import plotly.graph_objects as go

ON_FRONT, DOMINATED, INFEASIBLE = "Pareto front", "dominated", "infeasible"
_UNITS = {
    "parameters": "parameters",
    "multiply_adds": "multiply-adds per image",
    "weight_bytes": "bytes of the weights",
    "latency": "milliseconds per image",
}


def pareto_table(store: StudyStore) -> pd.DataFrame:
    """Return trial, kind (on the front, dominated, infeasible) and every objective, one row for each finished trial.

    The rows of the front are first, sorted by the second objective.
    """
    names, front = store.spec.objectives, {record.number for record in store.pareto_front()}
    rows = []
    for record in store.ranked():
        kind = ON_FRONT if record.number in front else DOMINATED if record.is_feasible else INFEASIBLE
        rows.append({"trial": record.number, "kind": kind, **dict(zip(names, record.values, strict=True))})
    table = pd.DataFrame(rows, columns=["trial", "kind", *names])
    off_front = table["kind"] != ON_FRONT
    return (
        table.assign(off_front=off_front).sort_values(["off_front", names[1]]).drop(columns="off_front").reset_index(drop=True)
    )


def plot_pareto(store: StudyStore, x: str | None = None, y: str | None = None) -> go.Figure:
    """Plot the finished trials in two objectives; a line connects the Pareto front.

    Args:
        store: The study.
        x: Objective on the horizontal axis; by default the second.
        y: Objective on the vertical axis; by default the first.

    Raises:
        StudyError: The study has only one objective.
        UnknownNameError: The study has no such objective.
    """
    names = store.spec.objectives
    if len(names) < 2:
        raise StudyError(f"A Pareto front needs several objectives; study '{store.name}' has only {names[0]}.")
    x, y = x or names[1], y or names[0]
    for name in (x, y):
        if name not in names:
            raise UnknownNameError("objective", name, names)
    return _plot(pareto_table(store), x, y, f"Objectives of {store.name}")


def cost_table(store: StudyStore, cost: str = "parameters", *, known: Mapping[int, float] | None = None) -> pd.DataFrame:
    """Return trial, kind, the first objective and a cost, one row for each finished trial whose cost is known.

    The rows of the Pareto front are first, the cheapest at the top.

    Args:
        store: The study.
        cost: A name in ``COSTS``. Latency is recorded only if it is an objective.
        known: Cost by trial, if it was measured after the search; by default the recorded one.

    Raises:
        UnknownNameError: There is no such cost.
    """
    if cost not in COSTS:
        raise UnknownNameError("cost", cost, COSTS)
    objective = store.spec.objective
    rows = []
    for record in store.ranked():
        value = _recorded(store, record, cost) if known is None else known.get(record.number)
        if value is not None:
            kind = DOMINATED if record.is_feasible else INFEASIBLE
            rows.append({"trial": record.number, "kind": kind, objective: record.score, cost: value})
    table = pd.DataFrame(rows, columns=["trial", "kind", objective, cost])
    feasible = (table["kind"] == DOMINATED).to_numpy()
    sign = -1 if store.study.directions[0].name == "MAXIMIZE" else 1
    losses = np.column_stack([sign * table[objective], table[cost]]).astype(np.float64)
    table.loc[np.flatnonzero(feasible)[is_on_front(losses[feasible])], "kind"] = ON_FRONT
    off_front = table["kind"] != ON_FRONT
    return table.assign(off=off_front).sort_values(["off", cost]).drop(columns="off").reset_index(drop=True)


def _recorded(store: StudyStore, record: TrialRecord, cost: str) -> float | None:
    """Return a recorded cost of a trial: from its objectives or its facts; None if unknown."""
    if cost == "parameters":
        return record.n_parameters
    values = dict(zip(store.spec.objectives, record.values, strict=False))
    return values.get(cost, store.facts(record.number).get(cost))


def plot_cost(store: StudyStore, cost: str = "parameters", *, known: Mapping[int, float] | None = None) -> go.Figure:
    """Plot the score of the finished trials against a cost; a line connects the Pareto front.

    Arguments as in ``cost_table``.

    Raises:
        UnknownNameError: There is no such cost.
        StudyError: The cost of no finished trial is known.
    """
    table = cost_table(store, cost, known=known)
    if table.empty:
        raise StudyError(
            f"No finished trial of study '{store.name}' has a recorded {cost}. Search with --objective {cost} too."
        )
    figure = _plot(table, cost, store.spec.objective, f"Score against {cost.replace('_', '-')}")
    return figure.update_xaxes(type="log" if table[cost].min() > 0 else "linear", title=_UNITS[cost], exponentformat="SI")


def _plot(table: pd.DataFrame, x: str, y: str, title: str) -> go.Figure:
    import plotly.graph_objects as go  # takes a second to import and is not needed by most commands

    figure = go.Figure()
    for kind, rows in table.groupby("kind", sort=False):
        is_front = kind == ON_FRONT
        figure.add_scatter(
            x=rows[x],
            y=rows[y],
            mode="lines+markers" if is_front else "markers",
            name=str(kind),
            text=[f"trial {number}" for number in rows["trial"]],
            opacity=1.0 if is_front else 0.5,
            **({"line": {"color": ACCENT}} if is_front else {}),
        )
    return styled(figure, title, xaxis_title=x, yaxis_title=y)
