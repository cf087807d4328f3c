"""Pictures of a study, as Plotly figures. Each is made of numbers first: a table that can be read and tested alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from automl_cxr.errors import StudyError, UnknownNameError
from automl_cxr.records import TrialState
from automl_cxr.results.classifier import explain_no_model
from automl_cxr.results.importance import PED_ANOVA, importance_table
from automl_cxr.scoring.confusion import confusion_matrix
from automl_cxr.study.store import StudyStore

ON_FRONT, DOMINATED, INFEASIBLE = "Pareto front", "dominated", "infeasible"

if TYPE_CHECKING:
    import plotly.graph_objects as go


class Figures:
    """The pictures of one study; a method each."""

    def __init__(self, store: StudyStore) -> None:
        self._store = store

    def __repr__(self) -> str:
        drawn = "history(), learning_curves(), confusion(trial=None), pareto(x=None, y=None), importance()"
        return f"Figures of study '{self._store.name}': {drawn}"

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

        eligible = self._store.eligible()
        if trial is None and not eligible:
            raise StudyError(explain_no_model(self._store))
        number = eligible[0].number if trial is None else self._store.record(trial).number
        table = confusion_table(self._store, number)
        figure = go.Figure(
            go.Heatmap(z=table.to_numpy(), x=list(table.columns), y=list(table.index), texttemplate="%{z}", colorscale="Blues")
        )
        return figure.update_layout(
            title=f"{'Out of fold' if self._store.spec.folds else 'Validation part'}, trial {number}",
            xaxis_title="predicted",
            yaxis={"title": "true", "autorange": "reversed"},
        )

    def importance(self, *, evaluator: str = PED_ANOVA) -> go.Figure:
        """Show how much each hyperparameter mattered, as bars; errors as in ``results.importance.importance_table``."""
        import plotly.graph_objects as go

        table = importance_table(self._store, evaluator=evaluator)
        table = table[table["left_out"] == ""]
        figure = go.Figure(go.Bar(x=table["importance"], y=table["parameter"], orientation="h"))
        return figure.update_layout(
            title=f"Hyperparameter importances of {self._store.name} ({evaluator})",
            xaxis_title=f"share for {self._store.spec.objective}",
            yaxis={"autorange": "reversed"},
        )

    def pareto(self, x: str | None = None, y: str | None = None) -> go.Figure:
        """Show the finished trials in two objectives, those that no other one beats in every objective joined by a line.

        Args:
            x: Objective to the right; by default the second.
            y: Objective upwards; by default the first.

        Raises:
            StudyError: The study has one objective only.
            UnknownNameError: It has no such objective.
        """
        import plotly.graph_objects as go

        names = self._store.spec.objectives
        if len(names) < 2:
            raise StudyError(f"A Pareto front needs several objectives; study '{self._store.name}' has {names[0]} alone.")
        x, y = x or names[1], y or names[0]
        for name in (x, y):
            if name not in names:
                raise UnknownNameError("objective", name, names)
        table = pareto_table(self._store)
        figure = go.Figure()
        for kind, rows in table.groupby("kind", sort=False):
            figure.add_scatter(
                x=rows[x],
                y=rows[y],
                mode="lines+markers" if kind == ON_FRONT else "markers",
                name=str(kind),
                text=[f"trial {number}" for number in rows["trial"]],
                opacity=1.0 if kind == ON_FRONT else 0.5,
            )
        return figure.update_layout(title=f"Objectives of {self._store.name}", xaxis_title=x, yaxis_title=y)


def pareto_table(store: StudyStore) -> pd.DataFrame:
    """Tabulate trial, kind (on the front, dominated, infeasible) and every objective, one row a finished trial.

    The rows of the front come first, in the order of the second objective.
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


def history_table(store: StudyStore) -> pd.DataFrame:
    """Tabulate trial, state, score and the best score so far, one row a trial that has a score."""
    rows, best = [], None
    for record in store.records(TrialState.COMPLETE, TrialState.PRUNED):
        if record.score is None:
            continue
        is_counted = record.state is TrialState.COMPLETE and record.is_feasible
        if is_counted and (best is None or store.is_better(record.score, best)):
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
