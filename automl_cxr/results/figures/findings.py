"""The figure of one finding: ROC curve, precision-recall curve, reliability and scores by threshold."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from automl_cxr.results.figures.quality import one_against_rest, precision_recall_table, reliability_table, roc_table
from automl_cxr.results.figures.style import ACCENT, PALE, TEXT_COLOUR, colour_of, styled
from automl_cxr.results.figures.thinning import thinned
from automl_cxr.scoring.predictions import Predictions

if TYPE_CHECKING:
    import plotly.graph_objects as go

_MAX_POINTS = 300  # of a curve
_HEIGHT = 760  # pixels
_LEGEND = {"orientation": "h", "yanchor": "top", "y": -0.1, "x": 0}
_TITLES = ("ROC", "Precision and recall", "Reliability", "Scores by threshold")


def threshold_table(predictions: Predictions, finding: int) -> pd.DataFrame:
    """Return the scores of a finding at every distinct probability as threshold: threshold, sensitivity, specificity and f1.

    Args:
        predictions: Predictions of findings.
        finding: Number of the finding, which must be present in an image and absent in another one.
    """
    is_positive, probabilities = one_against_rest(predictions, finding)
    thresholds = np.unique(probabilities)
    positive, negative = np.sort(probabilities[is_positive]), np.sort(probabilities[~is_positive])
    n_true = len(positive) - np.searchsorted(positive, thresholds)
    n_false = len(negative) - np.searchsorted(negative, thresholds)
    return pd.DataFrame(
        {
            "threshold": thresholds.astype(np.float64),
            "sensitivity": n_true / len(positive),
            "specificity": 1 - n_false / len(negative),
            "f1": 2 * n_true / (n_true + n_false + len(positive)),
        }
    )


def plot_finding(predictions: Predictions, finding: int, title: str) -> go.Figure:
    """Plot the quality of the probabilities of one finding in four panels. The stored threshold is marked in each.

    Args:
        predictions: Predictions of findings with thresholds.
        finding: Number of the finding, which must be present in an image and absent in another one.
        title: Title of the figure.
    """
    from plotly.subplots import make_subplots  # takes a second to import

    threshold = _threshold(predictions, finding)
    figure = make_subplots(rows=2, cols=2, subplot_titles=_TITLES, vertical_spacing=0.16, horizontal_spacing=0.12)
    curve, at_threshold = _with_point(roc_table(predictions, position=finding), threshold)
    _add_curve(figure, curve, "false_positive_rate", "true_positive_rate", (1, 1), at_threshold)
    curve, at_threshold = _with_point(precision_recall_table(predictions, position=finding), threshold)
    _add_curve(figure, curve, "recall", "precision", (1, 2), at_threshold)
    _add_reliability(figure, reliability_table(predictions, finding=finding), threshold)
    _add_scores(figure, thinned(threshold_table(predictions, finding), _MAX_POINTS), threshold)
    for row, column, x, y in (
        (1, 1, "1 - specificity", "sensitivity"),
        (1, 2, "recall", "precision"),
        (2, 1, "probability", "share present"),
        (2, 2, "threshold", "score"),
    ):
        figure.update_xaxes(title_text=x, range=[-0.02, 1.02], row=row, col=column)
        figure.update_yaxes(title_text=y, range=[-0.02, 1.02], row=row, col=column)
    return styled(figure, title, height=_HEIGHT, margin={"l": 60, "r": 20, "t": 90, "b": 60}, legend=_LEGEND)


def _threshold(predictions: Predictions, finding: int) -> float | None:
    return None if predictions.thresholds is None else float(predictions.thresholds[finding])


def _with_point(curve: pd.DataFrame, threshold: float | None) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the thinned curve of a finding, and its point at the threshold, without rows if there is none."""
    reached = curve.iloc[:0] if threshold is None else curve[curve["threshold"].astype(float) >= threshold]
    return thinned(curve, _MAX_POINTS), reached.tail(1)  # rows are in the order of decreasing probability


def _add_curve(
    figure: go.Figure, curve: pd.DataFrame, x: str, y: str, panel: tuple[int, int], at_threshold: pd.DataFrame
) -> None:
    row, column = panel
    if panel == (1, 1):
        _add_diagonal(figure, row, column)
    figure.add_scatter(
        x=curve[x], y=curve[y], mode="lines", line={"color": colour_of(0)}, showlegend=False, row=row, col=column,
        customdata=curve["threshold"].replace(np.inf, 1.0),
        hovertemplate="%{x:.3f}, %{y:.3f}, threshold %{customdata:.3f}<extra></extra>",
    )  # fmt: skip
    figure.add_scatter(
        x=at_threshold[x], y=at_threshold[y], mode="markers", marker={"color": ACCENT, "size": 10}, name="threshold",
        showlegend=panel == (1, 1), row=row, col=column, customdata=at_threshold["threshold"],
        hovertemplate="at the threshold: %{x:.3f}, %{y:.3f}<extra></extra>",
    )  # fmt: skip


def _add_diagonal(figure: go.Figure, row: int, column: int) -> None:
    figure.add_scatter(
        x=[0, 1], y=[0, 1], mode="lines", line={"color": PALE, "dash": "dot"}, hoverinfo="skip", showlegend=False, row=row,
        col=column,
    )  # fmt: skip


def _add_reliability(figure: go.Figure, table: pd.DataFrame, threshold: float | None) -> None:
    _add_diagonal(figure, 2, 1)
    sizes = 6 + 14 * np.sqrt(table["images"] / max(1, table["images"].max()))
    figure.add_scatter(
        x=table["confidence"], y=table["accuracy"], mode="lines+markers", marker={"size": sizes, "color": colour_of(0)},
        line={"color": TEXT_COLOUR, "width": 1}, customdata=table["images"], showlegend=False, row=2, col=1,
        hovertemplate="probability %{x:.2f}, present %{y:.2f}, %{customdata} images<extra></extra>",
    )  # fmt: skip
    _mark(figure, threshold, 2, 1)


def _add_scores(figure: go.Figure, table: pd.DataFrame, threshold: float | None) -> None:
    for position, name in ((0, "f1"), (2, "sensitivity"), (3, "specificity")):  # not the colour of the threshold
        figure.add_scatter(
            x=table["threshold"], y=table[name], mode="lines", line={"color": colour_of(position)}, name=name, row=2, col=2,
            hovertemplate=f"threshold %{{x:.3f}}, {name} %{{y:.3f}}<extra></extra>",
        )  # fmt: skip
    _mark(figure, threshold, 2, 2)


def _mark(figure: go.Figure, threshold: float | None, row: int, column: int) -> None:
    if threshold is not None:
        figure.add_vline(x=threshold, line={"color": ACCENT, "dash": "dot"}, row=row, col=column)
