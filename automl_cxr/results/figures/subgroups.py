"""The figure of the scores of groups of patients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pandas as pd

from automl_cxr.results.figures.style import PALE, TEXT_COLOUR, colour_of, styled

if TYPE_CHECKING:
    import plotly.graph_objects as go

_ROW_HEIGHT, _PANEL_GAP = 26, 95  # pixels
_MARGIN = {"l": 60, "r": 20, "t": 90, "b": 60}


def plot_subgroups(groups: pd.DataFrame, scores: pd.DataFrame, metrics: Sequence[str], title: str) -> go.Figure:
    """Plot the score of each group with its interval and its expected score, in one panel for each metric.

    Args:
        groups: Rows of ``SubgroupAnalysis.groups``. Groups that are not compared are pale.
        scores: ``SubgroupAnalysis.scores``.
        metrics: Names of the metrics.
        title: Title of the figure.
    """
    import plotly.graph_objects as go  # takes a second to import
    from plotly.subplots import make_subplots

    names = [f"{row.column}: {row.group} ({row.patients})" for row in groups.itertuples()]
    columns = list(dict.fromkeys(groups["column"]))
    expected = scores.set_index(["column", "group", "metric"])["expected"]
    colours = [
        PALE if reason else colour_of(columns.index(column))
        for column, reason in zip(groups["column"], groups["not_compared"], strict=True)
    ]
    n_columns = min(2, len(metrics))
    n_rows = -(-len(metrics) // n_columns)
    panel_height = _ROW_HEIGHT * (len(names) + 1)
    height = n_rows * panel_height + (n_rows - 1) * _PANEL_GAP + _MARGIN["t"] + _MARGIN["b"]
    figure = make_subplots(
        rows=n_rows,
        cols=n_columns,
        subplot_titles=list(metrics),
        shared_yaxes=True,
        vertical_spacing=_PANEL_GAP / (height - _MARGIN["t"] - _MARGIN["b"]) if n_rows > 1 else 0,
        horizontal_spacing=0.06,
    )
    for number, metric in enumerate(metrics):
        panel = {"row": number // n_columns + 1, "col": number % n_columns + 1}
        of_groups, low, high = (groups[name] for name in (metric, f"{metric}_low", f"{metric}_high"))
        for place, (name, colour) in enumerate(zip(names, colours, strict=True)):
            figure.add_trace(
                go.Scatter(
                    x=[low.iloc[place], high.iloc[place]],
                    y=[name, name],
                    mode="lines",
                    line={"color": colour, "width": 3},
                    hoverinfo="skip",
                    showlegend=False,
                ),
                **panel,
            )
        figure.add_trace(
            go.Scatter(
                x=of_groups,
                y=names,
                mode="markers",
                marker={"color": colours, "size": 10},
                customdata=list(zip(low, high, strict=True)),
                hovertemplate="%{y}: %{x:.3f} (%{customdata[0]:.3f} to %{customdata[1]:.3f})<extra></extra>",
                showlegend=False,
            ),
            **panel,
        )
        keys = zip(groups["column"], groups["group"], strict=True)
        figure.add_trace(
            go.Scatter(
                x=[expected.get((*key, metric)) for key in keys],
                y=names,
                mode="markers",
                marker={"color": TEXT_COLOUR, "symbol": "line-ns-open", "size": 14, "line": {"width": 2}},
                hovertemplate="%{y}: expected %{x:.3f}<extra></extra>",
                showlegend=False,
            ),
            **panel,
        )
    figure.update_yaxes(autorange="reversed", automargin=True)
    return styled(figure, title, height=height, margin=_MARGIN)
