"""Ensembles of a study: how much each member counts, and what each method gains on patients that it was not fitted on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd

from automl_cxr.results.figures.style import ACCENT, PALE, styled

if TYPE_CHECKING:
    import plotly.graph_objects as go

_ROW = 34  # pixels a bar or an interval


def weights_table(record: Mapping[str, Any]) -> pd.DataFrame:
    """Tabulate member, weight and score, one row a member, from what an ensemble's JSON file holds."""
    return pd.DataFrame(record["members"])[["name", "weight", "score"]].rename(columns={"name": "member"})


def plot_weights(record: Mapping[str, Any], title: str) -> go.Figure:
    """Show how much each member of an ensemble counts."""
    import plotly.graph_objects as go  # a second to load, and most commands draw nothing

    table = weights_table(record)
    figure = go.Figure(
        go.Bar(
            x=table["weight"],
            y=table["member"],
            orientation="h",
            customdata=table["score"],
            hovertemplate="%{y}: weight %{x:.3f}, alone %{customdata:.4f}<extra></extra>",
        )
    )
    return _rows(figure, title, "weight", len(table))


def gains_table(record: Mapping[str, Any]) -> pd.DataFrame:
    """Tabulate method, fitted, out_of_fold, gain, gain_low and gain_high, one row a method, from an ensemble's JSON file.

    The gain over the best member and its 95 % interval are of patients left out; where there were too few patients for that,
    there is ``fitted`` alone.
    """
    return pd.DataFrame(record["methods"])


def plot_gains(record: Mapping[str, Any], title: str) -> go.Figure | None:
    """Show the gain of each method over the best member with its 95 % interval; None where none was judged."""
    import plotly.graph_objects as go

    table = gains_table(record)
    if "gain" not in table:
        return None
    table = table[table["method"] != "best"]
    chosen = [ACCENT if name == record["method"] else PALE for name in table["method"]]
    figure = go.Figure()
    for (_, row), colour in zip(table.iterrows(), chosen, strict=True):
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
    return _rows(figure, title, f"gain in {record['objective']} over the best member", len(table))


def _rows(figure: go.Figure, title: str, x: str, n_rows: int) -> go.Figure:
    return styled(figure, title, xaxis_title=x, yaxis={"autorange": "reversed", "automargin": True}, height=160 + _ROW * n_rows)
