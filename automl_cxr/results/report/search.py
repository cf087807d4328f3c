"""How the search went: history, curves, hyperparameters, what quality costs."""

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

_MOST_FAILURES = 30


def search_section(evidence: ReportData) -> Section:
    """Show scores in order and learning curves, and why trials failed."""
    figures, number = Figures(evidence.store), evidence.best.number
    step = "fold" if evidence.split.folds else "epoch"
    parts: list[Part] = [
        drawn(figures.history, "The score of every trial in the order of their numbers."),
        drawn(figures.learning_curves, f"The score after each {step}. The best trials have a colour; click a name to hide it."),
        drawn(
            lambda: figures.loss(number), "Where the validation loss rises while the training loss falls, a network overfits."
        ),
    ]
    failures = failures_table(evidence)
    if len(failures):
        told = "Trials that failed or were refused"
        more = f": the first {_MOST_FAILURES} of {len(failures)}" if len(failures) > _MOST_FAILURES else ""
        parts.append(Table(failures.head(_MOST_FAILURES), told + more))
    return Section("Search", parts)


def hyperparameters_section(evidence: ReportData) -> Section:
    """Show which hyperparameters went with which scores."""
    figures = Figures(evidence.store)
    return Section(
        "Hyperparameters",
        [
            drawn(
                figures.parallel_coordinates,
                "Each line is a finished trial; it passes by hyperparameters that were not active, without a point.",
            ),
            drawn(figures.importance, "What set the best tenth of the trials apart; with few trials little can be told."),
            drawn(figures.slices, "The score of each finished trial against one hyperparameter at a time."),
        ],
    )


def costs_section(evidence: ReportData) -> Section:
    """Show what quality costs: several objectives against the first, then the costs that trials know."""
    spec, figures = evidence.spec, Figures(evidence.store)
    others = [name for name in spec.objectives[1:] if name not in COSTS]
    costs = [name for name in COSTS if name == "parameters" or name in spec.objectives]
    is_measured = bool(evidence.milliseconds) and "latency" not in costs
    front, cheaper = (
        "Joined are the trials that no other beats in every objective.",
        "Joined are those that nothing cheaper beats.",
    )
    parts = [drawn(partial(figures.pareto, name), front) for name in others]
    parts += [drawn(partial(figures.cost, name), cheaper) for name in costs]
    if is_measured:
        told = f"{cheaper} Measured one after the other when this report was written, of the trials that keep their model."
        parts.append(drawn(partial(plot_cost, evidence.store, "latency", known=evidence.milliseconds), told))
    elif "latency" not in costs:
        parts.append(Text("Latency is not known. `automl-cxr report --latency` measures that of the kept models."))
    return Section("Quality against costs", parts)


def splices_section(evidence: ReportData) -> Section:
    """Show the heat map over the cuts of two networks, where the study is one of splices."""
    record = load_splices(evidence.store.folder)
    if record is None:
        return Section("Splices", [])
    return Section("Splices", [*(Text(sentence) for sentence in describe_splices(record)), Plot(plot_splices(record))])


def drawn(draw: Callable[[], go.Figure], caption: str) -> Part:
    """Draw a figure, or say why there is none."""
    try:
        return Plot(draw(), caption)
    except StudyError as error:
        return Text(str(error))
