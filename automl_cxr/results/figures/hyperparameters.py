"""Figures of the hyperparameters: parallel coordinates, slices and importances, each as a table and a figure.

The figures of ``optuna.visualization`` are not used: its parallel coordinates show the observed range instead of the searched
range and have one trace for each trial, its slices form a single row with 300 pixels for each hyperparameter, which does not
fit on a phone, and its importances rank conditional hyperparameters together with those that are active in all trials.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from automl_cxr.engine.parameters import Choice, Float, Int
from automl_cxr.errors import StudyError
from automl_cxr.results.figures.style import ACCENT, PALE, SCALE, joined_lines, styled
from automl_cxr.results.importance import PED_ANOVA, importance_table
from automl_cxr.study.store import StudyStore

if TYPE_CHECKING:
    import plotly.graph_objects as go

_MAX_LINES = 200  # of parallel coordinates
_SHADES = 12  # colours of the lines
_MAX_TICKS = 8  # integers on an axis
_SLICES_PER_ROW = 2
_SLICE_HEIGHT = 230  # pixels
_AXIS_HEIGHT = 44  # pixels of an axis of parallel coordinates
_BAR_HEIGHT = 26  # pixels of a bar of importances
_MAX_LETTERS = 36  # of the choices on an axis of parallel coordinates


def parameters_table(store: StudyStore) -> pd.DataFrame:
    """Return trial, score and every searched hyperparameter of the COMPLETE trials, best first; None if inactive."""
    names = [parameter.name for parameter in store.spec.space.parameters]
    rows = [
        {"trial": record.number, "score": record.score, **{name: record.params.get(name) for name in names}}
        for record in store.ranked()
    ]
    return pd.DataFrame(rows, columns=["trial", "score", *names], dtype=object)


def coordinates_table(store: StudyStore) -> pd.DataFrame:
    """Return ``parameters_table`` with each hyperparameter scaled to a position from 0 to 1 on its axis; NaN if inactive.

    An axis covers the whole searched range, on a logarithmic scale for logarithmic hyperparameters. Choices are
    equidistant, in their order.
    """
    table = parameters_table(store)
    for parameter in store.spec.space.parameters:
        table[parameter.name] = [_position(parameter, value) for value in table[parameter.name]]
    return table.astype({"trial": int, "score": float})


def _position(parameter: Float | Int | Choice, value: Any) -> float:
    if value is None:
        return math.nan
    if isinstance(parameter, Choice):
        return parameter.values.index(value) / max(1, len(parameter.values) - 1)
    low, high, value = (math.log(one) if parameter.log else float(one) for one in (parameter.low, parameter.high, value))
    return 0.5 if high == low else (value - low) / (high - low)


def plot_parallel_coordinates(store: StudyStore) -> go.Figure:
    """Plot the 200 best COMPLETE trials as lines over all searched hyperparameters, coloured by score.

    The axes are horizontal, one below the other, so that many of them fit on a phone. The lines are scatter traces, because
    Plotly's parallel coordinates do not support inactive hyperparameters and need WebGL.

    Raises:
        StudyError: No trial is finished, or nothing was searched.
    """
    import plotly.graph_objects as go

    table = _require_rows(store, coordinates_table(store)).head(_MAX_LINES)
    parameters = store.spec.space.parameters
    names = [parameter.name for parameter in parameters]
    figure = go.Figure()
    low, high = table["score"].min(), table["score"].max()
    shade = np.zeros(len(table)) if high == low else ((table["score"] - low) / (high - low) * (_SHADES - 1)).round()
    for level in sorted(set(shade), reverse=store.study.directions[0].name == "MINIMIZE"):  # the best lines are drawn last
        rows = table[shade == level]
        lines = [_line_of_trial(row, names) for _, row in rows.iterrows()]
        figure.add_scatter(
            **joined_lines(lines),
            mode="lines+markers",
            line={"color": _shade(level / (_SHADES - 1)), "width": 1.5},
            marker={"size": 5},
            opacity=0.8,
            hovertemplate="%{text}<extra></extra>",
            showlegend=False,
        )
    figure.add_scatter(x=[None], y=[names[0]], mode="markers", marker=_colour_bar(low, high), showlegend=False)
    for parameter in parameters:
        for position, text in _axis_labels(parameter):
            figure.add_annotation(
                x=position,
                y=parameter.name,
                text=text,
                showarrow=False,
                font={"size": 10},
                xanchor={0.0: "left", 1.0: "right"}.get(position, "center"),
                yshift=11,
            )
    n_axes = len(names)
    return styled(
        figure,
        "Hyperparameters",
        xaxis={"visible": False, "range": [-0.03, 1.03]},
        yaxis={
            "type": "category",
            "categoryorder": "array",
            "categoryarray": names,
            "range": [n_axes - 0.7, -0.7],
            "showgrid": True,
            "gridcolor": PALE,
            "automargin": True,
        },
        height=max(400, _AXIS_HEIGHT * n_axes + 160),
    )


def _colour_bar(low: float, high: float) -> dict[str, Any]:
    """Return a marker that draws only the colour bar, below the figure."""
    bar = {"orientation": "h", "thickness": 10, "y": 0, "yanchor": "top", "title": {"text": "score", "side": "bottom"}}
    return {"color": [low], "cmin": low, "cmax": high, "colorscale": SCALE, "showscale": True, "colorbar": bar}


def _line_of_trial(row: pd.Series, names: list[str]) -> tuple[list[float], list[str], str]:
    """Return the line of a trial, without points on the axes of inactive hyperparameters."""
    active = [name for name in names if not math.isnan(row[name])]
    return [row[name] for name in active], active, f"trial {row['trial']:.0f}: {row['score']:.4f}"


def _shade(share: float) -> str:
    from plotly.colors import sample_colorscale

    return sample_colorscale(SCALE, [share])[0]


def _axis_labels(parameter: Float | Int | Choice) -> list[tuple[float, str]]:
    """Return position and text of the axis labels: the limits of a range; all choices, or the first and last of many."""
    if not isinstance(parameter, Choice):
        return [(0.0, _short(parameter.low)), (1.0, _short(parameter.high))]
    labels = [(_position(parameter, value), _short(value)) for value in parameter.values]
    return labels if sum(len(text) + 2 for _, text in labels) <= _MAX_LETTERS else [labels[0], labels[-1]]


def _short(value: Any) -> str:
    text = f"{value:.3g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 16 else f"{text[:15]}…"


def plot_importance(store: StudyStore, *, evaluator: str = PED_ANOVA) -> go.Figure:
    """Plot the importance of each hyperparameter as bars, those of conditional hyperparameters in a subplot of their own.

    Raises the errors of ``results.importance.importance_table``.
    """
    from plotly.subplots import make_subplots

    table = importance_table(store, evaluator=evaluator)
    table = table[table["left_out"] == ""]
    ranking, conditional = table[~table["conditional"]], table[table["conditional"]]
    parts = [("Active in all trials", ranking, list(ranking["parameter"]))]
    if not conditional.empty:
        labels = [f"{row.parameter} ({row.trials} trials)" for row in conditional.itertuples()]
        parts.append(("Conditional: share within the trials in which it is active", conditional, labels))
    figure = make_subplots(
        rows=len(parts),
        subplot_titles=[title for title, _, _ in parts] if len(parts) > 1 else None,
        row_heights=[max(1, len(rows)) for _, rows, _ in parts],
    )
    for number, (_, rows, labels) in enumerate(parts, start=1):
        shares = rows["importance"]
        figure.add_bar(
            x=shares,
            y=labels,
            orientation="h",
            text=[f"{share:.2f}" for share in shares],
            marker_color=ACCENT if number == 1 else PALE,
            showlegend=False,
            row=number,
            col=1,
        )
    figure.update_xaxes(range=[0, 1.05], title=f"share for {store.spec.objective}")
    figure.update_yaxes(autorange="reversed", automargin=True)
    height = max(400, _BAR_HEIGHT * len(table) + 120 * len(parts))
    return styled(figure, f"Importances by {evaluator}", height=height)


def plot_slices(store: StudyStore) -> go.Figure:
    """Plot the score against each searched hyperparameter, one subplot for each.

    Raises:
        StudyError: No trial is finished, or nothing was searched.
    """
    from plotly.subplots import make_subplots

    table = _require_rows(store, parameters_table(store))
    parameters = store.spec.space.parameters
    n_rows = math.ceil(len(parameters) / _SLICES_PER_ROW)
    figure = make_subplots(
        rows=n_rows,
        cols=min(_SLICES_PER_ROW, len(parameters)),
        shared_yaxes=True,
        subplot_titles=[parameter.name for parameter in parameters],
        vertical_spacing=0.35 / n_rows,
        horizontal_spacing=0.1,
    )
    for position, parameter in enumerate(parameters):
        row, col = position // _SLICES_PER_ROW + 1, position % _SLICES_PER_ROW + 1
        rows = table[table[parameter.name].notna()]
        values = rows[parameter.name].map(str) if isinstance(parameter, Choice) else rows[parameter.name]
        figure.add_scatter(
            x=values,
            y=rows["score"],
            mode="markers",
            text=[f"trial {number}" for number in rows["trial"]],
            marker={"size": 6, "color": rows["trial"], "colorscale": SCALE, "reversescale": True},
            showlegend=False,
            row=row,
            col=col,
        )
        if isinstance(parameter, Choice):
            texts = [str(value) for value in parameter.values]
            figure.update_xaxes(type="category", categoryorder="array", categoryarray=texts, row=row, col=col)
        elif parameter.log:
            figure.update_xaxes(type="log", exponentformat="power", dtick=_log_step(rows[parameter.name]), row=row, col=col)
        elif isinstance(parameter, Int) and parameter.high - parameter.low <= _MAX_TICKS:
            figure.update_xaxes(dtick=1, row=row, col=col)
        else:
            figure.update_xaxes(nticks=5, row=row, col=col)
    figure.update_yaxes(title=store.spec.objective, col=1)
    height = max(400, _SLICE_HEIGHT * n_rows)
    title = "Score by hyperparameter (later trials are darker)"
    return styled(figure, title, height=height, margin={"l": 60, "r": 20, "t": 90, "b": 60})


def _log_step(values: pd.Series) -> str | int:
    """Return the ticks of a logarithmic axis: powers of ten; below two decades, also their multiples by 2 and 5."""
    return "D2" if len(values) and max(values) < 100 * min(values) else 1


def _require_rows(store: StudyStore, table: pd.DataFrame) -> pd.DataFrame:
    if not store.spec.space.parameters:
        raise StudyError(f"Study '{store.name}' searches no hyperparameter, so there is none to plot.")
    if table.empty:
        raise StudyError(f"Study '{store.name}' has no finished trial yet. Continue the search.")
    return table
