"""Metrics of predictions. The rows are in ``scoring.metric_table``; this module builds the metrics from them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np

from automl_cxr.errors import UnknownNameError, UsageError
from automl_cxr.scoring.class_metrics import build_class_metric, build_metric_of_class
from automl_cxr.scoring.confusion import confusion_matrix, macro_f1
from automl_cxr.scoring.finding_labels import mean_of_findings
from automl_cxr.scoring.finding_metrics import (
    MEANS_OF_KINDS,
    build_finding_metric,
    build_metric_of_finding,
    score_each_kind,
)
from automl_cxr.scoring.metric_base import Metric
from automl_cxr.scoring.metric_table import CLASS_METRICS, METRIC_ROWS, MetricRow
from automl_cxr.scoring.predictions import Predictions
from automl_cxr.scoring.thresholds import choose_thresholds
from automl_cxr.tasks import MULTICLASS, MULTILABEL

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


def _build(row: MetricRow) -> Metric:
    """Build the metric of a row. Its functions depend on the labels: classes (n,), or label codes of findings (n, k)."""
    by_task = {}
    if row.classes is not None:
        by_task[MULTICLASS] = build_class_metric(row)
    if row.findings is not None:
        by_task[MULTILABEL] = build_finding_metric(row)

    def of_task(labels: np.ndarray) -> Metric:
        task = MULTILABEL if labels.ndim == 2 else MULTICLASS
        if task not in by_task:
            raise UsageError(_undefined_message(row.name, task))
        return by_task[task]

    def of_influence(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray | None:
        influence = of_task(labels).of_influence
        return None if influence is None else influence(labels, probabilities)

    return Metric(
        row.name,
        row.direction,
        row.description,
        lambda labels, *arguments: of_task(labels).function(labels, *arguments),
        of_weights=lambda labels, *arguments: of_task(labels).score_weighted(labels, *arguments),
        of_confusions=by_task[MULTICLASS].of_confusions if MULTICLASS in by_task else None,
        of_counts=by_task[MULTILABEL].of_counts if MULTILABEL in by_task else None,
        of_influence=of_influence if any(metric.of_influence is not None for metric in by_task.values()) else None,
        prepare=by_task[MULTILABEL].prepare if MULTILABEL in by_task else None,
        of_stacks=lambda labels, *arguments: of_task(labels).score_stack(labels, *arguments),
        of_rounded=by_task[MULTILABEL].of_rounded if MULTILABEL in by_task else None,
        needs_normal_class=row.needs_normal_class,
        is_raised_by_noise=row.is_raised_by_noise,
        tasks=row.tasks,
    )


def _undefined_message(name: str, task: str) -> str:
    whom = "several findings" if task == MULTILABEL else "classes"
    defined = ", ".join(row.name for row in METRIC_ROWS if task in row.tasks)
    return f"Metric '{name}' is not defined for {whom} of an image. Choose one of {defined}."


_BY_NAME = {row.name: _build(row) for row in METRIC_ROWS}
METRICS: Mapping[str, Metric] = MappingProxyType(_BY_NAME)
"""Every metric by name, read-only. Add a metric in ``scoring.metric_table``."""


def metric(name: str) -> Metric:
    """Return the metric with a name.

    Raises:
        UnknownNameError: There is no such metric.
    """
    if name not in METRICS:
        raise UnknownNameError("metric", name, METRICS)
    return METRICS[name]


def check_defined(name: str, task: str) -> None:
    """Refuse a metric of ``METRICS`` that does not exist for a task.

    Raises:
        UnknownNameError: There is no such metric.
        UsageError: The metric is not defined for the task.
    """
    if task not in metric(name).tasks:
        raise UsageError(_undefined_message(name, task))


def metrics_for(
    classes: Sequence[str],
    *,
    normal_class: int | None = None,
    present: Sequence[int] | None = None,
    task: str = MULTICLASS,
    thresholds: np.ndarray | None = None,
) -> dict[str, Metric]:
    """Return all metrics for a list of classes or findings, by name.

    Args:
        classes: Class names in the order of their indices, or names of findings.
        normal_class: Index of the class without a finding; if None, the metrics that need it are omitted. Not for findings.
        present: Indices of the classes that have images, in data that lack some of the classes; by default all. Means over the
            classes are then means over these, where the prediction of another class is an error of the true class. Not for
            findings, whose means leave out undefined scores.
        task: The task, a name in ``tasks.TASKS``.
        thresholds: For findings, the thresholds of decisions, (k,). By default those that maximise the F1 of each finding
            on the labels that are scored.

    Returns:
        Entries of ``METRICS``, then ``<kind>_<class>`` for each kind of ``CLASS_METRICS`` and each class of ``present``.

    Raises:
        UsageError: The normal class does not exist.
    """
    if task == MULTILABEL:
        return _metrics_for_findings(classes, thresholds)
    rows = {
        name: row
        for name, row in METRICS.items()
        if task in row.tasks and (normal_class is not None or not row.needs_normal_class)
    }
    for row in rows.values():
        row.require_normal_class(normal_class, len(classes))
    numbers = range(len(classes)) if present is None else present
    if len(numbers) < len(classes):
        rows |= {row.name: build_class_metric(row, numbers) for row in METRIC_ROWS if row.name in rows}
    for kind in CLASS_METRICS:
        rows |= {f"{kind}_{classes[number]}": build_metric_of_class(kind, classes[number], number) for number in numbers}
    return rows


def _metrics_for_findings(findings: Sequence[str], thresholds: np.ndarray | None) -> dict[str, Metric]:
    rows = {name: row for name, row in METRICS.items() if MULTILABEL in row.tasks}
    if thresholds is not None:
        rows |= {row.name: build_finding_metric(row, thresholds) for row in METRIC_ROWS if row.name in rows}
    for kind in CLASS_METRICS:
        rows |= {
            f"{kind}_{finding}": build_metric_of_finding(kind, finding, number, thresholds)
            for number, finding in enumerate(findings)
        }
    return rows


def score_predictions(predictions: Predictions, *, normal_class: int | None = None) -> dict[str, float]:
    """Compute all metrics of one model.

    Args:
        predictions: Labelled predictions, at least one image. Decisions on findings are those of their thresholds; without
            thresholds, those that maximise the F1 of each finding on these labels.
        normal_class: Index of the class without a finding; if None, the metrics that need it are omitted.

    Returns:
        The scores of ``metrics_for`` the classes by name; NaN where undefined, such as macro_auc if a class has no image.

    Raises:
        DataError: There is no image or a label is unknown.
        UsageError: The normal class does not exist.
    """
    predictions.require_labels()
    if predictions.is_multilabel:
        return _score_findings(predictions)
    rows = metrics_for(predictions.classes, normal_class=normal_class)
    labels, probabilities = predictions.labels, predictions.probabilities
    return {name: row.function(labels, probabilities, normal_class) for name, row in rows.items()}


def _score_findings(predictions: Predictions) -> dict[str, float]:
    """Compute all metrics of findings. Means are computed from the scores of the findings, not a second time."""
    labels, probabilities, thresholds = predictions.labels, predictions.probabilities, predictions.thresholds
    if thresholds is None:
        thresholds = choose_thresholds(labels, probabilities)
    by_kind = score_each_kind(labels, probabilities, thresholds)
    scores = {}
    for name, row in _metrics_for_findings((), thresholds).items():
        if name in MEANS_OF_KINDS:
            scores[name] = float(mean_of_findings(by_kind[MEANS_OF_KINDS[name]]))
        else:
            scores[name] = row.function(labels, probabilities, None)
    for kind, of_findings in by_kind.items():
        scores |= {f"{kind}_{name}": score for name, score in zip(predictions.classes, of_findings.tolist(), strict=True)}
    return scores


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
