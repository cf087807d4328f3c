"""Figures of the quality of predictions: confusion matrix, ROC and precision-recall curves, and reliability diagram."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from automl_cxr.results.figures.style import PALE, TEXT_COLOUR, colour_of, styled
from automl_cxr.scoring.calibration import expected_calibration_error
from automl_cxr.scoring.confusion import confusion_matrix
from automl_cxr.scoring.predictions import Predictions

if TYPE_CHECKING:
    import plotly.graph_objects as go

_MAX_POINTS = 400  # of a curve; a screen does not show more
_SIDE = 460  # pixels of a square plot


def confusion_table(predictions: Predictions) -> pd.DataFrame:
    """Count images by true class (rows) and predicted class (columns)."""
    counts = confusion_matrix(predictions.labels, predictions.predicted, len(predictions.classes))
    return pd.DataFrame(counts, index=list(predictions.classes), columns=list(predictions.classes))


def plot_confusion(predictions: Predictions, title: str) -> go.Figure:
    """Plot the number of images by true and predicted class; the colour is the share of the true class."""
    import plotly.graph_objects as go  # takes a second to import and is not needed by most commands

    table = confusion_table(predictions)
    counts = table.to_numpy()
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure = go.Figure(
        go.Heatmap(
            z=shares,
            x=list(table.columns),
            y=list(table.index),
            text=counts,
            texttemplate="%{text}",
            textfont={"size": 15},
            hovertemplate="true %{y}, predicted %{x}: %{text} images, %{z:.1%} of the class<extra></extra>",
            colorscale="Blues",
            zmin=0,
            zmax=1,
            showscale=False,
        )
    )
    return styled(
        figure,
        title,
        xaxis={"title": "predicted", "constrain": "domain", "automargin": True},
        yaxis={"title": "true", "autorange": "reversed", "scaleanchor": "x", "constrain": "domain", "automargin": True},
        height=_SIDE,
    )


def roc_table(predictions: Predictions) -> pd.DataFrame:
    """Return the ROC curve of each class against the rest: class, threshold, false_positive_rate, true_positive_rate.

    The curve has a point at (0, 0) and one at every distinct probability, from high to low. A class with no images or with
    all images has no rows.
    """
    rows = []
    for name, counts in _counts_over_thresholds(predictions):
        curve = pd.DataFrame(
            {
                "class": name,
                "threshold": counts["threshold"],
                "false_positive_rate": counts["false"] / counts["false"].iloc[-1],
                "true_positive_rate": counts["true"] / counts["true"].iloc[-1],
            }
        )
        rows += [pd.DataFrame([[name, np.inf, 0.0, 0.0]], columns=curve.columns), curve]
    columns = ["class", "threshold", "false_positive_rate", "true_positive_rate"]
    return pd.concat(rows, ignore_index=True) if rows else pd.DataFrame(columns=columns)


def precision_recall_table(predictions: Predictions) -> pd.DataFrame:
    """Return the precision-recall curve of each class against the rest: class, threshold, recall, precision.

    The curve has a point at every distinct probability, from high to low. The same classes as in ``roc_table`` are omitted.
    """
    rows = [
        pd.DataFrame(
            {
                "class": name,
                "threshold": counts["threshold"],
                "recall": counts["true"] / counts["true"].iloc[-1],
                "precision": counts["true"] / (counts["true"] + counts["false"]),
            }
        )
        for name, counts in _counts_over_thresholds(predictions)
    ]
    return pd.concat(rows, ignore_index=True) if rows else pd.DataFrame(columns=["class", "threshold", "recall", "precision"])


def _counts_over_thresholds(predictions: Predictions) -> list[tuple[str, pd.DataFrame]]:
    """Count for each class and threshold the true positives ("true") and false positives ("false")."""
    counts_by_class = []
    for position, name in enumerate(predictions.classes):
        is_positive = predictions.labels == position
        if is_positive.all() or not is_positive.any():
            continue
        order = np.argsort(-predictions.probabilities[:, position], kind="stable")
        sorted_probabilities = predictions.probabilities[order, position]
        last_of_equals = np.append(np.flatnonzero(np.diff(sorted_probabilities)), len(order) - 1)
        n_true = np.cumsum(is_positive[order])[last_of_equals]
        counts = {"threshold": sorted_probabilities[last_of_equals], "true": n_true, "false": last_of_equals + 1 - n_true}
        counts_by_class.append((name, pd.DataFrame(counts)))
    return counts_by_class


def plot_roc(predictions: Predictions, title: str) -> go.Figure:
    """Plot the ROC curve of each class against the rest, with the area under it."""
    import plotly.graph_objects as go

    figure = go.Figure()
    for name, curve in roc_table(predictions).groupby("class", sort=False):
        area = float(np.trapezoid(curve["true_positive_rate"], curve["false_positive_rate"]))
        _add_curve(figure, predictions, str(name), curve, "false_positive_rate", "true_positive_rate", f"AUC {area:.3f}")
    figure.add_scatter(x=[0, 1], y=[0, 1], mode="lines", line={"color": PALE, "dash": "dot"}, name="chance", hoverinfo="skip")
    return _unit_square(figure, title, "false positive rate", "true positive rate")


def plot_precision_recall(predictions: Predictions, title: str) -> go.Figure:
    """Plot the precision-recall curve of each class against the rest, with its average precision."""
    import plotly.graph_objects as go

    figure = go.Figure()
    for name, curve in precision_recall_table(predictions).groupby("class", sort=False):
        average = float((np.diff(curve["recall"], prepend=0.0) * curve["precision"]).sum())
        _add_curve(figure, predictions, str(name), curve, "recall", "precision", f"AP {average:.3f}")
    return _unit_square(figure, title, "recall", "precision")


def _add_curve(
    figure: go.Figure, predictions: Predictions, name: str, curve: pd.DataFrame, x: str, y: str, summary: str
) -> None:
    thinned = curve.iloc[np.unique(np.linspace(0, len(curve) - 1, min(len(curve), _MAX_POINTS)).round().astype(int))]
    figure.add_scatter(
        x=thinned[x],
        y=thinned[y],
        customdata=thinned["threshold"].replace(np.inf, 1.0),
        mode="lines",
        name=f"{name} ({summary})",
        line={"color": colour_of(predictions.classes.index(name)), "shape": "linear"},
        hovertemplate=f"{x.replace('_', ' ')} %{{x:.3f}}, {y.replace('_', ' ')} %{{y:.3f}}, threshold %{{customdata:.3f}}",
    )


def _unit_square(figure: go.Figure, title: str, x: str, y: str) -> go.Figure:
    return styled(
        figure,
        title,
        xaxis={"title": x, "range": [-0.01, 1.01], "constrain": "domain"},
        yaxis={"title": y, "range": [-0.01, 1.01], "scaleanchor": "x", "constrain": "domain"},
        height=_SIDE + 40,
    )


def reliability_table(predictions: Predictions, *, n_bins: int = 10) -> pd.DataFrame:
    """Return the accuracy by the probability of the predicted class, one row for each bin that has images.

    Returns:
        low and high (edges of the bin; a probability on an edge belongs to the lower bin), confidence (mean probability),
        accuracy (share of correct predictions) and images.
    """
    confidence = predictions.probabilities.max(axis=1).astype(np.float64)
    bins_of_images = np.clip(np.ceil(confidence * n_bins).astype(np.int64) - 1, 0, n_bins - 1)
    table = pd.DataFrame(
        {"bin": bins_of_images, "confidence": confidence, "accuracy": predictions.predicted == predictions.labels}
    )
    bins = table.groupby("bin").agg(confidence=("confidence", "mean"), accuracy=("accuracy", "mean"), images=("bin", "size"))
    edges = bins.index.to_numpy()
    return bins.assign(low=edges / n_bins, high=(edges + 1) / n_bins).reset_index(drop=True)[
        ["low", "high", "confidence", "accuracy", "images"]
    ]


def plot_reliability(predictions: Predictions, title: str) -> go.Figure:
    """Plot the accuracy against the confidence, with the expected calibration error (15 bins)."""
    import plotly.graph_objects as go

    table = reliability_table(predictions)
    error = expected_calibration_error(predictions.labels, predictions.probabilities)
    figure = go.Figure()
    figure.add_scatter(x=[0, 1], y=[0, 1], mode="lines", line={"color": PALE, "dash": "dot"}, name="perfect calibration")
    figure.add_scatter(
        x=table["confidence"],
        y=table["accuracy"],
        mode="lines+markers",
        name=f"predictions (ECE {error:.3f})",
        customdata=table["images"],
        marker={"size": 6 + 18 * np.sqrt(table["images"] / max(1, table["images"].max())), "color": colour_of(0)},
        line={"color": TEXT_COLOUR, "width": 1},
        hovertemplate="confidence %{x:.2f}, accuracy %{y:.2f}, %{customdata} images<extra></extra>",
    )
    return _unit_square(figure, title, "probability of the predicted class", "accuracy")
