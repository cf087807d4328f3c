"""Pictures of a study, as Plotly figures. Each is made of numbers first: a table that can be read and tested alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from automl_cxr.errors import StudyError
from automl_cxr.records import TrialState
from automl_cxr.scoring.metrics import confusion_matrix
from automl_cxr.study.store import StudyStore

if TYPE_CHECKING:
    import plotly.graph_objects as go


class Figures:
    """The pictures of one study; a method each."""

    def __init__(self, store: StudyStore) -> None:
        self._store = store

    def __repr__(self) -> str:
        return f"Figures of study '{self._store.name}': history(), learning_curves(), confusion(trial=None)"

    def history(self) -> go.Figure:
        """Show the score of every trial in order, and the best so far."""
        import plotly.graph_objects as go  # a second to load, and most commands draw nothing

        table = history_table(self._store)
        figure = go.Figure()
        for state, rows in table.groupby("state", sort=False):
            figure.add_scatter(x=rows["trial"], y=rows["score"], mode="markers", name=str(state))
        figure.add_scatter(x=table["trial"], y=table["best_so_far"], mode="lines", name="best so far", line_shape="hv")
        return figure.update_layout(
            title=f"Search history of {self._store.name}", xaxis_title="trial", yaxis_title=self._store.spec.objective
        )

    def learning_curves(self) -> go.Figure:
        """Show the validation score of every trial, epoch by epoch; with folds the score of each fold."""
        import plotly.graph_objects as go

        step = "fold" if self._store.spec.folds else "epoch"
        figure = go.Figure()
        for number, rows in curves_table(self._store).groupby("trial"):
            state = rows["state"].iloc[0]
            figure.add_scatter(
                x=rows[step],
                y=rows["score"],
                mode="lines+markers",
                name=f"trial {number} ({state})",
                opacity=1.0 if state == TrialState.COMPLETE else 0.4,
            )
        return figure.update_layout(
            title=f"{'Folds' if step == 'fold' else 'Learning curves'} of {self._store.name}",
            xaxis_title=step,
            yaxis_title=self._store.spec.objective,
        )

    def confusion(self, trial: int | None = None) -> go.Figure:
        """Show the validation confusion matrix of a trial, by default of the best.

        Raises:
            StudyError: There is no such trial, or none is finished.
        """
        import plotly.graph_objects as go

        ranked = self._store.ranked()
        if trial is None and not ranked:
            raise StudyError(f"Study '{self._store.name}' has no finished trial yet. Continue the search.")
        number = ranked[0].number if trial is None else self._store.record(trial).number
        table = confusion_table(self._store, number)
        figure = go.Figure(
            go.Heatmap(z=table.to_numpy(), x=list(table.columns), y=list(table.index), texttemplate="%{z}", colorscale="Blues")
        )
        return figure.update_layout(
            title=f"{'Out of fold' if self._store.spec.folds else 'Validation part'}, trial {number}",
            xaxis_title="predicted",
            yaxis={"title": "true", "autorange": "reversed"},
        )


def history_table(store: StudyStore) -> pd.DataFrame:
    """Tabulate trial, state, score and the best score so far, one row a trial that has a score."""
    rows, best = [], None
    for record in store.records(TrialState.COMPLETE, TrialState.PRUNED):
        if record.score is None:
            continue
        if record.state is TrialState.COMPLETE and (best is None or store.is_better(record.score, best)):
            best = record.score
        rows.append({"trial": record.number, "state": str(record.state), "score": record.score, "best_so_far": best})
    return pd.DataFrame(rows, columns=["trial", "state", "score", "best_so_far"])


def curves_table(store: StudyStore) -> pd.DataFrame:
    """Tabulate trial, state, epoch (with folds: fold) and score, one row an epoch (a fold) that was reported."""
    step = "fold" if store.spec.folds else "epoch"
    rows = [
        {"trial": record.number, "state": str(record.state), step: number, "score": score}
        for record in store.records()
        for number, score in record.scores.items()
    ]
    return pd.DataFrame(rows, columns=["trial", "state", step, "score"])


def confusion_table(store: StudyStore, number: int) -> pd.DataFrame:
    """Count validation images by true class (rows) and predicted class (columns)."""
    predictions = store.predictions(number)
    counts = confusion_matrix(predictions.labels, predictions.predicted, len(predictions.classes))
    return pd.DataFrame(counts, index=list(predictions.classes), columns=list(predictions.classes))
