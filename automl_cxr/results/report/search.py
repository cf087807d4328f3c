"""The sections about the search: history, learning curves, hyperparameters and costs."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from automl_cxr.errors import StudyError
from automl_cxr.results.figures import Figures
from automl_cxr.results.figures.trade_offs import plot_cost
from automl_cxr.results.html_page import Part, Plot, Section, Table, Text
from automl_cxr.results.report.report_data import ReportData
from automl_cxr.results.report.summary import failures_table
from automl_cxr.results.splice_plots import describe_splices, plot_splices
from automl_cxr.scoring.objectives import COSTS
from automl_cxr.splicing.record import load_splices

if TYPE_CHECKING:
    import plotly.graph_objects as go

_MAX_FAILURES = 30


def search_section(data: ReportData) -> Section:
    """Show the history of scores, learning curves, losses of the best trial and the reasons of failures."""
    figures, number = Figures(data.store), data.best.number
    step = "fold" if data.split.folds else "epoch"
    parts: list[Part] = [
        plot_or_reason(figures.history, "Score of every trial, in the order of trial numbers."),
        plot_or_reason(
            figures.learning_curves, f"Score after each {step}. The best trials are coloured. Click a name to hide its curve."
        ),
        plot_or_reason(
            lambda: figures.loss(number), "The network overfits where the validation loss rises and the training loss falls."
        ),
    ]
    failures = failures_table(data)
    if len(failures):
        caption = "Failed and refused trials"
        shown = f": the first {_MAX_FAILURES} of {len(failures)}" if len(failures) > _MAX_FAILURES else ""
        parts.append(Table(failures.head(_MAX_FAILURES), caption + shown))
    return Section("Search", parts)


def hyperparameters_section(data: ReportData) -> Section:
    """Show the relation between hyperparameters and scores."""
    figures = Figures(data.store)
    return Section(
        "Hyperparameters",
        [
            plot_or_reason(
                figures.parallel_coordinates,
                "Each line is a finished trial. It has no point on the axes of hyperparameters that were inactive.",
            ),
            plot_or_reason(
                figures.importance,
                "Importance: how strongly each hyperparameter distinguishes the best tenth of the trials from the others. "
                "Importances of few trials are unreliable. Conditional hyperparameters are compared within the trials in which "
                "they are active, so their shares cannot be compared with those of the others.",
            ),
            plot_or_reason(figures.slices, "Score of each finished trial against each hyperparameter."),
        ],
    )


def costs_section(data: ReportData) -> Section:
    """Show the first objective against the other objectives and against size, computation and latency."""
    spec, figures = data.spec, Figures(data.store)
    others = [name for name in spec.objectives[1:] if name not in COSTS]
    costs = [name for name in COSTS if name == "parameters" or name in spec.objectives]
    front = "The line connects the trials of the Pareto front: no other trial is better in every objective."
    cheapest = "The line connects the trials for which no cheaper trial has at least the same score."
    parts = [plot_or_reason(partial(figures.pareto, name), front) for name in others]
    parts += [plot_or_reason(partial(figures.cost, name), cheapest) for name in costs]
    if data.milliseconds and "latency" not in costs:
        caption = f"{cheapest} The latency of each saved model was measured for this report, one model after the other."
        parts.append(plot_or_reason(partial(plot_cost, data.store, "latency", known=data.milliseconds), caption))
    elif "latency" not in costs:
        parts.append(Text("Latency is not known. `automl-cxr report --latency` measures the latency of the saved models."))
    return Section("Score against costs", parts)


def splices_section(data: ReportData) -> Section:
    """Show the scores of all pairs of cuts, if the study splices two networks."""
    record = load_splices(data.store.folder)
    if record is None:
        return Section("Splices", [])
    return Section("Splices", [*(Text(sentence) for sentence in describe_splices(record)), Plot(plot_splices(record))])


def plot_or_reason(draw: Callable[[], go.Figure], caption: str) -> Part:
    """Return the figure with its caption, or the reason why the study has no such figure."""
    try:
        return Plot(draw(), caption)
    except StudyError as error:
        return Text(str(error))
