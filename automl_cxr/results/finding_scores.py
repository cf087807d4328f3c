"""Scores of predictions of several findings, at their thresholds, with intervals by patient."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from automl_cxr.scoring.finding_counts import count_decisions
from automl_cxr.scoring.finding_labels import count_labels, describe_unscored
from automl_cxr.scoring.intervals import N_RESAMPLES, Interval, intervals_of
from automl_cxr.scoring.metric_table import CLASS_METRICS
from automl_cxr.scoring.metrics import METRICS, metrics_for
from automl_cxr.scoring.predictions import Predictions
from automl_cxr.scoring.resampling import resample_scores

WITH_INTERVALS = ("auc", "average_precision")  # per finding
COUNTS = ("true_positives", "false_positives", "false_negatives", "true_negatives")


@dataclass(frozen=True, eq=False)
class FindingScores:
    """The scores of one model. A score is NaN where the labels do not define it.

    Attributes:
        scores: Every metric by name.
        intervals: 95 % bootstrap interval by patient of each metric over all findings.
        per_finding: One row for each finding, with the finding as index: present and absent (numbers of images with these
            labels), threshold, the scores of ``CLASS_METRICS``, and the limits of the interval of the AUC and the average
            precision (``_low``, ``_high``).
        decisions: Numbers of images by label and decision, one row for each finding: true_positives, false_positives,
            false_negatives and true_negatives.
        notes: Sentences for the user on findings without a score.
    """

    scores: dict[str, float]
    intervals: dict[str, Interval]
    per_finding: pd.DataFrame
    decisions: pd.DataFrame
    notes: tuple[str, ...]


def score_findings(predictions: Predictions, *, seed: int, n_resamples: int = N_RESAMPLES) -> FindingScores:
    """Score predictions of findings over the images whose labels are known, at the thresholds of the predictions.

    Args:
        predictions: Labelled predictions with thresholds.
        seed: Seed of the bootstrap.
        n_resamples: Number of bootstrap resamples.

    Raises:
        DataError: No label is known, or there are no thresholds.
    """
    predictions.require_labels()
    findings, labels, probabilities = predictions.classes, predictions.labels, predictions.probabilities
    decided = predictions.decided  # raises an error without thresholds
    defined = metrics_for(findings, task=predictions.task, thresholds=predictions.thresholds)
    scores = {name: metric.function(labels, probabilities, None) for name, metric in defined.items()}
    overall = [name for name in defined if name in METRICS]
    per_finding_names = [f"{kind}_{finding}" for kind in WITH_INTERVALS for finding in findings]
    resampled = resample_scores(
        labels,
        probabilities[np.newaxis],
        predictions.patients,
        [defined[name] for name in (*overall, *per_finding_names)],
        n_resamples=n_resamples,
        seed=seed,
        normal_class=None,
    )
    intervals = {name: intervals_of(one)[0] for name, one in resampled.items()}
    n_present, n_absent = count_labels(labels)
    index = pd.Index(findings, name="finding")
    columns = {"present": n_present, "absent": n_absent, "threshold": predictions.thresholds}
    per_finding = pd.DataFrame(columns | dict(_score_columns(findings, scores, intervals)), index=index)
    return FindingScores(
        scores=scores,
        intervals={name: intervals[name] for name in overall},
        per_finding=per_finding,
        decisions=pd.DataFrame(count_decisions(labels, decided), index=index, columns=list(COUNTS)),
        notes=tuple(filter(None, [describe_unscored(labels, findings)])),
    )


def _score_columns(
    findings: tuple[str, ...], scores: dict[str, float], intervals: dict[str, Interval]
) -> Iterator[tuple[str, list[float]]]:
    """Yield the columns of scores, those with an interval first."""
    for kind in (*WITH_INTERVALS, *(kind for kind in CLASS_METRICS if kind not in WITH_INTERVALS)):
        names = [f"{kind}_{finding}" for finding in findings]
        yield kind, [scores[name] for name in names]
        if kind in WITH_INTERVALS:
            yield f"{kind}_low", [intervals[name].low for name in names]
            yield f"{kind}_high", [intervals[name].high for name in names]
