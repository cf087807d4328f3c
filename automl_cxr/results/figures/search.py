"""How a search went: scores in order, learning curves, hyperparameters against scores. A table each, then its picture."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from automl_cxr.engine.space import Choice, Float, Int
from automl_cxr.errors import StudyError
from automl_cxr.records import TrialState
from automl_cxr.results.figures.style import ACCENT, PALE, SCALE, styled
from automl_cxr.results.importance import PED_ANOVA, importance_table
from automl_cxr.study.store import StudyStore

if TYPE_CHECKING:
    import plotly.graph_objects as go

_MOST_NAMED = 8  # learning curves with a colour and a name; a legend of more is not read
_MOST_CURVES = 150  # of the others
_MOST_LINES = 200  # of parallel coordinates
_SHADES = 12  # of a line's score
_MOST_TICKS = 8  # of whole numbers on an axis
_SLICES_BESIDE = 2
_SLICE_HEIGHT = 230  # pixels
_AXIS_HEIGHT = 44  # pixels of an axis of parallel coordinates
_MOST_LETTERS = 36  # on an axis of parallel coordinates


def history_table(store: StudyStore) -> pd.DataFrame:
    """Tabulate trial, state, score and the best score so far, one row a trial that has a score."""
    rows, best = [], None
    for record in store.records(TrialState.COMPLETE, TrialState.PRUNED):
        if record.score is None:
            continue
        is_counted = record.state is TrialState.COMPLETE and record.is_feasible
        if is_counted and (best is None or store.is_better(record.score, best)):
            best = record.score
        rows.append({"trial": record.number, "state": str(record.state), "score": record.score, "best_so_far": best})
    return pd.DataFrame(rows, columns=["trial", "state", "score", "best_so_far"])


def plot_history(store: StudyStore) -> go.Figure:
    """Show the score of every trial in order, and the best so far."""
    import plotly.graph_objects as go  # a second to load, and most commands draw nothing

    table = history_table(store)
    figure = go.Figure()
    for state, rows in table.groupby("state", sort=False):
        figure.add_scatter(x=rows["trial"], y=rows["score"], mode="markers", name=str(state))
    figure.add_scatter(
        x=table["trial"], y=table["best_so_far"], mode="lines", name="best so far", line={"shape": "hv", "color": ACCENT}
    )
    return styled(figure, f"Search history of {store.name}", xaxis_title="trial", yaxis_title=store.spec.objective)


def curves_table(store: StudyStore) -> pd.DataFrame:
    """Tabulate trial, state, epoch (with folds: fold) and score, one row an epoch (a fold) that was reported."""
    step = "fold" if store.spec.folds else "epoch"
    rows = [
        {"trial": record.number, "state": str(record.state), step: number, "score": score}
        for record in store.records()
        for number, score in sorted(record.scores.items())
    ]
    return pd.DataFrame(rows, columns=["trial", "state", step, "score"])


def plot_learning_curves(store: StudyStore) -> go.Figure:
    """Show the validation score of trials, epoch by epoch; with folds the score of each fold.

    The best trials have a colour and a name each. The others are grey; of very many, as many as can still be told apart.
    """
    import plotly.graph_objects as go

    table = curves_table(store)
    step = table.columns[2]
    curves = dict(list(table.groupby("trial")))
    named = [record.number for record in store.ranked() if record.number in curves][:_MOST_NAMED]
    others = [number for number in curves if number not in named]
    shown = _spread(others, _MOST_CURVES)
    figure = go.Figure()
    if shown:
        figure.add_scatter(
            **_joined([(curves[number][step], curves[number]["score"], f"trial {number}") for number in shown]),
            mode="lines",
            name="others" if len(shown) == len(others) else f"{len(shown)} of {len(others)} others",
            line={"color": PALE, "width": 1},
            opacity=0.5,
        )
    for number in named:
        rows = curves[number]
        figure.add_scatter(x=rows[step], y=rows["score"], mode="lines+markers", name=f"trial {number}", marker={"size": 4})
    title = f"{'Folds' if step == 'fold' else 'Learning curves'} of {store.name}"
    return styled(figure, title, xaxis_title=step, yaxis_title=store.spec.objective)


def _spread(items: list[Any], n: int) -> list[Any]:
    """Take at most n things, evenly from first to last."""
    return items if len(items) <= n else [items[place] for place in np.linspace(0, len(items) - 1, n).round().astype(int)]


def _joined(lines: list[tuple[Any, Any, str]]) -> dict[str, list[Any]]:
    """Join lines into one trace with gaps between them: hundreds of traces would make a figure slow."""
    joined: dict[str, list[Any]] = {"x": [], "y": [], "text": []}
    for x, y, text in lines:
        joined["x"] += [*x, None]
        joined["y"] += [*y, None]
        joined["text"] += [text] * (len(x) + 1)
    return joined


def loss_table(store: StudyStore, number: int) -> pd.DataFrame:
    """Tabulate epoch, loss and valid_loss of a COMPLETE trial, one row an epoch; with folds a column fold before them.

    Raises:
        StudyError: Its history is gone.
    """
    file = store.trial_folder(number) / "history.csv"
    try:
        table = pd.read_csv(file)
    except (OSError, ValueError) as error:
        raise StudyError(f"The history of trial {number} cannot be read ({error}). Restore {file}.") from error
    return table[[*(["fold"] if "fold" in table else []), "epoch", "loss", "valid_loss"]]


def plot_loss(store: StudyStore, number: int) -> go.Figure:
    """Show training and validation loss of a COMPLETE trial, epoch by epoch; errors as in ``loss_table``."""
    import plotly.graph_objects as go

    table = loss_table(store, number)
    folds = list(table.groupby("fold")) if "fold" in table else [(0, table)]
    figure = go.Figure()
    for name, column, dash in (("training", "loss", "dot"), ("validation", "valid_loss", "solid")):
        lines = [(rows["epoch"], rows[column], f"fold {fold!s}" if fold else name) for fold, rows in folds]
        figure.add_scatter(**_joined(lines), mode="lines", name=name, line={"dash": dash})
    return styled(figure, f"Loss of trial {number}", xaxis_title="epoch", yaxis_title="loss")


def parameters_table(store: StudyStore) -> pd.DataFrame:
    """Tabulate trial, score and every searched hyperparameter of the COMPLETE trials, best first; None where inactive."""
    names = [parameter.name for parameter in store.spec.space.parameters]
    rows = [
        {"trial": record.number, "score": record.score, **{name: record.params.get(name) for name in names}}
        for record in store.ranked()
    ]
    return pd.DataFrame(rows, columns=["trial", "score", *names], dtype=object)


def coordinates_table(store: StudyStore) -> pd.DataFrame:
    """Give ``parameters_table`` with each hyperparameter as a place from 0 to 1 on its axis; NaN where it is not active.

    An axis goes from the lowest value that may be searched to the highest, by the logarithm where it is searched so; choices
    stand at equal distances in their order.
    """
    table = parameters_table(store)
    for parameter in store.spec.space.parameters:
        table[parameter.name] = [_place(parameter, value) for value in table[parameter.name]]
    return table.astype({"trial": int, "score": float})


def _place(parameter: Float | Int | Choice, value: Any) -> float:
    if value is None:
        return math.nan
    if isinstance(parameter, Choice):
        return parameter.values.index(value) / max(1, len(parameter.values) - 1)
    low, high, value = (math.log(one) if parameter.log else float(one) for one in (parameter.low, parameter.high, value))
    return 0.5 if high == low else (value - low) / (high - low)


def plot_parallel_coordinates(store: StudyStore) -> go.Figure:
    """Show the COMPLETE trials as lines over all searched hyperparameters, coloured by score; of very many, the best.

    Lines of their own instead of Plotly's parallel coordinates, which know no hyperparameter that is not active and need WebGL.
    The axes lie below each other, so that many of them fit a phone.

    Raises:
        StudyError: No trial is finished, or nothing was searched.
    """
    import plotly.graph_objects as go

    table = _require_rows(store, coordinates_table(store)).head(_MOST_LINES)
    parameters = store.spec.space.parameters
    names = [parameter.name for parameter in parameters]
    figure = go.Figure()
    low, high = table["score"].min(), table["score"].max()
    shade = np.zeros(len(table)) if high == low else ((table["score"] - low) / (high - low) * (_SHADES - 1)).round()
    for level in sorted(set(shade), reverse=store.study.directions[0].name == "MINIMIZE"):  # the best ones on top
        rows = table[shade == level]
        lines = [_coordinates(row, names) for _, row in rows.iterrows()]
        figure.add_scatter(
            **_joined(lines),
            mode="lines+markers",
            line={"color": _shade(level / (_SHADES - 1)), "width": 1.5},
            marker={"size": 5},
            opacity=0.8,
            hovertemplate="%{text}<extra></extra>",
            showlegend=False,
        )
    figure.add_scatter(x=[None], y=[names[0]], mode="markers", marker=_scale_of(low, high), showlegend=False)
    for parameter in parameters:
        for place, text in _ends(parameter):
            figure.add_annotation(
                x=place,
                y=parameter.name,
                text=text,
                showarrow=False,
                font={"size": 10},
                xanchor={0.0: "left", 1.0: "right"}.get(place, "center"),
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


def _scale_of(low: float, high: float) -> dict[str, Any]:
    """Give what draws nothing but the scale of the colours, below the picture."""
    bar = {"orientation": "h", "thickness": 10, "y": 0, "yanchor": "top", "title": {"text": "score", "side": "bottom"}}
    return {"color": [low], "cmin": low, "cmax": high, "colorscale": SCALE, "showscale": True, "colorbar": bar}


def _coordinates(row: pd.Series, names: list[str]) -> tuple[list[float], list[str], str]:
    """Give the line of a trial, which passes by the axes of hyperparameters that were not active."""
    active = [name for name in names if not math.isnan(row[name])]
    return [row[name] for name in active], active, f"trial {row['trial']:.0f}: {row['score']:.4f}"


def _shade(share: float) -> str:
    from plotly.colors import sample_colorscale

    return sample_colorscale(SCALE, [share])[0]


def _ends(parameter: Float | Int | Choice) -> list[tuple[float, str]]:
    """Name what stands on an axis: the ends of a range, and all choices if they fit the width of a phone, else their ends."""
    if not isinstance(parameter, Choice):
        return [(0.0, _short(parameter.low)), (1.0, _short(parameter.high))]
    named = [(_place(parameter, value), _short(value)) for value in parameter.values]
    return named if sum(len(text) + 2 for _, text in named) <= _MOST_LETTERS else [named[0], named[-1]]


def _short(value: Any) -> str:
    text = f"{value:.3g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 16 else f"{text[:15]}…"


def plot_importance(store: StudyStore, *, evaluator: str = PED_ANOVA) -> go.Figure:
    """Show how much each hyperparameter mattered, as bars; errors as in ``results.importance.importance_table``."""
    import plotly.graph_objects as go

    table = importance_table(store, evaluator=evaluator)
    table = table[table["left_out"] == ""]
    figure = go.Figure(go.Bar(x=table["importance"], y=table["parameter"], orientation="h"))
    return styled(
        figure,
        f"Importances by {evaluator}",
        xaxis_title=f"share for {store.spec.objective}",
        yaxis={"autorange": "reversed", "automargin": True},
    )


def plot_slices(store: StudyStore) -> go.Figure:
    """Show the score against each searched hyperparameter, a small picture each.

    Raises:
        StudyError: No trial is finished, or nothing was searched.
    """
    from plotly.subplots import make_subplots

    table = _require_rows(store, parameters_table(store))
    parameters = store.spec.space.parameters
    n_rows = math.ceil(len(parameters) / _SLICES_BESIDE)
    figure = make_subplots(
        rows=n_rows,
        cols=min(_SLICES_BESIDE, len(parameters)),
        shared_yaxes=True,
        subplot_titles=[parameter.name for parameter in parameters],
        vertical_spacing=0.35 / n_rows,
        horizontal_spacing=0.1,
    )
    for position, parameter in enumerate(parameters):
        row, col = position // _SLICES_BESIDE + 1, position % _SLICES_BESIDE + 1
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
        elif isinstance(parameter, Int) and parameter.high - parameter.low <= _MOST_TICKS:
            figure.update_xaxes(dtick=1, row=row, col=col)
        else:
            figure.update_xaxes(nticks=5, row=row, col=col)
    figure.update_yaxes(title=store.spec.objective, col=1)
    height = max(400, _SLICE_HEIGHT * n_rows)
    return styled(figure, "Slices: darker trials are later", height=height, margin={"l": 60, "r": 20, "t": 90, "b": 60})


def _log_step(values: pd.Series) -> str | int:
    """Choose the ticks of a logarithmic axis: powers of ten alone over two of them or more, else 1, 2 and 5 of each."""
    return "D2" if len(values) and max(values) < 100 * min(values) else 1


def _require_rows(store: StudyStore, table: pd.DataFrame) -> pd.DataFrame:
    if not store.spec.space.parameters:
        raise StudyError(f"Study '{store.name}' searches no hyperparameter, so there is none to draw.")
    if table.empty:
        raise StudyError(f"Study '{store.name}' has no finished trial yet. Continue the search.")
    return table
