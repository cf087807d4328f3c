"""How every figure of this program looks: quiet, legible on a phone, and telling classes apart without red and green."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import plotly.graph_objects as go

INK, ACCENT, PALE = "#1f2933", "#c2410c", "#9aa5b1"
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#6b6ecf", "#8c6d31")
"""Okabe and Ito's colours, which people who are blind to some still tell apart, and two more; a class each, in turn."""
SCALE = "Viridis"


def colour_of(position: int) -> str:
    """Give a colour for the n-th of things that are drawn beside each other."""
    return COLOURS[position % len(COLOURS)]


def styled(figure: go.Figure, title: str, **layout: Any) -> go.Figure:
    """Give a figure its title and the looks of all, with the legend below, where it leaves the width to the picture."""
    return figure.update_layout(
        template="plotly_white",
        title={"text": title, "font": {"size": 16}},
        font={"color": INK},
        colorway=list(COLOURS),
        legend={"orientation": "h", "yanchor": "top", "y": -0.2, "x": 0},
        margin={"l": 60, "r": 20, "t": 60, "b": 60},
    ).update_layout(**layout)
