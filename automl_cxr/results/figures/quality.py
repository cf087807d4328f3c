"""Figures of the quality of predictions: confusion matrix, ROC and precision-recall curves, and reliability diagram."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from automl_cxr.results.figures.style import PALE, TEXT_COLOUR, colour_of, line_of, styled
from automl_cxr.results.figures.thinning import thinned
from automl_cxr.scoring.confusion import confusion_matrix
from automl_cxr.scoring.finding_counts import count_decisions
from automl_cxr.scoring.metrics import METRICS
from automl_cxr.scoring.predictions import Predictions
from automl_cxr.tasks import PRESENT

if TYPE_CHECKING:
    import plotly.graph_objects as go

_MAX_POINTS = 400  # of a curve; a screen does not show more
_SIDE = 460  # pixels of a square plot
_FEW_CURVES = 9  # with more, the legend needs space of its own
_LEGEND_ROW = 26  # pixels; a row has two curves on a narrow screen
_DECISION_ROW = 28  # pixels of a finding in a plot of decisions
_DECISIONS = ("present, reported", "present, missed", "absent, reported", "absent, not reported")
_COUNTS_ORDER = (0, 2, 1, 3)  # of ``count_decisions``, which returns true and false positives, then false and true negatives


def confusion_table(predictions: Predictions) -> pd.DataFrame:
    """Count images by true class (rows) and predicted class (columns).

    For findings, count decisions at the thresholds for each finding (rows): "present, reported", "present, missed", "absent,
    reported" and "absent, not reported".
    """
    if predictions.is_multilabel:
        counts = count_decisions(predictions.labels, predictions.decided)
        return pd.DataFrame(counts[:, _COUNTS_ORDER], index=list(predictions.classes), columns=list(_DECISIONS))
    counts = confusion_matrix(predictions.labels, predictions.predicted, len(predictions.classes))
    return pd.DataFrame(counts, index=list(predictions.classes), columns=list(predictions.classes))


def plot_confusion(predictions: Predictions, title: str) -> go.Figure:
    """Plot the number of images by true and predicted class; the colour is the share of the true class.

    For findings, the colour is the share of the images in which the finding is present, or absent.
    """
    import plotly.graph_objects as go  # takes a second to import and is not needed by most commands

    table = confusion_table(predictions)
    counts = table.to_numpy()
    if predictions.is_multilabel:
        return _plot_decisions(table, title)
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


def _plot_decisions(table: pd.DataFrame, title: str) -> go.Figure:
    import plotly.graph_objects as go

    counts = table.to_numpy()
    by_label = counts.reshape(len(counts), 2, 2)
    shares = (by_label / np.maximum(by_label.sum(axis=2, keepdims=True), 1)).reshape(counts.shape)
    figure = go.Figure(
        go.Heatmap(
            z=shares,
            x=[name.replace(", ", ",<br>") for name in table.columns],
            y=list(table.index),
            text=counts,
            texttemplate="%{text}",
            hovertemplate="%{y}: %{text} images, %{z:.1%} of the images with this label<extra></extra>",
            colorscale="Blues",
            zmin=0,
            zmax=1,
            showscale=False,
        )
    )
    return styled(
        figure,
        title,
        xaxis={"side": "top"},
        yaxis={"autorange": "reversed", "automargin": True},
        margin={"l": 60, "r": 20, "t": 110, "b": 20},
        height=160 + _DECISION_ROW * len(counts),
    )


def roc_table(predictions: Predictions, *, position: int | None = None) -> pd.DataFrame:
    """Return the ROC curve of each class against the rest: class, threshold, false_positive_rate, true_positive_rate.

    The curve has a point at (0, 0) and one at every distinct probability, from high to low. A class with no images or with
    all images has no rows. The curve of a finding is that of the images whose label is known.

    Args:
        predictions: The predictions.
        position: Index of a class or finding; by default all.
    """
    rows = []
    for name, counts in _counts_over_thresholds(predictions, position):
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


def precision_recall_table(predictions: Predictions, *, position: int | None = None) -> pd.DataFrame:
    """Return the precision-recall curve of each class against the rest: class, threshold, recall, precision.

    The curve has a point at every distinct probability, from high to low. The same classes as in ``roc_table`` are omitted.
    Arguments as for ``roc_table``.
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
        for name, counts in _counts_over_thresholds(predictions, position)
    ]
    return pd.concat(rows, ignore_index=True) if rows else pd.DataFrame(columns=["class", "threshold", "recall", "precision"])


