"""The metrics by which groups of images are compared, and the groups that can be compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from automl_cxr.scoring.metric_base import Metric
from automl_cxr.scoring.metrics import METRICS, is_normal_name, metrics_for
from automl_cxr.scoring.predictions import Predictions
from automl_cxr.scoring.subgroups import Grouping
from automl_cxr.scoring.thresholds import with_thresholds
from automl_cxr.scoring.underdiagnosis import FNFR, underdiagnosis_of_findings
from automl_cxr.tasks import ABSENT, PRESENT

MIN_PATIENTS = 20
"""Patients below which a group is shown, but not compared with others."""


@dataclass(frozen=True, eq=False)
class GroupComparison:
    """How the groups of a column are scored, so that the scores of all compared groups have the same meaning.

    Attributes:
        metrics: The metrics by name.
        compared: Names of the groups with enough patients and, of classes, with images of all classes.
        left_out: Findings that are left out of means over the findings, because a compared group cannot be scored on them.
        missing: Classes without an image in a group, by name of the group, or findings without a score.
        n_patients: Number of patients by name of the group.
        min_patients: Number of patients below which a group is not compared.
    """

    metrics: Mapping[str, Metric]
    compared: tuple[str, ...]
    left_out: tuple[str, ...]
    missing: Mapping[str, tuple[str, ...]]
    n_patients: Mapping[str, int]
    min_patients: int

    def is_small(self, group: str) -> bool:
        """Whether a group has too few patients for a comparison."""
        return self.n_patients[group] < self.min_patients


def with_fixed_decisions(predictions: Predictions) -> Predictions:
    """Return predictions whose decisions are the same in all groups: those of findings with thresholds.

    Raises:
        DataError: There is no image or a label is unknown.
    """
    predictions.require_labels()
    return with_thresholds(predictions) if predictions.thresholds is None else predictions


def plan_comparison(
    predictions: Predictions, grouping: Grouping, *, normal_class: int | None, min_patients: int = MIN_PATIENTS
) -> GroupComparison:
    """Choose the groups that are compared, and the metrics.

    A group with fewer patients than ``min_patients`` is not compared. Of classes, a group without an image of one of the
    classes is not compared, because means over the classes have another meaning there. Of findings, means over the findings are
    means over those that each of the compared groups can be scored on.

    Args:
        predictions: Labelled predictions; those of findings with thresholds (``with_fixed_decisions``).
        grouping: The groups of the same images.
        normal_class: Index of the class without a finding, or None.
        min_patients: Number of patients below which a group is not compared with others.
    """
    patients = np.array(predictions.patients, dtype=object)
    members = {name: np.flatnonzero(grouping.of_image == number) for number, name in enumerate(grouping.groups)}
    n_patients = {name: len(set(patients[rows])) for name, rows in members.items()}
    large = [name for name in grouping.groups if n_patients[name] >= min_patients]
    scorable = {name: _scorable(predictions, rows) for name, rows in members.items()}
    if predictions.is_multilabel:
        common = [number for number in range(len(predictions.classes)) if all(number in scorable[name] for name in large)]
        left_out = tuple(name for number, name in enumerate(predictions.classes) if number not in common)
        everything = range(len(predictions.classes))
        missing = {name: _names(predictions, [one for one in everything if one not in scorable[name]]) for name in members}
        metrics = _metrics_of_findings(predictions, common)
        return GroupComparison(metrics, tuple(large), left_out, missing, n_patients, min_patients)
    present = sorted(set().union(*(scorable[name] for name in large or members)))
    missing = {name: _names(predictions, [one for one in present if one not in scorable[name]]) for name in members}
    compared = tuple(name for name in large if not missing[name])
    metrics = metrics_for(predictions.classes, normal_class=normal_class, present=present)
    return GroupComparison(metrics, compared, (), missing, n_patients, min_patients)


def _scorable(predictions: Predictions, rows: np.ndarray) -> set[int]:
    """Return the classes that some images have, or the findings that some have and others do not have."""
    labels = predictions.labels[rows]
    if predictions.is_multilabel:
        return set(np.flatnonzero((labels == PRESENT).any(axis=0) & (labels == ABSENT).any(axis=0)).tolist())
    return set(np.unique(labels).tolist())


def _names(predictions: Predictions, numbers: Sequence[int]) -> tuple[str, ...]:
    return tuple(predictions.classes[number] for number in numbers)


def _metrics_of_findings(predictions: Predictions, common: Sequence[int]) -> dict[str, Metric]:
    thresholds = np.asarray(predictions.thresholds, np.float64)
    metrics = metrics_for(predictions.classes, task=predictions.task, thresholds=thresholds)
    if 0 < len(common) < len(predictions.classes):
        names = [predictions.classes[number] for number in common]
        of_common = metrics_for(names, task=predictions.task, thresholds=thresholds[list(common)])
        metrics |= {name: _of_columns(one, common) for name, one in of_common.items() if name in METRICS}
    numbers = [number for number, name in enumerate(predictions.classes) if not is_normal_name(name)]
    return metrics | ({FNFR: underdiagnosis_of_findings(numbers, thresholds)} if numbers else {})


def _of_columns(metric: Metric, numbers: Sequence[int]) -> Metric:
    """Return a metric of some findings as a metric of the labels and probabilities of all findings."""
    columns = list(numbers)

    def function(labels: np.ndarray, probabilities: np.ndarray, normal_class: int | None) -> float:
        return metric.function(labels[:, columns], probabilities[:, columns], normal_class)

    def of_weights(labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray, normal_class: int | None) -> np.ndarray:
        return metric.score_weighted(labels[:, columns], probabilities[:, columns], weights, normal_class)

    return replace(
        metric,
        function=function,
        of_weights=of_weights,
        of_counts=None,
        of_influence=None,
        of_stacks=None,
        thresholds=None,
    )
