"""Plotly figures of a study. The data of each figure are available as a table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from automl_cxr.errors import StudyError
from automl_cxr.results.classifier import explain_no_model
from automl_cxr.results.figures.hyperparameters import plot_importance, plot_parallel_coordinates, plot_slices
from automl_cxr.results.figures.quality import plot_confusion, plot_precision_recall, plot_reliability, plot_roc
from automl_cxr.results.figures.search import plot_history, plot_learning_curves, plot_loss
from automl_cxr.results.figures.trade_offs import plot_cost, plot_pareto
from automl_cxr.results.importance import PED_ANOVA
from automl_cxr.scoring.predictions import Predictions
from automl_cxr.study.store import StudyStore

if TYPE_CHECKING:
    import plotly.graph_objects as go

_METHODS = (
    "history(), learning_curves(), loss(trial=None), parallel_coordinates(), importance(), slices(), pareto(x=None, y=None), "
    "cost(name='parameters'), confusion(trial=None), roc(trial=None), precision_recall(trial=None), reliability(trial=None)"
)


class Figures:
    """The figures of one study, one method for each. ``trial`` is by default the best finished trial.

    Every method raises ``StudyError`` if the study has no data for the figure.
    """

    def __init__(self, store: StudyStore) -> None:
        self._store = store

    def __repr__(self) -> str:
        return f"Figures of study '{self._store.name}': {_METHODS}"

    def history(self) -> go.Figure:
        """Plot the score of every trial in order, and the best score so far."""
        return plot_history(self._store)

    def learning_curves(self) -> go.Figure:
        """Plot the validation score of trials by epoch; see ``search.plot_learning_curves``."""
        return plot_learning_curves(self._store)

    def loss(self, trial: int | None = None) -> go.Figure:
        """Plot training and validation loss of a trial by epoch."""
        return plot_loss(self._store, self._resolve_trial(trial))

    def parallel_coordinates(self) -> go.Figure:
        """Plot the best trials as lines over all searched hyperparameters, coloured by score."""
        return plot_parallel_coordinates(self._store)

    def importance(self, *, evaluator: str = PED_ANOVA) -> go.Figure:
        """Plot the importance of each hyperparameter; see ``results.importance.importance_table``."""
        return plot_importance(self._store, evaluator=evaluator)

    def slices(self) -> go.Figure:
        """Plot the score against each searched hyperparameter."""
        return plot_slices(self._store)

    def pareto(self, x: str | None = None, y: str | None = None) -> go.Figure:
        """Plot the finished trials in two objectives with the Pareto front; see ``trade_offs.plot_pareto``."""
        return plot_pareto(self._store, x, y)

    def cost(self, name: str = "parameters") -> go.Figure:
        """Plot the score against a cost: "parameters", "multiply_adds", "weight_bytes" or "latency" (if it is an objective)."""
        return plot_cost(self._store, name)

    def confusion(self, trial: int | None = None) -> go.Figure:
        """Plot the confusion matrix of a trial on the validation part, or out of fold."""
        return plot_confusion(*self._predictions(trial, "Confusion matrix"))

    def roc(self, trial: int | None = None) -> go.Figure:
        """Plot a trial's ROC curve of each class against the rest."""
        return plot_roc(*self._predictions(trial, "ROC"))

    def precision_recall(self, trial: int | None = None) -> go.Figure:
        """Plot a trial's precision-recall curve of each class against the rest."""
        return plot_precision_recall(*self._predictions(trial, "Precision and recall"))

    def reliability(self, trial: int | None = None) -> go.Figure:
        """Plot a trial's accuracy against its confidence, with the expected calibration error."""
        return plot_reliability(*self._predictions(trial, "Reliability"))

    def _resolve_trial(self, trial: int | None) -> int:
        if trial is not None:
            return self._store.record(trial).number
        eligible = self._store.eligible()
        if not eligible:
            raise StudyError(explain_no_model(self._store))
        return eligible[0].number

    def _predictions(self, trial: int | None, title: str) -> tuple[Predictions, str]:
        number = self._resolve_trial(trial)
        part = "out of fold" if self._store.spec.folds else "validation part"
        return self._store.predictions(number), f"{title}: trial {number}, {part}"
