"""Metrics of predictions. The rows are in ``scoring.metric_table``; this module builds the metrics from them."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from automl_cxr.errors import UnknownNameError, UsageError
from automl_cxr.scoring import confusion
from automl_cxr.scoring.confusion import confusion_matrix, macro_f1
from automl_cxr.scoring.metric_table import METRIC_ROWS, Direction, MetricRow
from automl_cxr.scoring.predictions import Predictions

# Names of the class without a finding, and words in them that do not change the meaning.
_NORMAL_NAMES = frozenset(
    {
        *("normal", "healthy", "negative", "no disease", "no pathology"),
        *("no finding", "no findings", "nofinding", "nofindings"),
    }
)
_NEUTRAL_WORDS = frozenset({"chest", "class", "cxr", "image", "images", "lung", "lungs", "ray", "x", "xray"})


def score_macro_f1(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Compute the macro-F1 of one model from arrays, fast enough for every epoch.

    Args:
        labels: True classes, integers (n,).
        probabilities: (n, k), or any scores of which the largest one is the prediction.
    """
    return float(macro_f1(confusion_matrix(labels, probabilities.argmax(axis=1), probabilities.shape[1])))


@dataclass(frozen=True)
class Metric:
    """A metric: an entry of ``METRICS``, or of ``metrics_for`` the classes of a study.

    Attributes:
        name: Name on the command line.
        direction: "maximize" or "minimize".
        description: One line for help texts and reports.
        function: Takes (labels (n,), probabilities (n, k), normal_class or None) and returns the score. Only this function is
            required; the next three make bootstrap intervals and ensembles faster.
        of_weights: Takes (labels (n,), probabilities (n, k), weights (n, n_resamples), normal_class or None), where each image
            counts as often as its weight, and returns scores (n_resamples,); None if there is no such function.
        of_confusions: Takes (confusions (..., k, k), normal_class or None) and returns scores (...), for metrics that depend
            only on the confusion matrix; None for other metrics.
        of_stacks: Takes (labels (n,), probabilities (..., n, k), normal_class or None) and returns scores (...); None if there
            is no such function.
        needs_normal_class: Whether the metric is defined only if ``normal_class`` is known.
    """

    name: str
    direction: Direction
    description: str
    function: Callable[[np.ndarray, np.ndarray, int | None], float]
    of_weights: Callable[[np.ndarray, np.ndarray, np.ndarray, int | None], np.ndarray] | None = None
    of_confusions: Callable[[np.ndarray, int | None], np.ndarray] | None = None
    of_stacks: Callable[[np.ndarray, np.ndarray, int | None], np.ndarray] | None = None
    needs_normal_class: bool = False

    def score_stack(self, labels: np.ndarray, probabilities: np.ndarray, normal_class: int | None) -> np.ndarray:
        """Score several models: with ``of_stacks`` if the metric has it, otherwise one after another.

        Args:
            labels: True classes, integers (n,).
            probabilities: (n_models, n, k).
            normal_class: Index of the class without a finding, or None.

        Returns:
            float64 (n_models,).
        """
        if self.of_stacks is not None:
            return self.of_stacks(labels, probabilities, normal_class)
        return np.array([self.function(labels, model, normal_class) for model in probabilities], dtype=np.float64)

    def score_weighted(
        self, labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray, normal_class: int | None
    ) -> np.ndarray:
        """Score one model where each image counts several times or not at all.

        Uses ``of_weights`` if the metric has it, otherwise the plain function on repeated images, once for each column of
        weights.

        Args:
            labels: True classes, integers (n,).
            probabilities: (n, k).
            weights: How often each image counts, whole numbers (n, n_resamples).
            normal_class: Index of the class without a finding, or None.

        Returns:
            float64 (n_resamples,); NaN where no image counts.
        """
        if self.of_weights is not None:
            return self.of_weights(labels, probabilities, weights, normal_class)
        rows = (np.repeat(np.arange(len(labels)), counts) for counts in weights.T.astype(np.int64))
        scores = [self.function(labels[row], probabilities[row], normal_class) if len(row) else np.nan for row in rows]
        return np.array(scores, dtype=np.float64)

    def require_normal_class(self, normal_class: int | None, n_classes: int) -> None:
        """Check that a metric which needs a normal class has a valid one.

        Raises:
            UsageError: The metric needs a normal class and has none, or the class does not exist.
        """
        if normal_class is not None and not 0 <= normal_class < n_classes:
            raise UsageError(f"The normal class must be from 0 to {n_classes - 1}. Received {normal_class}.")
        if self.needs_normal_class and normal_class is None:
            raise UsageError(f"Metric '{self.name}' requires a normal class. Received none. Name it with --normal-class.")


