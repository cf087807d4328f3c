"""Figures of decisions by the probabilities: decision curves, and risk against coverage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pandas as pd

from automl_cxr.results.figures.style import PALE, TEXT_COLOUR, colour_of, styled
from automl_cxr.results.figures.thinning import thinned
from automl_cxr.results.outcome_tables import net_benefits
from automl_cxr.scoring.net_benefit import CURVE_THRESHOLDS
from automl_cxr.scoring.predictions import Predictions

if TYPE_CHECKING:
    import plotly.graph_objects as go

_PANEL_HEIGHT, _PANEL_GAP = 330, 95  # pixels; the gap has the title of an axis and of the next panel
_MARGIN = {"l": 60, "r": 20, "t": 90, "b": 90}
_MARGIN_OF_THRESHOLDS = 0.05
_MAX_POINTS = 1000  # of a curve of risks
_BELOW_ZERO = 0.25  # the part of the curve below this share of its largest net benefit is not shown


def decision_curves(predictions: Predictions, normal_class: int | None) -> pd.DataFrame:
    """Return the net benefit at thresholds of 1 to 99 %; see ``results.outcome_tables.net_benefits`` for the columns."""
    return net_benefits(predictions, normal_class, thresholds=CURVE_THRESHOLDS)


def plot_decision_curves(curves: pd.DataFrame, title: str) -> go.Figure:
    """Plot the net benefit against the threshold, with its interval, in one panel for each outcome.

    Args:
        curves: Result of ``decision_curves``, with at least one outcome.
        title: Title of the figure.
    """
    from plotly.subplots import make_subplots  # takes a second to import

    outcomes = list(dict.fromkeys(curves["outcome"]))
    n_columns = min(2, len(outcomes))
    n_rows = -(-len(outcomes) // n_columns)
    height = _PANEL_HEIGHT * n_rows + _MARGIN["t"] + _MARGIN["b"]
    spacing = _PANEL_GAP / (_PANEL_HEIGHT * n_rows) if n_rows > 1 else 0
    figure = make_subplots(
        rows=n_rows, cols=n_columns, subplot_titles=outcomes, vertical_spacing=spacing, horizontal_spacing=0.1
    )
    for number, outcome in enumerate(outcomes):
        panel = (number // n_columns + 1, number % n_columns + 1)
        _add_panel(figure, curves[curves["outcome"] == outcome], panel, has_legend=number == 0)
    return styled(
        figure, title, height=height, margin=_MARGIN, legend={"orientation": "h", "yanchor": "top", "y": -60 / height, "x": 0}
    )


def _add_panel(figure: go.Figure, curve: pd.DataFrame, panel: tuple[int, int], *, has_legend: bool) -> None:
    row, column = panel
    thresholds = curve["threshold"]
    lines: Sequence[tuple[str, str, dict[str, str]]] = (
        ("treat_none", "treat none", {"color": PALE}),
        ("treat_all", "treat all", {"color": TEXT_COLOUR, "dash": "dash"}),
        ("net_benefit", "model", {"color": colour_of(0)}),
    )
    figure.add_scatter(
        x=[*thresholds, *thresholds[::-1]], y=[*curve["net_benefit_high"], *curve["net_benefit_low"][::-1]], fill="toself",
        fillcolor="rgba(0, 114, 178, 0.15)", line={"width": 0}, hoverinfo="skip", name="95% interval by patient",
        showlegend=has_legend, row=row, col=column,
    )  # fmt: skip
    for name, text, line in lines:
        figure.add_scatter(
            x=thresholds, y=curve[name], mode="lines", line=line, name=text, showlegend=has_legend, row=row, col=column,
            hovertemplate=f"threshold %{{x:.2f}}, {text} %{{y:.3f}}<extra></extra>",
        )  # fmt: skip
    top = max(curve["net_benefit_high"].max(), curve["treat_all"].max())
    used = thresholds[curve["net_benefit"] != 0]  # rare findings have no higher probabilities
    right = min(1.0, used.max() + _MARGIN_OF_THRESHOLDS) if len(used) else 1.0
    figure.update_xaxes(title_text="threshold probability", range=[0, right], row=row, col=column)
    figure.update_yaxes(title_text="net benefit", range=[-_BELOW_ZERO * top, 1.05 * top], row=row, col=column)


def plot_risk_coverage(risks: pd.DataFrame, title: str) -> go.Figure:
    """Plot the share of errors against the share of decisions that are made.

    Args:
        risks: Result of ``scoring.risk_coverage.risk_coverage_table``.
        title: Title of the figure.
    """
    import plotly.graph_objects as go  # takes a second to import

    shown = thinned(risks, _MAX_POINTS)
    figure = go.Figure(
        go.Scatter(
            x=shown["coverage"],
            y=shown["risk"],
            customdata=shown["confidence"],
            mode="lines",
            line={"color": colour_of(0)},
            hovertemplate="coverage %{x:.2f}, risk %{y:.3f}, confidence from %{customdata:.3f}<extra></extra>",
        )
    )
    return styled(
        figure,
        title,
        xaxis={"title": "coverage: share of the decisions that are made", "range": [0, 1.01]},
        yaxis={"title": "risk: share of errors", "rangemode": "tozero"},
    )
