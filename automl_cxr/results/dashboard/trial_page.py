"""The page of a trial: its scores, losses and the quality of its predictions, as interactive Plotly figures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from automl_cxr.records import TrialRecord
from automl_cxr.results.figures.quality import plot_confusion, plot_precision_recall, plot_reliability, plot_roc
from automl_cxr.results.figures.search import plot_loss
from automl_cxr.results.figures.style import styled
from automl_cxr.results.html_page import Part, Plot, Section, Text, render_page
from automl_cxr.study.store import PREDICTIONS_FILE, StudyStore

if TYPE_CHECKING:
    import plotly.graph_objects as go

PAGE_FILE = "figures.html"


def has_page(record: TrialRecord) -> bool:
    """Return whether the trial has a score, and therefore a page."""
    return bool(record.scores)


def render_trial_page(store: StudyStore, number: int) -> str:
    """Render the page of a trial. A trial without predictions has the figure of its scores only.

    Raises:
        StudyError: The study has no such trial, or one of the trial's files is damaged.
    """
    record = store.record(number)
    has_predictions = (store.trial_folder(number) / PREDICTIONS_FILE).is_file()
    figures = FIGURES if has_predictions else {"scores": _plot_scores}
    parts: list[Part] = [Plot(plot(store, number)) for plot in figures.values()]
    if not has_predictions:
        parts.append(Text(f"The trial is {record.state} and has no predictions, so only its scores are shown."))
    return render_page(f"Trial {number} of study {store.name}", [Section("Figures", parts)])


def render_problem_page(number: int, reason: str) -> str:
    """Render the page of a trial whose figures cannot be drawn, with the reason."""
    return render_page(f"Trial {number}", [Section("Figures", [Text(reason, is_warning=True)])])


def _plot_scores(store: StudyStore, number: int) -> go.Figure:
    import plotly.graph_objects as go

    scores = sorted(store.record(number).scores.items())
    step, objective = "fold" if store.spec.folds else "epoch", store.spec.objective
    figure = go.Figure(go.Scatter(x=[at for at, _ in scores], y=[score for _, score in scores], mode="lines+markers"))
    return styled(figure, f"Trial {number}: {objective} after each {step}", xaxis_title=step, yaxis_title=objective)


def _title(store: StudyStore, number: int, figure: str) -> str:
    return f"{figure}: trial {number}, {'out of fold' if store.spec.folds else 'validation part'}"


FIGURES: Mapping[str, Callable[[StudyStore, int], go.Figure]] = MappingProxyType(
    {
        "scores": _plot_scores,
        "loss": plot_loss,
        "confusion": lambda store, number: plot_confusion(store.predictions(number), _title(store, number, "Confusions")),
        "roc": lambda store, number: plot_roc(store.predictions(number), _title(store, number, "ROC")),
        "precision_recall": lambda store, number: plot_precision_recall(
            store.predictions(number), _title(store, number, "Precision and recall")
        ),
        "reliability": lambda store, number: plot_reliability(store.predictions(number), _title(store, number, "Reliability")),
    }
)
"""Functions of a store and a trial number that return the figures of a trial, in order. To add a figure, add one row."""