# ------------------------------------------------------------------------------------ from rows of the table to metrics


def build_metric(row: MetricRow) -> Metric:
    """Build the metric of a row from the functions that it names."""
    build = {"probabilities": _of_probabilities, "confusion": _of_confusion, "one_vs_rest": _of_one_vs_rest}[row.inputs]
    return build(row)


def _load(row: MetricRow, path: str) -> Callable[..., Any]:
    """Import a function of a row. The result takes the normal class as its last argument, whether it is needed or not."""
    module, name = path.split(":")
    function = functools.partial(getattr(importlib.import_module(f"automl_cxr.scoring.{module}"), name), **row.parameters)

    def call(*arguments: Any) -> Any:
        *arrays, normal_class = arguments
        if not row.needs_normal_class:
            return function(*arrays)
        if normal_class is None:
            raise UsageError(f"Metric '{row.name}' requires a normal class. Received none. Name it with --normal-class.")
        return function(*arrays, normal_class)

    return call


def _of_probabilities(row: MetricRow) -> Metric:
    score = _load(row, row.function)

    def function(labels: np.ndarray, probabilities: np.ndarray, normal_class: int | None) -> float:
        return float(score(labels, probabilities, normal_class))

    return Metric(
        row.name,
        row.direction,
        row.description,
        function,
        of_weights=_load(row, row.weighted) if row.weighted else None,
        of_stacks=_load(row, row.stacked) if row.stacked else None,
        needs_normal_class=row.needs_normal_class,
    )


def _of_confusion(row: MetricRow) -> Metric:
    return _from_confusions(row, _load(row, row.function))


def _from_confusions(row: MetricRow, of_confusions: Callable[[np.ndarray, int | None], np.ndarray]) -> Metric:
    def function(labels: np.ndarray, probabilities: np.ndarray, normal_class: int | None) -> float:
        matrix = confusion_matrix(labels, probabilities.argmax(axis=1), probabilities.shape[1])
        return float(of_confusions(matrix, normal_class))

    return Metric(
        row.name,
        row.direction,
        row.description,
        function,
        of_confusions=of_confusions,
        needs_normal_class=row.needs_normal_class,
    )


def _of_one_vs_rest(row: MetricRow, numbers: Sequence[int] | None = None) -> Metric:
    """Build the mean of a one-vs-rest metric over some classes, or over all classes if ``numbers`` is None."""
    per_class, weighted = _load(row, row.function), _load(row, row.weighted)

    def of_stacks(labels: np.ndarray, probabilities: np.ndarray, normal_class: int | None) -> np.ndarray:
        scores = per_class(labels, probabilities, normal_class)
        return (scores if numbers is None else scores[..., list(numbers)]).mean(axis=-1)

    def of_weights(labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray, normal_class: int | None) -> np.ndarray:
        chosen = range(probabilities.shape[1]) if numbers is None else numbers
        return np.mean([weighted(labels == one, probabilities[:, one], weights, normal_class) for one in chosen], axis=0)

    def function(labels: np.ndarray, probabilities: np.ndarray, normal_class: int | None) -> float:
        return float(of_stacks(labels, probabilities, normal_class))

    return Metric(row.name, row.direction, row.description, function, of_weights, of_stacks=of_stacks)


def _over_classes(row: MetricRow, numbers: Sequence[int]) -> Metric:
    """Build a metric that is a mean over the classes for some of them; any other metric for all images."""
    if row.inputs == "one_vs_rest":
        return _of_one_vs_rest(row, numbers)
    if not row.per_class:
        return build_metric(row)
    per_class = _load(row, row.per_class)
    return _from_confusions(row, lambda matrices, normal: per_class(matrices, normal)[..., list(numbers)].mean(axis=-1))


_BY_NAME = {row.name: build_metric(row) for row in METRIC_ROWS}
METRICS: Mapping[str, Metric] = MappingProxyType(_BY_NAME)
"""Every metric by name, read-only. Add a metric in ``scoring.metric_table``."""

CLASS_METRICS: Mapping[str, str] = MappingProxyType(
    {
        "f1": "harmonic mean of precision and recall of",
        "precision": "share of correct predictions among the images predicted as",
        "recall": "share of correct predictions among the images of",
        "specificity": "share of the other classes' images that are not predicted as",
        "auc": "one-vs-rest area under the ROC curve of",
        "average_precision": "one-vs-rest average precision of",
    }
)
"""Metrics of a single class, which are named ``<kind>_<class>``, with descriptions that end with the name of the class."""

