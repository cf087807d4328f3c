"""The style of all figures: legible on a phone and suitable for colour-blind readers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import plotly.graph_objects as go

TEXT_COLOUR, ACCENT, PALE = "#1f2933", "#c2410c", "#9aa5b1"
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#6b6ecf", "#8c6d31")
"""The colours of Okabe and Ito, which are suitable for colour-blind readers, and two more; one for each class."""
SCALE = "Viridis"
_DASHES = ("solid", "dash", "dot")


def colour_of(position: int) -> str:
    """Return the colour of the n-th item of a figure."""
    return COLOURS[position % len(COLOURS)]


def line_of(position: int) -> dict[str, str]:
    """Return the colour and the dash of the n-th curve of a figure, which differ for up to three times as many as colours."""
    dash = _DASHES[position // len(COLOURS) % len(_DASHES)]
    return {"color": colour_of(position)} | ({} if dash == "solid" else {"dash": dash})


def styled(figure: go.Figure, title: str, **layout: Any) -> go.Figure:
    """Apply the common style and the title; the legend is below the plot, so that the plot has the full width."""
    return figure.update_layout(
        template="plotly_white",
        title={"text": title, "font": {"size": 16}},
        font={"color": TEXT_COLOUR},
        colorway=list(COLOURS),
        legend={"orientation": "h", "yanchor": "top", "y": -0.2, "x": 0},
        margin={"l": 60, "r": 20, "t": 60, "b": 60},
    ).update_layout(**layout)


def joined_lines(lines: list[tuple[Any, Any, str]]) -> dict[str, list[Any]]:
    """Return lines (x, y, text) as one trace with gaps between them, because a figure with hundreds of traces is slow."""
    joined: dict[str, list[Any]] = {"x": [], "y": [], "text": []}
    for x, y, text in lines:
        joined["x"] += [*x, None]
        joined["y"] += [*y, None]
        joined["text"] += [text] * (len(x) + 1)
    return joined
