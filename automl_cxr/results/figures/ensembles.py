"""Figures of an ensemble: the weights of its members, and the out-of-fold gain of each method."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd

from automl_cxr.results.figures.style import ACCENT, PALE, styled

if TYPE_CHECKING:
    import plotly.graph_objects as go

_ROW_HEIGHT = 34  # pixels of a bar or an interval


def weights_table(record: Mapping[str, Any]) -> pd.DataFrame:
    """Return member, weight and score, one row for each member, from the content of an ensemble's JSON file."""
    return pd.DataFrame(record["members"])[["name", "weight", "score"]].rename(columns={"name": "member"})


def plot_weights(record: Mapping[str, Any], title: str) -> go.Figure:
    """Plot the weight of each member of an ensemble."""
    import plotly.graph_objects as go  # takes a second to import and is not needed by most commands

    table = weights_table(record)
    figure = go.Figure(
        go.Bar(
            x=table["weight"],
            y=table["member"],
            orientation="h",
            customdata=table["score"],
            hovertemplate="%{y}: weight %{x:.3f}, score of the member %{customdata:.4f}<extra></extra>",
        )
    )
    return _with_row_height(figure, title, "weight", len(table))


def gains_table(record: Mapping[str, Any]) -> pd.DataFrame:
    """Return method, fitted, out_of_fold, gain, gain_low and gain_high, one row for each method, from an ensemble's JSON file.

    The gain over the best member and its 95 % interval are out of fold. If there are too few patients for folds, the table has
    only the column ``fitted``.
    """
    return pd.DataFrame(record["methods"])


def plot_gains(record: Mapping[str, Any], title: str) -> go.Figure | None:
    """Plot the gain of each method over the best member with its 95 % interval; return None without out-of-fold scores."""
    import plotly.graph_objects as go

    table = gains_table(record)
    if "gain" not in table:
        return None
    table = table[table["method"] != "best"]
    colours = [ACCENT if name == record["method"] else PALE for name in table["method"]]
    figure = go.Figure()
    for (_, row), colour in zip(table.iterrows(), colours, strict=True):
        figure.add_scatter(
            x=[row["gain_low"], row["gain"], row["gain_high"]],
            y=[row["method"]] * 3,
            mode="lines+markers",
            line={"color": colour, "width": 3},
            marker={"size": [1, 10, 1], "color": colour},
            name=row["method"],
            hovertemplate=f"{row['gain']:+.4f} ({row['gain_low']:+.4f} to {row['gain_high']:+.4f})",
            showlegend=False,
        )
    figure.add_vline(x=0, line={"color": PALE, "dash": "dot"})
    return _with_row_height(figure, title, f"gain in {record['objective']} over the best member", len(table))


def _with_row_height(figure: go.Figure, title: str, x_title: str, n_rows: int) -> go.Figure:
    return styled(
        figure,
        title,
        xaxis_title=x_title,
        yaxis={"autorange": "reversed", "automargin": True},
        height=160 + _ROW_HEIGHT * n_rows,
    )
