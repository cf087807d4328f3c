"""Pictures of a study, as Plotly figures. Each is made of numbers first: a table that can be read and tested alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from automl_cxr.errors import StudyError
from automl_cxr.results.classifier import explain_no_model
from automl_cxr.results.figures.quality import plot_confusion, plot_precision_recall, plot_reliability, plot_roc
from automl_cxr.results.figures.search import (
    plot_history,
    plot_importance,
    plot_learning_curves,
    plot_loss,
    plot_parallel_coordinates,
    plot_slices,
)
from automl_cxr.results.figures.trade_offs import plot_cost, plot_pareto
from automl_cxr.results.importance import PED_ANOVA
from automl_cxr.scoring.predictions import Predictions
from automl_cxr.study.store import StudyStore

if TYPE_CHECKING:
    import plotly.graph_objects as go

_DRAWN = (
    "history(), learning_curves(), loss(trial=None), parallel_coordinates(), importance(), slices(), pareto(x=None, y=None), "
    "cost(name='parameters'), confusion(trial=None), roc(trial=None), precision_recall(trial=None), reliability(trial=None)"
)


class Figures:
    """The pictures of one study; a method each. ``trial`` is by default the best finished one.

    Every method raises ``StudyError`` where the study has not got what is to be drawn.
    """

    def __init__(self, store: StudyStore) -> None:
        self._store = store

    def __repr__(self) -> str:
        return f"Figures of study '{self._store.name}': {_DRAWN}"

    def history(self) -> go.Figure:
        """Show the score of every trial in order, and the best so far."""
        return plot_history(self._store)

    def learning_curves(self) -> go.Figure:
        """Show the validation score of trials, epoch by epoch; see ``search.plot_learning_curves``."""
        return plot_learning_curves(self._store)

    def loss(self, trial: int | None = None) -> go.Figure:
        """Show training and validation loss of a trial, epoch by epoch."""
        return plot_loss(self._store, self._chosen(trial))

    def parallel_coordinates(self) -> go.Figure:
        """Show the finished trials as lines over all searched hyperparameters, coloured by score."""
        return plot_parallel_coordinates(self._store)

    def importance(self, *, evaluator: str = PED_ANOVA) -> go.Figure:
        """Show how much each hyperparameter mattered; see ``results.importance.importance_table``."""
        return plot_importance(self._store, evaluator=evaluator)

    def slices(self) -> go.Figure:
        """Show the score against each searched hyperparameter."""
        return plot_slices(self._store)

    def pareto(self, x: str | None = None, y: str | None = None) -> go.Figure:
        """Show the finished trials in two objectives, with the front; see ``trade_offs.plot_pareto``."""
        return plot_pareto(self._store, x, y)

    def cost(self, name: str = "parameters") -> go.Figure:
        """Show the score against a cost: "parameters", "multiply_adds", "weight_bytes", "latency" (an objective)."""
        return plot_cost(self._store, name)

    def confusion(self, trial: int | None = None) -> go.Figure:
        """Show the confusion matrix of a trial on the validation part, or out of fold."""
        return plot_confusion(*self._judged(trial, "Confusions"))

    def roc(self, trial: int | None = None) -> go.Figure:
        """Show a trial's ROC curve of each class against the rest."""
        return plot_roc(*self._judged(trial, "ROC"))

    def precision_recall(self, trial: int | None = None) -> go.Figure:
        """Show a trial's precision-recall curve of each class against the rest."""
        return plot_precision_recall(*self._judged(trial, "Precision and recall"))

    def reliability(self, trial: int | None = None) -> go.Figure:
        """Show how often a trial is right against how sure it is, with its expected calibration error."""
        return plot_reliability(*self._judged(trial, "Reliability"))

    def _chosen(self, trial: int | None) -> int:
        if trial is not None:
            return self._store.record(trial).number
        eligible = self._store.eligible()
        if not eligible:
            raise StudyError(explain_no_model(self._store))
        return eligible[0].number

    def _judged(self, trial: int | None, what: str) -> tuple[Predictions, str]:
        number = self._chosen(trial)
        place = "out of fold" if self._store.spec.folds else "validation part"
        return self._store.predictions(number), f"{what}: trial {number}, {place}"