def _counts_over_thresholds(predictions: Predictions, position: int | None) -> list[tuple[str, pd.DataFrame]]:
    """Count for each class and threshold the true positives ("true") and false positives ("false")."""
    counts_by_class = []
    for number in range(len(predictions.classes)) if position is None else [position]:
        is_positive, probabilities = one_against_rest(predictions, number)
        if is_positive.all() or not is_positive.any():
            continue
        order = np.argsort(-probabilities, kind="stable")
        sorted_probabilities = probabilities[order]
        last_of_equals = np.append(np.flatnonzero(np.diff(sorted_probabilities)), len(order) - 1)
        n_true = np.cumsum(is_positive[order])[last_of_equals]
        counts = {"threshold": sorted_probabilities[last_of_equals], "true": n_true, "false": last_of_equals + 1 - n_true}
        counts_by_class.append((predictions.classes[number], pd.DataFrame(counts)))
    return counts_by_class


def one_against_rest(predictions: Predictions, position: int) -> tuple[np.ndarray, np.ndarray]:
    """Return whether each image is of a class, or has a finding, and its probability; without images of unknown label.

    Returns:
        bool (n_known,) and float32 (n_known,).
    """
    if not predictions.is_multilabel:
        return predictions.labels == position, predictions.probabilities[:, position]
    labels = predictions.labels[:, position]
    is_known = labels >= 0
    return labels[is_known] == PRESENT, predictions.probabilities[is_known, position]


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
    shown = thinned(curve, _MAX_POINTS)
    figure.add_scatter(
        x=shown[x],
        y=shown[y],
        customdata=shown["threshold"].replace(np.inf, 1.0),
        mode="lines",
        name=f"{name} ({summary})",
        line=line_of(predictions.classes.index(name)) | {"shape": "linear"},
        hovertemplate=f"{x.replace('_', ' ')} %{{x:.3f}}, {y.replace('_', ' ')} %{{y:.3f}}, threshold %{{customdata:.3f}}",
    )


def _unit_square(figure: go.Figure, title: str, x: str, y: str) -> go.Figure:
    return styled(
        figure,
        title,
        xaxis={"title": x, "range": [-0.01, 1.01], "constrain": "domain"},
        yaxis={"title": y, "range": [-0.01, 1.01], "scaleanchor": "x", "constrain": "domain"},
        height=_SIDE + 40 + _LEGEND_ROW * max(0, len(figure.data) - _FEW_CURVES) // 2,
    )


def reliability_table(predictions: Predictions, *, n_bins: int = 10, finding: int | None = None) -> pd.DataFrame:
    """Return the accuracy by the probability of the predicted class, one row for each bin that has images.

    Args:
        predictions: The predictions.
        n_bins: Number of bins of equal width.
        finding: Number of a finding; by default all known labels of all findings are used.

    Returns:
        low and high (edges of the bin; a probability on an edge belongs to the lower bin), confidence (mean probability),
        accuracy (share of correct predictions) and images. For findings, the probability is that of the finding, accuracy is
        the share of the labels that are present, and images is the number of labels.
    """
    if predictions.is_multilabel:
        positions = range(len(predictions.classes)) if finding is None else [finding]
        pairs = [one_against_rest(predictions, position) for position in positions]
        correct, confidence = (np.concatenate([pair[number] for pair in pairs]) for number in (0, 1))
    else:
        correct, confidence = predictions.predicted == predictions.labels, predictions.probabilities.max(axis=1)
    confidence = confidence.astype(np.float64)
    bins_of_images = np.clip(np.ceil(confidence * n_bins).astype(np.int64) - 1, 0, n_bins - 1)
    table = pd.DataFrame({"bin": bins_of_images, "confidence": confidence, "accuracy": correct})
    bins = table.groupby("bin").agg(confidence=("confidence", "mean"), accuracy=("accuracy", "mean"), images=("bin", "size"))
    edges = bins.index.to_numpy()
    return bins.assign(low=edges / n_bins, high=(edges + 1) / n_bins).reset_index(drop=True)[
        ["low", "high", "confidence", "accuracy", "images"]
    ]


def plot_reliability(predictions: Predictions, title: str) -> go.Figure:
    """Plot the accuracy against the confidence, with the expected calibration error (15 bins)."""
    import plotly.graph_objects as go

    table = reliability_table(predictions)
    error = METRICS["calibration_error"].function(predictions.labels, predictions.probabilities, None)
    x, y = (
        ("probability of a finding", "share of labels that are present")
        if predictions.is_multilabel
        else ("probability of the predicted class", "accuracy")
    )
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
    return _unit_square(figure, title, x, y)
