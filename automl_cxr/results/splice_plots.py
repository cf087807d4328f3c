"""The results of a splice search as sentences and as a figure. The leaderboard is in ``splicing.table``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from automl_cxr.splicing.record import AS_TRAINED, SpliceRecord

if TYPE_CHECKING:
    import plotly.graph_objects as go

ALONE = "(none)"  # axis label of the heat map for networks with only the other branch
_MAX_TEXT_CELLS = 150  # of the heat map; text in smaller cells is not readable
_HEIGHT, _ROW_HEIGHT = 870, 22  # pixels
_TEXT_COLOUR, _ACCENT, _PALE = "#1f2933", "#c2410c", "#9aa5b1"
_HOVER = (
    "%{customdata[0]}<br>score %{customdata[1]:.3f} (%{customdata[2]:.3f}..%{customdata[3]:.3f})"
    "<br>training part, leave-one-patient-out: %{customdata[4]:.3f}"
    "<br>%{customdata[5]:,} parameters, %{customdata[6]:,} multiply-adds<extra></extra>"
)
_SCORE = ("score", "score_low", "score_high", "left_out_score")  # columns of the ranking metric in the figure
_HOVERED = ["network", *_SCORE, "n_parameters", "multiply_adds"]


def describe_splices(scores: SpliceRecord) -> list[str]:
    """Return the results as sentences: the best pair, its comparison with the parents, and how optimistic the scores are."""
    table = scores.table
    pairs = table[(table["first_cut"] != "") & (table["second_cut"] != "")]
    best = pairs.iloc[0]
    networks = f"{len(pairs)} pairs of cuts of {scores.first} and {scores.second} and {len(table) - len(pairs)} single cuts"
    sentences = [
        f"Ridge heads on {networks}; {scores.n_train} training and {scores.n_valid} validation images.",
        f"Best pair: {_network(best)}, {_with_interval(best, scores.metric)}, {best['n_parameters']:,} parameters.",
    ]
    sentences += [
        f"Compared with {parent['parent']}, {_with_interval(parent, scores.metric)}, {parent['n_parameters']:,} parameters: "
        f"{parent['difference']:+.3f} ({parent['difference_low']:+.3f}..{parent['difference_high']:+.3f}) with "
        f"{parent['parameter_share']:.2%} of the parameters."
        for _, parent in scores.parents.iterrows()
    ]
    n_beaten = int(pairs.loc[pairs["pareto"], "beaten_by_one"].sum())
    if n_beaten:
        sentences.append(
            f"Of the {int(pairs['pareto'].sum())} pairs on the Pareto front, {n_beaten} are not better than a single cut of "
            "one branch with at most as many parameters."
        )
    sentences.append(
        f"The score of the best pair and its differences are optimistic: the same images selected it from {len(pairs)} pairs. "
        "Evaluate fine-tuned pairs on the test part."
    )
    return sentences


def _network(row: pd.Series) -> str:
    return f"{row['first_cut']} + {row['second_cut']}"


def _with_interval(row: pd.Series, metric: str) -> str:
    return f"{metric} {row[metric]:.3f} ({row[f'{metric}_low']:.3f}..{row[f'{metric}_high']:.3f})"


def plot_splices(scores: SpliceRecord) -> go.Figure:
    """Plot the ranking metric over both cuts as a heat map, and against the parameters with the Pareto front of the pairs."""
    from plotly.subplots import make_subplots

    table = _with_names(scores)
    grid = grid_of(scores)
    figure = make_subplots(
        rows=2,
        cols=1,
        row_heights=[0.58, 0.42],
        vertical_spacing=0.15,
        subplot_titles=[
            f"validation {scores.metric}, parameters / multiply-adds (★: on the Pareto front; {ALONE}: only the other branch)",
            "score against number of parameters",
        ],
    )
    _add_heat_map(figure, table, grid, scores.metric)
    _add_scatter(figure, table, scores)
    figure.update_xaxes(title=f"cut of {scores.second}", side="bottom", row=1, col=1)
    figure.update_yaxes(title=f"cut of {scores.first}", row=1, col=1)
    figure.update_xaxes(title="parameters of the network", type="log", dtick=1, row=2, col=1)
    figure.update_yaxes(title=scores.metric, row=2, col=1)
    return figure.update_layout(
        template="plotly_white",
        title=f"Splices of {scores.first} and {scores.second}: "
        f"{len(table)} networks scored on {scores.n_valid} images (the best scores are optimistic)",
        font={"color": _TEXT_COLOUR},
        legend={"orientation": "h", "x": 0, "y": -0.11},
        margin={"l": 130, "r": 40, "t": 80, "b": 80},
        height=max(_HEIGHT, 2 * _ROW_HEIGHT * len(grid)),
    )


def grid_of(scores: SpliceRecord) -> pd.DataFrame:
    """Return the leaderboard's row number by cut of the first branch (rows) and of the second (columns), or -1."""
    first, second = scores.cuts
    numbers = {
        (row.first_cut or ALONE, row.second_cut or ALONE): number for number, row in enumerate(scores.table.itertuples())
    }
    rows, columns = [ALONE, *first], [ALONE, *second]
    return pd.DataFrame([[numbers.get((row, column), -1) for column in columns] for row in rows], index=rows, columns=columns)


