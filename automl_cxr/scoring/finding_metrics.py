"""Metrics of several findings of each image, built from the rows of ``scoring.metric_table``."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from automl_cxr.errors import UsageError
from automl_cxr.scoring import finding_counts
from automl_cxr.scoring.finding_counts import DecisionCounter, count_decisions
from automl_cxr.scoring.finding_labels import count_labels, known_images, mean_of_findings, score_each_finding
from automl_cxr.scoring.influences import MIN_IMAGES
from automl_cxr.scoring.metric_base import Metric, WeightedScore, load_function
from automl_cxr.scoring.metric_table import CLASS_METRICS, METRIC_ROWS, FindingFunctions, MetricRow
from automl_cxr.scoring.thresholds import choose_thresholds
from automl_cxr.tasks import MULTILABEL

_COUNT_FUNCTIONS = {
    "f1": finding_counts.f1_per_finding,
    "precision": finding_counts.precision_per_finding,
    "recall": finding_counts.recall_per_finding,
    "specificity": finding_counts.specificity_per_finding,
}
_MEANS = {"auc": "macro_auc", "average_precision": "macro_average_precision"}


def build_finding_metric(row: MetricRow, thresholds: np.ndarray | None = None) -> Metric:
    """Build the metric of a row from its functions for findings.

    Args:
        row: A row that is defined for findings.
        thresholds: Thresholds of decisions, (k,); None if they are chosen on the same labels.
    """
    functions = _functions(row)
    if functions.inputs == "counts":
        return _from_counts(row, load_function(functions.function, row.parameters), thresholds)
    if functions.inputs == "labels":
        return _of_labels(row, functions)
    return _of_findings(row, functions, mean_of_findings)


def build_metric_of_finding(kind: str, finding: str, number: int, thresholds: np.ndarray | None = None) -> Metric:
    """Build the metric ``<kind>_<finding>`` of a finding.

    Args:
        kind: A name in ``CLASS_METRICS``.
        finding: Name of the finding.
        number: Index of the finding.
        thresholds: Thresholds of decisions, (k,); None if they are chosen on the same labels.
    """
    row = MetricRow(name=f"{kind}_{finding}", direction="maximize", description=f"{CLASS_METRICS[kind]} {finding}")
    if kind in _MEANS:
        functions = _functions(next(row for row in METRIC_ROWS if row.name == _MEANS[kind]))
        return _of_findings(row, functions, lambda scores: scores[..., 0], [number])
    per_finding = _COUNT_FUNCTIONS[kind]
    return _from_counts(row, lambda counts: per_finding(counts)[..., number], thresholds)


def score_each_kind(labels: np.ndarray, probabilities: np.ndarray, thresholds: np.ndarray) -> dict[str, np.ndarray]:
    """Compute the scores of all findings by each kind of ``CLASS_METRICS``, each with one pass over the images.

    Args:
        labels: Label codes (n, k).
        probabilities: (n, k).
        thresholds: Thresholds of decisions, (k,).

    Returns:
        float64 (k,) by kind.
    """
    counts = count_decisions(labels, probabilities >= thresholds)
    scores = {kind: function(counts) for kind, function in _COUNT_FUNCTIONS.items()}
    for kind, mean in _MEANS.items():
        row = next(row for row in METRIC_ROWS if row.name == mean)
        function = load_function(_functions(row).function, row.parameters)
        scores[kind] = score_each_finding(function, labels, probabilities)
    return {kind: scores[kind] for kind in CLASS_METRICS}


MEANS_OF_KINDS = {"macro_f1": "f1", **{mean: kind for kind, mean in _MEANS.items()}}
"""Metrics that are the mean over the findings of a kind of ``CLASS_METRICS``."""


def _functions(row: MetricRow) -> FindingFunctions:
    if row.findings is None:
        raise UsageError(f"Metric '{row.name}' is not defined for findings. Choose another metric.")
    return row.findings


def _from_counts(row: MetricRow, of_counts: Callable[[np.ndarray], np.ndarray], thresholds: np.ndarray | None) -> Metric:
    def of_stacks(labels: np.ndarray, probabilities: np.ndarray, _normal_class: int | None) -> np.ndarray:
        used = choose_thresholds(labels, probabilities) if thresholds is None else thresholds
        return of_counts(count_decisions(labels, probabilities >= used[..., None, :]))

    def of_weights(labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray, _normal_class: int | None) -> np.ndarray:
        used = choose_thresholds(labels, probabilities) if thresholds is None else thresholds
        return of_counts(DecisionCounter(labels, (probabilities >= used)[None]).count(weights)[0])

    return _metric(row, of_stacks, of_weights, of_counts, thresholds)


def _of_labels(row: MetricRow, functions: FindingFunctions) -> Metric:
    score = load_function(functions.function, row.parameters)
    prepare = _prepare(row, functions)
    metric = _metric(
        row,
        lambda labels, probabilities, _: score(labels, probabilities),
        lambda labels, probabilities, weights, _: prepare(labels, probabilities)(weights),
    )
    return dataclasses.replace(metric, prepare=prepare)


def _prepare(row: MetricRow, functions: FindingFunctions) -> Callable[[np.ndarray, np.ndarray], WeightedScore]:
    """Return the function that computes what does not depend on weights, see ``FindingFunctions.prepared``."""
    if functions.prepared:
        return load_function(functions.prepared, row.parameters)
    weighted = load_function(functions.weighted, row.parameters)
    return lambda positive, probabilities: lambda weights: weighted(positive, probabilities, weights)


def _of_findings(
    row: MetricRow,
    functions: FindingFunctions,
    summary: Callable[[np.ndarray], np.ndarray],
    numbers: Sequence[int] | None = None,
) -> Metric:
    """Build a summary of the scores of each of some findings, or of all findings if ``numbers`` is None."""
    score = load_function(functions.function, row.parameters)
    prepare_finding = _prepare(row, functions)
    columns = slice(None) if numbers is None else list(numbers)

    def of_stacks(labels: np.ndarray, probabilities: np.ndarray, _normal_class: int | None) -> np.ndarray:
        return summary(score_each_finding(score, labels[:, columns], probabilities[..., columns]))

    def prepare(labels: np.ndarray, probabilities: np.ndarray) -> WeightedScore:
        of_columns = probabilities[:, columns]
        prepared = [
            (rows, prepare_finding(positive, of_columns[rows, number]))
            for number, rows, positive in known_images(labels[:, columns])
        ]
        return lambda weights: summary(np.stack([score(weights[rows]) for rows, score in prepared], axis=-1))

    metric = _metric(row, of_stacks, lambda labels, probabilities, weights, _: prepare(labels, probabilities)(weights))
    metric = dataclasses.replace(metric, prepare=prepare)
    if functions.rounded:
        rounded = load_function(functions.rounded, row.parameters)
        metric = dataclasses.replace(
            metric,
            of_rounded=lambda labels, probabilities: summary(
                score_each_finding(rounded, labels[:, columns], probabilities[..., columns])
            ),
        )
    if not functions.influence:
        return metric
    influence = load_function(functions.influence, row.parameters)

    def of_influence(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray | None:
        n_present, n_absent = count_labels(labels[:, columns])
        n_scored = np.minimum(n_present, n_absent)
        if not n_scored.any() or n_scored[n_scored > 0].min() < MIN_IMAGES:
            return None
        total, of_columns = np.zeros(len(labels)), probabilities[:, columns]
        for number, rows, positive in known_images(labels[:, columns]):
            if n_scored[number]:
                total[rows] += influence(positive, of_columns[rows, number])
        return total / np.count_nonzero(n_scored)

    return dataclasses.replace(metric, of_influence=of_influence)


def _metric(
    row: MetricRow,
    of_stacks: Callable[[np.ndarray, np.ndarray, int | None], np.ndarray],
    of_weights: Callable[[np.ndarray, np.ndarray, np.ndarray, int | None], np.ndarray] | None,
    of_counts: Callable[[np.ndarray], np.ndarray] | None = None,
    thresholds: np.ndarray | None = None,
) -> Metric:
    return Metric(
        row.name,
        row.direction,
        row.description,
        lambda labels, probabilities, normal_class: float(of_stacks(labels, probabilities, normal_class)),
        of_weights,
        of_counts=of_counts,
        of_stacks=of_stacks,
        is_raised_by_noise=row.is_raised_by_noise,
        tasks=(MULTILABEL,),
        thresholds=thresholds,
    )
