"""The finished trials that are compared on resamples: all of a small study, and those that may be the best of a large one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from automl_cxr.records import TrialRecord
from automl_cxr.scoring.intervals import named_metric
from automl_cxr.scoring.predictions import Predictions
from automl_cxr.scoring.resampling import resample_scores
from automl_cxr.scoring.thresholds import thresholds_of
from automl_cxr.study.spec import StudySpec
from automl_cxr.study.store import StudyStore

N_COMPARED = 200
"""Number of trials that are always compared on resamples, the best ones."""
_REACH = 6.0
_N_RESAMPLES = 200  # for a standard error with a relative error of 5 %


@dataclass(frozen=True)
class FinishedTrial:
    """A finished trial of one of the compared studies.

    Attributes:
        store: The study.
        spec: The specification of the study.
        record: The trial.
        scores: All metrics of the trial's predictions, by name.
        is_on_front: Whether no trial of the study is better in all objectives.
    """

    store: StudyStore
    spec: StudySpec
    record: TrialRecord
    scores: dict[str, float]
    is_on_front: bool

    @property
    def predictions(self) -> Predictions:
        """The predictions on the validation part, or out of fold; read at each access, because those of all are large."""
        return self.store.predictions(self.record.number)


def group_by_images(stores: Sequence[StudyStore]) -> list[list[FinishedTrial]]:
    """Group the finished trials of studies that were scored on the same images, labels, patients, classes and normal class.

    Trials of findings are never in one group with trials of classes.
    """
    groups: dict[object, list[FinishedTrial]] = {}
    images: dict[object, object] = {}  # by the checksums of files, which are equal for most trials
    for store in stores:
        spec, front = store.spec, {record.number for record in store.pareto_front()}
        for record in store.ranked():
            checksums = store.scored_images(record.number)
            if checksums not in images:
                images[checksums] = _scored_on(store.predictions(record.number))
            scores = store.scores(record.number, normal_class=spec.normal_index)
            trial = FinishedTrial(store, spec, record, scores, record.number in front)
            groups.setdefault((images[checksums], spec.normal_index), []).append(trial)
    return list(groups.values())


def _scored_on(predictions: Predictions) -> object:
    return predictions.ids, predictions.labels.tobytes(), predictions.patients, predictions.classes, predictions.task


def rank_by(trials: Sequence[FinishedTrial], metric: str) -> list[FinishedTrial]:
    """Sort trials of the same images, best first; those that violate a requirement last, by increasing violation.

    Raises:
        UnknownNameError: There is no such metric.
        UsageError: The metric needs the class without a finding.
    """
    sign = 1 if is_maximized(trials[0], metric) else -1

    def sort_key(trial: FinishedTrial) -> tuple[float, bool, float]:
        score = sign * trial.scores[metric]
        return trial.record.violation, math.isnan(score), -score

    return sorted(trials, key=sort_key)


def is_maximized(trial: FinishedTrial, metric: str) -> bool:
    """Return whether larger values of a metric of a trial's classes are better; raises as ``rank_by``."""
    spec = trial.spec
    return named_metric(metric, spec.classes, spec.normal_index, task=spec.task).direction == "maximize"


def within_reach(ranked: Sequence[FinishedTrial], metric: str) -> list[FinishedTrial]:
    """Return the first trials of a ranking: at least ``N_COMPARED``, and all whose score is near that of the best trial.

    The limit is six standard errors of the best score. Errors of two models on the same images are not negatively correlated in
    practice, so the standard error of their difference is at most the square root of 2 times that, and a trial beyond the limit
    is worse by more than four standard errors. It is not tied with the best trial, and is not the best on a part of
    the patients. As in Hansen's test for superior predictive ability (2005), such models do not count as alternatives.

    Args:
        ranked: Trials of the same images, sorted by ``rank_by``.
        metric: Metric that ranks the trials.
    """
    if len(ranked) <= N_COMPARED:
        return list(ranked)
    sign = 1 if is_maximized(ranked[0], metric) else -1
    limit = sign * ranked[0].scores[metric] - _REACH * _standard_error(ranked[0], metric)
    others = (trial for trial in ranked[N_COMPARED:] if trial.record.is_feasible and sign * trial.scores[metric] >= limit)
    return [*ranked[:N_COMPARED], *others]


def stack_probabilities(trials: Sequence[FinishedTrial]) -> tuple[np.ndarray, np.ndarray | None]:
    """Read the predictions of trials of the same images.

    Returns:
        The probabilities, float32 (n_trials, n, k), and for findings the thresholds of decisions, float64 (n_trials, k).
    """
    first = trials[0].predictions
    probabilities, thresholds = np.empty((len(trials), *first.probabilities.shape), np.float32), []
    for number, trial in enumerate(trials):
        predictions = trial.predictions
        probabilities[number] = predictions.probabilities
        thresholds += list(thresholds_of([predictions])) if first.is_multilabel else []
    return probabilities, np.stack(thresholds) if thresholds else None


def _standard_error(trial: FinishedTrial, metric: str) -> float:
    images, spec = trial.predictions, trial.spec
    probabilities, thresholds = stack_probabilities([trial])
    resampled = resample_scores(
        images.labels,
        probabilities,
        images.patients,
        [named_metric(metric, images.classes, spec.normal_index, task=images.task)],
        n_resamples=_N_RESAMPLES,
        seed=spec.seed,
        normal_class=spec.normal_index,
        thresholds=thresholds,
    )[metric]
    return float(np.nanstd(resampled.of_resamples))
