"""Figures of the progress of a search: history, learning curves and losses, each as a table and a figure.

``optuna.visualization`` is not used: its history omits pruned trials and, with several objectives, the best value; its plot of
intermediate values has one trace for each trial, which is too slow for thousands of trials.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from automl_cxr.errors import StudyError
from automl_cxr.records import TrialState
from automl_cxr.results.figures.style import ACCENT, PALE, joined_lines, styled
from automl_cxr.study.store import StudyStore

if TYPE_CHECKING:
    import plotly.graph_objects as go

_MAX_NAMED = 8  # learning curves with a colour and a legend entry; a longer legend is hard to read
_MAX_CURVES = 150  # other learning curves


def history_table(store: StudyStore) -> pd.DataFrame:
    """Return trial, state, score and the best score so far, one row for each trial that has a score."""
    rows, best = [], None
    for record in store.records(TrialState.COMPLETE, TrialState.PRUNED):
        if record.score is None:
            continue
        is_counted = record.state is TrialState.COMPLETE and record.is_feasible
        if is_counted and (best is None or store.is_better(record.score, best)):
            best = record.score
        rows.append({"trial": record.number, "state": str(record.state), "score": record.score, "best_so_far": best})
    return pd.DataFrame(rows, columns=["trial", "state", "score", "best_so_far"])


def plot_history(store: StudyStore) -> go.Figure:
    """Plot the score of every trial in order, and the best score so far."""
    import plotly.graph_objects as go  # takes a second to import and is not needed by most commands

    table = history_table(store)
    figure = go.Figure()
    for state, rows in table.groupby("state", sort=False):
        figure.add_scatter(x=rows["trial"], y=rows["score"], mode="markers", name=str(state))
    figure.add_scatter(
        x=table["trial"], y=table["best_so_far"], mode="lines", name="best so far", line={"shape": "hv", "color": ACCENT}
    )
    return styled(figure, f"Search history of {store.name}", xaxis_title="trial", yaxis_title=store.spec.objective)


def curves_table(store: StudyStore) -> pd.DataFrame:
    """Return trial, state, epoch (with folds: fold) and score, one row for each reported epoch (fold)."""
    step = "fold" if store.spec.folds else "epoch"
    rows = [
        {"trial": record.number, "state": str(record.state), step: number, "score": score}
        for record in store.records()
        for number, score in sorted(record.scores.items())
    ]
    return pd.DataFrame(rows, columns=["trial", "state", step, "score"])


def plot_learning_curves(store: StudyStore) -> go.Figure:
    """Plot the validation score of trials by epoch; with folds the score of each fold.

    The eight best trials have a colour and a name. Up to 150 others are grey.
    """
    import plotly.graph_objects as go

    table = curves_table(store)
    step = table.columns[2]
    curves = dict(list(table.groupby("trial")))
    named = [record.number for record in store.ranked() if record.number in curves][:_MAX_NAMED]
    others = [number for number in curves if number not in named]
    shown = _evenly_spaced(others, _MAX_CURVES)
    figure = go.Figure()
    if shown:
        figure.add_scatter(
            **joined_lines([(curves[number][step], curves[number]["score"], f"trial {number}") for number in shown]),
            mode="lines",
            name="others" if len(shown) == len(others) else f"{len(shown)} of {len(others)} others",
            line={"color": PALE, "width": 1},
            opacity=0.5,
        )
    for number in named:
        rows = curves[number]
        figure.add_scatter(x=rows[step], y=rows["score"], mode="lines+markers", name=f"trial {number}", marker={"size": 4})
    title = f"{'Folds' if step == 'fold' else 'Learning curves'} of {store.name}"
    return styled(figure, title, xaxis_title=step, yaxis_title=store.spec.objective)


def _evenly_spaced(items: list[Any], n: int) -> list[Any]:
    """Return at most n items, evenly spaced from the first to the last."""
    return items if len(items) <= n else [items[index] for index in np.linspace(0, len(items) - 1, n).round().astype(int)]


def loss_table(store: StudyStore, number: int) -> pd.DataFrame:
    """Return epoch, loss and valid_loss of a COMPLETE trial, one row for each epoch; with folds also the column fold.

    Raises:
        StudyError: The trial's history cannot be read.
    """
    file = store.trial_folder(number) / "history.csv"
    try:
        table = pd.read_csv(file)
    except (OSError, ValueError) as error:
        raise StudyError(f"The history of trial {number} cannot be read ({error}). Restore {file}.") from error
    return table[[*(["fold"] if "fold" in table else []), "epoch", "loss", "valid_loss"]]


def plot_loss(store: StudyStore, number: int) -> go.Figure:
    """Plot training and validation loss of a COMPLETE trial by epoch; errors as in ``loss_table``."""
    import plotly.graph_objects as go

    table = loss_table(store, number)
    folds = list(table.groupby("fold")) if "fold" in table else [(0, table)]
    figure = go.Figure()
    for name, column, dash in (("training", "loss", "dot"), ("validation", "valid_loss", "solid")):
        lines = [(rows["epoch"], rows[column], f"fold {fold!s}" if fold else name) for fold, rows in folds]
        figure.add_scatter(**joined_lines(lines), mode="lines", name=name, line={"dash": dash})
    return styled(figure, f"Loss of trial {number}", xaxis_title="epoch", yaxis_title="loss")
