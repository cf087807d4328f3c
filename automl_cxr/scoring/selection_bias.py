"""The score of the best of many candidates, corrected for the choice among them.

The best of many scores on the same images is too high, because chance contributes to it. Bootstrap bias-corrected
cross-validation (Tsamardinos, Greasidou and Borboudakis, "Bootstrapping the out-of-sample predictions for efficient and
accurate cross-validation", Machine Learning 2018) repeats the choice on resamples of the stored predictions and scores the
chosen candidate on the images that the choice did not use. No model is trained again.

This module chooses on four fifths of the patients, drawn without replacement, instead of a bootstrap sample. A choice on a
bootstrap sample is worse than the choice on all patients, because the sample has only 63 % of the patients and repeats some of
them, and the corrected score is then too low (``benchmarks/selection_bias.py``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from automl_cxr.scoring.finding_resampling import FindingScorer
from automl_cxr.scoring.intervals import Interval, bootstrap_interval, named_metric
from automl_cxr.scoring.metric_base import Metric
from automl_cxr.scoring.predictions import Predictions, align
from automl_cxr.scoring.resampling import ResampleScorer, number_patients
from automl_cxr.scoring.thresholds import thresholds_of
from automl_cxr.tasks import PRESENT

_LEVEL = 0.95
_N_FOLDS = 5
_N_REPEATS = 50
_MIN_REPEATS = 4
_MAX_SCORED = 5e8  # products of candidates, images and choices; a few seconds for metrics of the confusion matrix
_MAX_SCORED_BY_RANKING = 5e7  # the same for metrics of the probabilities
_MAX_CELLS = 2**22  # of confusion matrices in memory at a time


@dataclass(frozen=True)
class CorrectedScore:
    """The score of the best candidate, corrected for the choice.

    Attributes:
        value: Corrected score, never better than ``raw``; NaN if it cannot be estimated, because there is only one patient or
            the metric is undefined.
        interval: 95 % interval of the corrected score.
        raw: Score of the best candidate on all images.
        n_candidates: Number of candidates.
        best: Index of the best candidate.
    """

    value: float
    interval: Interval
    raw: float
    n_candidates: int
    best: int


def corrected_score(
    candidates: Sequence[Predictions], *, metric: str = "macro_f1", normal_class: int | None = None, seed: int = 0
) -> CorrectedScore:
    """Estimate the score of the best candidate on images of new patients.

    The patients are divided into five folds, fifty times. For each fold, the candidate with the best score on the other folds
    is chosen and scored on the fold. The mean of these scores has a bias of its own, because some metrics, such as macro-F1,
    are lower on few images. It is measured for the chosen candidates, as the difference between the mean of a candidate's
    scores on all folds and its score on all images, and subtracted.

    The interval extends the percentiles of the folds' scores, rescaled from the size of a fold to all images, by the size of
    the correction, which is uncertain too. With one candidate nothing is corrected, and the interval is that of
    ``bootstrap_interval``.

    Candidates are the models that could have been chosen: not the pruned trials of a search, and not those that violate a
    requirement. The choice of epochs, and earlier decisions from the same images, are not corrected.

    The time is bounded: with more than 2,000 candidates for 1,000 images (200 for metrics of the probabilities, such as
    macro_auc) the folds are repeated less often, at least four times. The value then varies more with the seed.

    Args:
        candidates: Labelled predictions of the same images, out of fold or on a validation part. In a tie the first is chosen.
            ``patients`` defines the groups.
        metric: A name in ``metrics_for`` the classes, with its direction.
        normal_class: Index of the class without a finding, for metrics that need it.
        seed: Seed of the folds, at least 0.

    Raises:
        UsageError: There is no candidate, or the normal class is missing.
        UnknownNameError: There is no such metric.
        DataError: The candidates differ in images, labels or classes, or a label is unknown.
    """
    for candidate in candidates:
        candidate.require_labels()
    probabilities, images = align(candidates)
    row = named_metric(metric, images.classes, normal_class, task=images.task)
    sign = 1 if row.direction == "maximize" else -1
    thresholds = thresholds_of(candidates) if row.of_counts is not None and images.is_multilabel else None
    scores = sign * _score_images(images.labels, probabilities, row, normal_class, thresholds)
    best = int(np.nan_to_num(scores, nan=-np.inf).argmax())
    raw = sign * float(scores[best])
    if len(candidates) == 1:
        interval = bootstrap_interval(images, metric=metric, seed=seed, normal_class=normal_class)
        return CorrectedScore(raw, interval, raw, 1, best)
    patient, n_patients = number_patients(images.patients)
    n_folds = min(_N_FOLDS, n_patients)
    if n_folds < 2 or math.isnan(raw):
        return _undefined(raw, len(candidates), best)
    n_repeats = _affordable_repeats(row, candidates, n_folds)
    is_left_out = _draw_folds(images.labels, patient, n_folds, n_repeats, seed)
    left_out, bias = _score_choices(images.labels, probabilities, scores, is_left_out, row, normal_class, thresholds)
    if not left_out.size:
        return _undefined(raw, len(candidates), best)
    value = min(float(left_out.mean()) - bias, float(scores[best]))
    plain = bootstrap_interval(candidates[best], metric=metric, seed=seed, normal_class=normal_class)
    highest = plain.high if sign == 1 else -plain.low
    low, high = _interval(value, left_out, correction=float(scores[best]) - value, n_folds=n_folds, highest=highest)
    ends = (low, high) if sign == 1 else (-high, -low)
    return CorrectedScore(sign * value, Interval(*ends, _LEVEL), raw, len(candidates), best)


def _undefined(raw: float, n_candidates: int, best: int) -> CorrectedScore:
    return CorrectedScore(math.nan, Interval(math.nan, math.nan, _LEVEL), raw, n_candidates, best)


def _score_images(
    labels: np.ndarray, probabilities: np.ndarray, metric: Metric, normal_class: int | None, thresholds: np.ndarray | None
) -> np.ndarray:
    """Score candidates (n_candidates, n, k) on all images, float64 (n_candidates,)."""
    if thresholds is None:
        return metric.score_stack(labels, probabilities, normal_class)
    return FindingScorer(labels, probabilities, [metric], thresholds=thresholds, n_weights=1).of_images[metric.name]


def _affordable_repeats(metric: Metric, candidates: Sequence[Predictions], n_folds: int) -> int:
    first = candidates[0]
    is_counted = (metric.of_counts if first.is_multilabel else metric.of_confusions) is not None
    n_scored = len(candidates) * len(first) * n_folds * (len(first.classes) if first.is_multilabel else 1)
    return int(np.clip((_MAX_SCORED if is_counted else _MAX_SCORED_BY_RANKING) // n_scored, _MIN_REPEATS, _N_REPEATS))


def _draw_folds(labels: np.ndarray, patient: np.ndarray, n_folds: int, n_repeats: int, seed: int) -> np.ndarray:
    """Divide the patients into folds of nearly equal size, stratified by the class or rarest finding of their first image.

    Returns:
        Whether each image is in each fold of each repeat, bool (n, n_repeats * n_folds).
    """
    rng = np.random.default_rng(seed)
    class_of_patient = _strata(labels)[np.unique(patient, return_index=True)[1]]
    folds = np.empty((n_repeats, len(class_of_patient)), np.int64)
    for fold in folds:
        order = np.lexsort((rng.random(len(class_of_patient)), class_of_patient))
        fold[order] = (np.arange(len(order)) + rng.integers(n_folds)) % n_folds
    is_in_fold = folds[:, None, :] == np.arange(n_folds)[:, None]
    return is_in_fold.reshape(n_repeats * n_folds, -1).T[patient]


def _strata(labels: np.ndarray) -> np.ndarray:
    """Return the classes of images, (n,); for findings the rarest finding that is present, or the number of findings."""
    if labels.ndim == 1:
        return labels
    is_present = labels == PRESENT
    rarest_first = is_present.sum(axis=0).argsort(kind="stable")
    first = is_present[:, rarest_first].argmax(axis=1)
    return np.where(is_present.any(axis=1), rarest_first[first], labels.shape[1])


def _score_choices(
    labels: np.ndarray,
    probabilities: np.ndarray,
    scores: np.ndarray,
    is_left_out: np.ndarray,
    metric: Metric,
    normal_class: int | None,
    thresholds: np.ndarray | None,
) -> tuple[np.ndarray, float]:
    """Choose a candidate without each fold, and score it on the fold; higher is better.

    Returns:
        The scores of the chosen candidates on the folds (n_choices,), without folds in which the metric is undefined; and by
        how much the chosen candidates' scores on folds are above their scores on all images, on average.
    """
    sign = 1 if metric.direction == "maximize" else -1
    used = sign * _score_weighted(labels, probabilities, ~is_left_out, metric, normal_class, thresholds)
    chosen = np.nan_to_num(used, nan=-np.inf).argmax(axis=0)
    candidates, position = np.unique(chosen, return_inverse=True)
    of_chosen = None if thresholds is None else thresholds[candidates]
    on_folds = sign * _score_weighted(labels, probabilities[candidates], is_left_out, metric, normal_class, of_chosen)
    is_defined = ~np.isnan(on_folds).any(axis=0) & ~np.isnan(used).all(axis=0)
    on_folds, position = on_folds[:, is_defined], position[is_defined]
    if not position.size:
        return np.empty(0), math.nan
    bias = on_folds.mean(axis=1) - scores[candidates]
    return on_folds[position, np.arange(len(position))], float(bias[position].mean())


def _score_weighted(
    labels: np.ndarray,
    probabilities: np.ndarray,
    is_used: np.ndarray,
    metric: Metric,
    normal_class: int | None,
    thresholds: np.ndarray | None,
) -> np.ndarray:
    """Score candidates (n_candidates, n, k) on subsets of the images (n, n_subsets); float64 (n_candidates, n_subsets)."""
    weights = is_used.astype(np.float32)
    n_at_once = max(1, _MAX_CELLS // (probabilities.shape[2] ** 2 * weights.shape[1]))
    parts = (slice(first, first + n_at_once) for first in range(0, len(probabilities), n_at_once))
    scorers = (
        ResampleScorer(
            labels,
            probabilities[part],
            [metric],
            normal_class,
            thresholds=None if thresholds is None else thresholds[part],
            n_weights=weights.shape[1],
        )
        for part in parts
    )
    return np.concatenate([scorer.score([weights])[metric.name] for scorer in scorers])


def _interval(value: float, left_out: np.ndarray, *, correction: float, n_folds: int, highest: float) -> tuple[float, float]:
    """Compute the limits of the corrected score from the scores on folds; higher is better.

    The variance of a mean over a share s of the images, drawn from n, is (1 - s) / s of that of a mean over n images. The
    correction is added as an independent deviation of its own size. In simulations of 10 to 50 candidates with 60 to 182
    images, the intervals contained the true score in 94 to 99 of 100 cases, and in 3 of 4 where macro-F1 was 0.98.

    Args:
        value: Corrected score.
        left_out: Scores of the chosen candidates on the folds.
        correction: Uncorrected minus corrected score.
        n_folds: Number of folds.
        highest: Upper limit of the interval of the uncorrected score, which is also a limit for the corrected one.
    """
    ends = np.quantile(left_out, [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])
    deviations = (ends - left_out.mean()) / math.sqrt(n_folds - 1)
    low, high = (float(deviation) for deviation in np.sqrt(deviations**2 + correction**2))
    return max(value - low, min(value, float(left_out.min()))), min(value + high, max(value, highest))