def _with_names(scores: SpliceRecord) -> pd.DataFrame:
    metric = scores.metric
    columns = dict(zip((metric, f"{metric}_low", f"{metric}_high", f"left_out_{metric}"), _SCORE, strict=True))
    table = scores.table.rename(columns=columns)
    names = [
        " + ".join(f"{branch} to {cut}" for branch, cut in ((scores.first, first), (scores.second, second)) if cut)
        for first, second in zip(table["first_cut"], table["second_cut"], strict=True)
    ]
    return table.assign(network=names)


def _add_heat_map(figure: go.Figure, table: pd.DataFrame, grid: pd.DataFrame, metric: str) -> None:
    exists = grid.to_numpy() >= 0
    score = np.where(exists, table["score"].to_numpy()[grid.to_numpy()], np.nan)
    texts = [[_cell(table.iloc[number]) if number >= 0 else "" for number in row] for row in grid.to_numpy()]
    figure.add_heatmap(
        z=score,
        x=list(grid.columns),
        y=list(grid.index),
        text=texts,
        texttemplate="%{text}" if grid.size <= _MAX_TEXT_CELLS else None,
        customdata=table[_HOVERED].to_numpy()[grid.to_numpy()],
        hovertemplate=_HOVER,
        hoverongaps=False,
        colorscale="Blues",
        xgap=2,
        ygap=2,
        colorbar={"title": metric, "len": 0.55, "y": 0.79},
        row=1,
        col=1,
    )


def _cell(row: pd.Series) -> str:
    costs = f"{_short_count(row['n_parameters'])} / {_short_count(row['multiply_adds'])}"
    return f"{'★ ' if row['pareto'] else ''}{row['score']:.3f}<br>{costs}"


def _short_count(n: int) -> str:
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if n >= size:
            return f"{n / size:.3g} {unit}"
    return str(n)


def _add_scatter(figure: go.Figure, table: pd.DataFrame, scores: SpliceRecord) -> None:
    is_front = table["pareto"]
    is_first, is_second = table["second_cut"] == "", table["first_cut"] == ""
    kinds = [
        ("pairs", table[~is_front & ~is_first & ~is_second], {"color": _PALE, "size": 7}),
        (f"single cuts of {scores.first}", table[is_first], {"color": "#2563eb", "size": 9, "symbol": "square"}),
        (f"single cuts of {scores.second}", table[is_second], {"color": "#15803d", "size": 9, "symbol": "diamond"}),
    ]
    for name, rows, marker in kinds:
        if len(rows):
            figure.add_scatter(
                x=rows["n_parameters"],
                y=rows["score"],
                mode="markers",
                name=name,
                marker=marker,
                customdata=rows[_HOVERED].to_numpy(),
                hovertemplate=_HOVER,
                row=2,
                col=1,
            )
    front = table[is_front].sort_values("n_parameters")
    figure.add_scatter(
        x=front["n_parameters"],
        y=front["score"],
        mode="lines+markers",
        name="Pareto front of the pairs, 95 % by patient",
        line={"color": _ACCENT, "shape": "hv"},
        marker={"color": _ACCENT, "size": 13, "symbol": "star"},
        error_y={
            "array": front["score_high"] - front["score"],
            "arrayminus": front["score"] - front["score_low"],
            "thickness": 1,
            "width": 4,
        },
        customdata=front[_HOVERED].to_numpy(),
        hovertemplate=_HOVER,
        row=2,
        col=1,
    )
    trained = scores.parents[scores.parents["parent"].str.endswith(AS_TRAINED)]
    if len(trained):
        figure.add_scatter(
            x=trained["n_parameters"],
            y=trained[scores.metric],
            mode="markers+text",
            text=trained["parent"],
            textposition="middle left",
            name="parent as trained",
            marker={"color": _TEXT_COLOUR, "size": 11, "symbol": "x"},
            hovertemplate=f"%{{text}}: {scores.metric} %{{y:.3f}}, %{{x:,}} parameters<extra></extra>",
            row=2,
            col=1,
        )
