"""Metrics of one class for each image, built from the rows of ``scoring.metric_table``."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from automl_cxr.errors import UsageError
from automl_cxr.scoring import confusion
from automl_cxr.scoring.confusion import confusion_matrix
from automl_cxr.scoring.influences import MIN_IMAGES
from automl_cxr.scoring.metric_base import Metric, load_function
from automl_cxr.scoring.metric_table import CLASS_METRICS, METRIC_ROWS, ClassFunctions, MetricRow
from automl_cxr.tasks import MULTICLASS

_CLASS_FUNCTIONS = {
    "f1": confusion.f1_per_class,
    "precision": confusion.precision_per_class,
    "recall": confusion.recall_per_class,
    "specificity": confusion.specificity_per_class,
}
_ONE_VS_REST = {"auc": "macro_auc", "average_precision": "macro_average_precision"}


def build_class_metric(row: MetricRow, numbers: Sequence[int] | None = None) -> Metric:
    """Build the metric of a row from its functions for classes.

    Args:
        row: A row that is defined for classes.
        numbers: Indices of the classes over which a mean over the classes is taken; None for all classes.
    """
    functions = _functions(row)
    if functions.inputs == "one_vs_rest":
        return _of_one_vs_rest(row, numbers)
    if functions.inputs == "probabilities":
        return _of_probabilities(row)
    if numbers is None or not functions.per_class:
        return _from_confusions(row, _load(row, functions.function))
    per_class = _load(row, functions.per_class)
    return _from_confusions(row, lambda matrices, normal: per_class(matrices, normal)[..., list(numbers)].mean(axis=-1))


def build_metric_of_class(kind: str, class_name: str, number: int) -> Metric:
    """Build the metric ``<kind>_<class>`` of a class.

    Args:
        kind: A name in ``CLASS_METRICS``.
        class_name: Name of the class.
        number: Index of the class.
    """
    name, description = f"{kind}_{class_name}", f"{CLASS_METRICS[kind]} {class_name}"
    if kind in _ONE_VS_REST:
        row = next(row for row in METRIC_ROWS if row.name == _ONE_VS_REST[kind])
        return _of_one_vs_rest(dataclasses.replace(row, name=name, description=description), [number])
    per_class = _CLASS_FUNCTIONS[kind]
    row = MetricRow(name=name, direction="maximize", description=description)
    return _from_confusions(row, lambda matrices, _normal_class: per_class(matrices)[..., number])


def _functions(row: MetricRow) -> ClassFunctions:
    if row.classes is None:
        raise UsageError(f"Metric '{row.name}' is not defined for classes. Choose another metric.")
    return row.classes


def _load(row: MetricRow, path: str) -> Callable[..., Any]:
    """Import a function of a row. The result takes the normal class as its last argument, whether it is needed or not."""
    function = load_function(path, row.parameters)

    def call(*arguments: Any) -> Any:
        *arrays, normal_class = arguments
        if not row.needs_normal_class:
            return function(*arrays)
        if normal_class is None:
            raise UsageError(f"Metric '{row.name}' requires a normal class. Received none. Name it with --normal-class.")
        return function(*arrays, normal_class)

    return call


def _of_probabilities(row: MetricRow) -> Metric:
    functions = _functions(row)
    score = _load(row, functions.function)

    def function(labels: np.ndarray, probabilities: np.ndarray, normal_class: int | None) -> float:
        return float(score(labels, probabilities, normal_class))

    return Metric(
        row.name,
        row.direction,
        row.description,
        function,
        of_weights=_load(row, functions.weighted) if functions.weighted else None,
        of_stacks=_load(row, functions.stacked) if functions.stacked else None,
        needs_normal_class=row.needs_normal_class,
        is_raised_by_noise=row.is_raised_by_noise,
        tasks=(MULTICLASS,),
    )


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
        tasks=(MULTICLASS,),
    )


def _of_one_vs_rest(row: MetricRow, numbers: Sequence[int] | None) -> Metric:
    """Build the mean of a one-vs-rest metric over some classes, or over all classes if ``numbers`` is None."""
    functions = _functions(row)
    per_class, weighted = _load(row, functions.function), _load(row, functions.weighted)

    def of_stacks(labels: np.ndarray, probabilities: np.ndarray, normal_class: int | None) -> np.ndarray:
        scores = per_class(labels, probabilities, normal_class)
        return (scores if numbers is None else scores[..., list(numbers)]).mean(axis=-1)

    def of_weights(labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray, normal_class: int | None) -> np.ndarray:
        chosen = range(probabilities.shape[1]) if numbers is None else numbers
        return np.mean([weighted(labels == one, probabilities[:, one], weights, normal_class) for one in chosen], axis=0)

    def function(labels: np.ndarray, probabilities: np.ndarray, normal_class: int | None) -> float:
        return float(of_stacks(labels, probabilities, normal_class))

    return Metric(
        row.name,
        row.direction,
        row.description,
        function,
        of_weights,
        of_influence=_mean_influence(row, numbers) if functions.influence else None,
        of_stacks=of_stacks,
        tasks=(MULTICLASS,),
    )


def _mean_influence(row: MetricRow, numbers: Sequence[int] | None) -> Callable[[np.ndarray, np.ndarray], np.ndarray | None]:
    """Build the influence of each image on the mean of a one-vs-rest metric over some classes, see ``_of_one_vs_rest``."""
    influence = load_function(_functions(row).influence, row.parameters)

    def of_influence(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray | None:
        chosen = range(probabilities.shape[1]) if numbers is None else numbers
        memberships = {one: labels == one for one in chosen}
        if any(min(positive.sum(), (~positive).sum()) < MIN_IMAGES for positive in memberships.values()):
            return None
        return np.mean([influence(positive, probabilities[:, one]) for one, positive in memberships.items()], axis=0)

    return of_influence
