"""Curves and matrices as SVG, for pages that take no Plotly figure of a trial: written in milliseconds, sharp at any size."""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from automl_cxr.results.figures.style import INK, PALE, colour_of

_WIDTH, _HEIGHT = 560, 400
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 20, 44, 76  # margins
_DEEPEST = (8, 81, 156)  # colour of a cell that holds all images of its class
_DARK = 0.5  # share from which white is read better
_LONGEST_NAME = 14
_Place = Callable[[float, float], tuple[float, float]]  # of a point, in pixels


@dataclass(frozen=True)
class Line:
    """A line of a drawing; points that are not numbers interrupt it."""

    name: str
    x: Sequence[float]
    y: Sequence[float]


def draw_lines(title: str, lines: Sequence[Line], *, x: str, y: str, is_share: bool = False) -> str:
    """Draw lines over common axes.

    Args:
        title: What stands above.
        lines: What is drawn, each in its colour, named below.
        x: Name of the axis to the right.
        y: Name of the axis upwards.
        is_share: Whether both axes go from 0 to 1, whatever the points.
    """
    points = [(float(a), float(b)) for line in lines for a, b in zip(line.x, line.y, strict=True) if math.isfinite(b)]
    (left, right), (low, high) = (
        [(0.0, 1.0), (0.0, 1.0)] if is_share else [_range([p[axis] for p in points]) for axis in (0, 1)]
    )

    def place(a: float, b: float) -> tuple[float, float]:
        across = (a - left) / (right - left) * (_WIDTH - _LEFT - _RIGHT)
        return _LEFT + across, _HEIGHT - _BOTTOM - (b - low) / (high - low) * (_HEIGHT - _TOP - _BOTTOM)

    parts = [*_axis(place, left, right, low, is_across=True), *_axis(place, low, high, left, is_across=False)]
    parts += [_text(_WIDTH / 2, _HEIGHT - 36, x), _text(16, _HEIGHT / 2 - 20, y, turn=-90)]
    names_left = _LEFT
    for number, line in enumerate(lines):
        parts += _polylines([place(a, b) if math.isfinite(b) else None for a, b in zip(line.x, line.y, strict=True)], number)
        parts.append(f"<rect x='{names_left}' y='{_HEIGHT - 20}' width='12' height='4' fill='{colour_of(number)}'/>")
        parts.append(_text(names_left + 16, _HEIGHT - 12, line.name, anchor="start"))
        names_left += 34 + 7 * len(line.name)
    return _drawing(title, parts)


def draw_matrix(title: str, counts: pd.DataFrame, *, rows: str, columns: str) -> str:
    """Draw counts as a matrix, each cell as dark as its share of the row."""
    n_rows, n_columns = counts.shape
    left, bottom = 130, _HEIGHT - 60
    width, height = (_WIDTH - left - _RIGHT) / n_columns, (bottom - _TOP) / n_rows
    shares = counts.to_numpy() / np.maximum(counts.to_numpy().sum(axis=1, keepdims=True), 1)
    parts = []
    for (row, column), share in np.ndenumerate(shares):
        x, y = left + column * width, _TOP + row * height
        shade = ",".join(str(round(255 - share * (255 - deepest))) for deepest in _DEEPEST)
        size = f"width='{width - 2:.1f}' height='{height - 2:.1f}'"
        parts.append(f"<rect x='{x:.1f}' y='{y:.1f}' {size} fill='rgb({shade})'/>")
        colour = "#fff" if share > _DARK else INK
        parts.append(_text(x + width / 2, y + height / 2 + 5, str(counts.iat[row, column]), size=16, colour=colour))
    for row, name in enumerate(counts.index):
        parts.append(_text(left - 8, _TOP + (row + 0.5) * height + 4, _shortened(name), anchor="end"))
    for column, name in enumerate(counts.columns):
        parts.append(_text(left + (column + 0.5) * width, bottom + 18, _shortened(name)))
    parts += [_text(left + width * n_columns / 2, _HEIGHT - 16, columns), _text(16, (_TOP + bottom) / 2, rows, turn=-90)]
    return _drawing(title, parts)


def _range(values: Sequence[float]) -> tuple[float, float]:
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _axis(place: _Place, start: float, end: float, other: float, *, is_across: bool) -> list[str]:
    parts = []
    for tick in np.linspace(start, end, 5):
        x, y = place(tick, other) if is_across else place(other, tick)
        edge = (x, _TOP) if is_across else (_WIDTH - _RIGHT, y)
        parts.append(f"<line x1='{x:.1f}' y1='{y:.1f}' x2='{edge[0]:.1f}' y2='{edge[1]:.1f}' stroke='#e3e8ed'/>")
        label = f"{tick:.3g}"
        parts.append(_text(x, y + 16, label) if is_across else _text(x - 6, y + 4, label, anchor="end"))
    return parts


def _polylines(places: Sequence[tuple[float, float] | None], number: int) -> list[str]:
    pieces: list[list[tuple[float, float]]] = [[]]
    for place in places:
        if place is None:
            pieces.append([])
        else:
            pieces[-1].append(place)
    parts = []
    for piece in pieces:
        if len(piece) == 1:
            parts.append(f"<circle cx='{piece[0][0]:.1f}' cy='{piece[0][1]:.1f}' r='3' fill='{colour_of(number)}'/>")
        elif piece:
            joined = " ".join(f"{x:.1f},{y:.1f}" for x, y in piece)
            parts.append(f"<polyline points='{joined}' fill='none' stroke='{colour_of(number)}' stroke-width='2'/>")
    return parts


def _text(x: float, y: float, text: str, *, size: int = 12, anchor: str = "middle", turn: int = 0, colour: str = INK) -> str:
    turned = f" transform='rotate({turn} {x:.1f} {y:.1f})'" if turn else ""
    looks = f"font-size='{size}' text-anchor='{anchor}' fill='{colour}'{turned}"
    return f"<text x='{x:.1f}' y='{y:.1f}' {looks}>{html.escape(text)}</text>"


def _shortened(name: object) -> str:
    text = str(name)
    return text if len(text) <= _LONGEST_NAME else f"{text[: _LONGEST_NAME - 1]}…"


def _drawing(title: str, parts: Sequence[str]) -> str:
    return (
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {_WIDTH} {_HEIGHT}' width='{_WIDTH}' height='{_HEIGHT}' "
        f"font-family='system-ui, sans-serif'><rect width='100%' height='100%' fill='#fff' stroke='{PALE}' stroke-width='0.5'/>"
        f"{_text(_WIDTH / 2, 24, title, size=15)}{''.join(parts)}</svg>\n"
    )