_CLASS_FUNCTIONS = {
    "f1": confusion.f1_per_class,
    "precision": confusion.precision_per_class,
    "recall": confusion.recall_per_class,
    "specificity": confusion.specificity_per_class,
}


def metric(name: str) -> Metric:
    """Return the metric with a name.

    Raises:
        UnknownNameError: There is no such metric.
    """
    if name not in METRICS:
        raise UnknownNameError("metric", name, METRICS)
    return METRICS[name]


def metrics_for(
    classes: Sequence[str], *, normal_class: int | None = None, present: Sequence[int] | None = None
) -> dict[str, Metric]:
    """Return all metrics for a list of classes, by name.

    Args:
        classes: Class names in the order of their indices.
        normal_class: Index of the class without a finding; if None, the metrics that need it are omitted.
        present: Indices of the classes that have images, in data that lack some of the classes; by default all. Means over the
            classes are then means over these, where the prediction of another class is an error of the true class.

    Returns:
        Entries of ``METRICS``, then ``<kind>_<class>`` for each kind of ``CLASS_METRICS`` and each class of ``present``.

    Raises:
        UsageError: The normal class does not exist.
    """
    rows = {name: row for name, row in METRICS.items() if normal_class is not None or not row.needs_normal_class}
    for row in rows.values():
        row.require_normal_class(normal_class, len(classes))
    numbers = range(len(classes)) if present is None else present
    if len(numbers) < len(classes):
        rows |= {row.name: _over_classes(row, numbers) for row in METRIC_ROWS if row.name in rows}
    for kind in CLASS_METRICS:
        rows |= {f"{kind}_{classes[number]}": _class_metric(kind, classes[number], number) for number in numbers}
    return rows


def _class_metric(kind: str, class_name: str, number: int) -> Metric:
    name, description = f"{kind}_{class_name}", f"{CLASS_METRICS[kind]} {class_name}"
    one_vs_rest = {"auc": "macro_auc", "average_precision": "macro_average_precision"}
    if kind in one_vs_rest:
        row = next(row for row in METRIC_ROWS if row.name == one_vs_rest[kind])
        return _of_one_vs_rest(dataclasses.replace(row, name=name, description=description), [number])
    per_class = _CLASS_FUNCTIONS[kind]

    def of_confusions(matrices: np.ndarray, _normal_class: int | None) -> np.ndarray:
        return per_class(matrices)[..., number]

    def function(labels: np.ndarray, probabilities: np.ndarray, normal_class: int | None) -> float:
        matrix = confusion_matrix(labels, probabilities.argmax(axis=1), probabilities.shape[1])
        return float(of_confusions(matrix, normal_class))

    return Metric(name, "maximize", description, function, of_confusions=of_confusions)


def score_predictions(predictions: Predictions, *, normal_class: int | None = None) -> dict[str, float]:
    """Compute all metrics of one model.

    Args:
        predictions: Labelled predictions, at least one image.
        normal_class: Index of the class without a finding; if None, the metrics that need it are omitted.

    Returns:
        The scores of ``metrics_for`` the classes by name; NaN where undefined, such as macro_auc if a class has no image.

    Raises:
        DataError: There is no image or a label is unknown.
        UsageError: The normal class does not exist.
    """
    predictions.require_labels()
    rows = metrics_for(predictions.classes, normal_class=normal_class)
    labels, probabilities = predictions.labels, predictions.probabilities
    return {name: row.function(labels, probabilities, normal_class) for name, row in rows.items()}


def find_normal_class(classes: Sequence[str]) -> int | None:
    """Find the class without a finding by the class names.

    The whole name must match, regardless of case, separators and numbering ("01_No-Finding", "Normal lung"). A matching word
    is not enough: "Abnormal", "No opacity / not normal" and "COVID-negative pneumonia" are not normal.

    Returns:
        The index of the class; None if no name or more than one name matches.
    """
    matches = [index for index, name in enumerate(classes) if is_normal_name(name)]
    return matches[0] if len(matches) == 1 else None


def is_normal_name(name: str) -> bool:
    """Return whether a class name is one of a class without a finding, by the rules of ``find_normal_class``."""
    separated = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)  # NoFinding
    words = re.findall(r"[^\W\d_]+", separated.lower())
    return " ".join(word for word in words if word not in _NEUTRAL_WORDS) in _NORMAL_NAMES
