"""The scores of a model in each group of images, with intervals by patient."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from automl_cxr.scoring.group_metrics import GroupComparison
from automl_cxr.scoring.intervals import Interval, intervals_of
from automl_cxr.scoring.metric_base import Metric
from automl_cxr.scoring.metrics import metrics_for
from automl_cxr.scoring.predictions import Predictions
from automl_cxr.scoring.resampling import resample_scores
from automl_cxr.scoring.subgroups import Grouping
from automl_cxr.tasks import PRESENT

N_RESAMPLES = 1000


@dataclass(frozen=True, eq=False)
class GroupScores:
    """The scores of a model in a group.

    Attributes:
        column: See ``Grouping``.
        group: Name of the group.
        n_images: Number of images.
        n_patients: Number of patients.
        shares: Share of the images of each class, or with each finding among the images whose label is known; NaN for none.
        missing: Classes without an image in the group, or findings that the group cannot be scored on.
        is_small: Whether the group has too few patients for a comparison.
        is_compared: Whether the group is compared with the others of its column.
        scores: Score by name of the metric; NaN where it is undefined.
        intervals: 95 % bootstrap interval by patient of some metrics.
    """

    column: str
    group: str
    n_images: int
    n_patients: int
    shares: Mapping[str, float]
    missing: tuple[str, ...]
    is_small: bool
    is_compared: bool
    scores: Mapping[str, float]
    intervals: Mapping[str, Interval]


def score_groups(
    predictions: Predictions,
    grouping: Grouping,
    comparison: GroupComparison,
    *,
    normal_class: int | None = None,
    with_intervals: Sequence[str] = (),
    n_resamples: int = N_RESAMPLES,
    seed: int = 0,
) -> list[GroupScores]:
    """Score a model in each group.

    Args:
        predictions: Labelled predictions; those of findings with thresholds.
        grouping: The groups of the same images.
        comparison: Result of ``plan_comparison`` for them.
        normal_class: Index of the class without a finding, or None.
        with_intervals: Names of the metrics with an interval.
        n_resamples: Number of bootstrap resamples.
        seed: Seed of the resamples.

    Returns:
        The scores of each group, in the order of the groups.
    """
    found = []
    for number, name in enumerate(grouping.groups):
        part = predictions.take(grouping.of_image == number)
        missing = comparison.missing[name]
        metrics = comparison.metrics
        if missing and not part.is_multilabel:
            present = np.unique(part.labels).tolist()
            metrics = metrics_for(part.classes, normal_class=normal_class, present=present)
        named = [metrics[one] for one in with_intervals if one in metrics]
        found.append(
            GroupScores(
                grouping.column,
                name,
                len(part),
                comparison.n_patients[name],
                _shares(part),
                missing,
                comparison.is_small(name),
                name in comparison.compared,
                {one: metric.function(part.labels, part.probabilities, normal_class) for one, metric in metrics.items()},
                _intervals(part, named, normal_class, n_resamples, seed),
            )
        )
    return found


def _intervals(
    part: Predictions, metrics: Sequence[Metric], normal_class: int | None, n_resamples: int, seed: int
) -> dict[str, Interval]:
    resampled = resample_scores(
        part.labels,
        part.probabilities[np.newaxis],
        part.patients,
        metrics,
        n_resamples=n_resamples,
        seed=seed,
        normal_class=normal_class,
        thresholds=None if part.thresholds is None else part.thresholds[np.newaxis],
    )
    return {name: intervals_of(one)[0] for name, one in resampled.items()}


def _shares(part: Predictions) -> dict[str, float]:
    if not part.is_multilabel:
        counts = np.bincount(part.labels, minlength=len(part.classes))
        return dict(zip(part.classes, (counts / len(part)).tolist(), strict=True))
    n_known = (part.labels >= 0).sum(axis=0)
    shares = (part.labels == PRESENT).sum(axis=0) / np.maximum(n_known, 1)
    return dict(zip(part.classes, np.where(n_known > 0, shares, np.nan).tolist(), strict=True))
