"""Ranking metrics: areas under one-vs-rest curves, and sensitivity at a specificity.

Each metric has two implementations. The first takes the probabilities of several models, (..., n, k) to (...), for example of a
population of ensembles. The second takes the weights of a bootstrap, (n, n_resamples) to (n_resamples,); a weight is the number
of times that an image was drawn. It sorts the images once for all resamples.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

# ------------------------------------------------------------------------------------------------ stacks of models


def auc_per_class(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Area under each one-against-rest ROC curve, (..., n, k) to (..., k); NaN where a class has all images or none.

    The area is the Mann-Whitney statistic, in which ties count half, and equals ``sklearn.metrics.roc_auc_score``. Scikit-learn
    is not used, because a bootstrap or a population of ensembles needs thousands of scores: scikit-learn takes 1 s to import
    and 16 times as long for 1,000 images of 4 classes, and refuses rows whose sum deviates from 1 by a float16 rounding error.
    """
    return _for_each_class(_areas_under_roc, labels, probabilities)


def macro_auc(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Mean of ``auc_per_class``, (..., n, k) to (...): ``roc_auc_score(multi_class="ovr")``; NaN without one of the classes."""
    return auc_per_class(labels, probabilities).mean(axis=-1)


def average_precision_per_class(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Average precision of each class against the rest, (..., n, k) to (..., k); NaN where a class has no image.

    The mean of the precisions at all thresholds, weighted by the gain in recall, without interpolation, as in
    ``sklearn.metrics.average_precision_score``.
    """
    return _for_each_class(_average_precisions, labels, probabilities)


def macro_average_precision(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Mean of ``average_precision_per_class``, (..., n, k) to (...); NaN without one of the classes."""
    return average_precision_per_class(labels, probabilities).mean(axis=-1)


def sensitivity_at_specificity(
    labels: np.ndarray, probabilities: np.ndarray, normal_class: int, *, specificity: float
) -> np.ndarray:
    """Sensitivity for any finding at a given specificity, (..., n, k) to (...).

    An image is predicted abnormal if 1 - P(normal) is above a threshold, regardless of its finding. The threshold is the
    lowest with at least the given specificity on the normal images; images at the threshold are predicted normal. The threshold
    is chosen on the same images, as on every ROC curve.

    Args:
        labels: True classes, integers (n,).
        probabilities: (..., n, k).
        normal_class: Index of the class without a finding; all other classes have a finding.
        specificity: Share of the normal images, above 0 and below 1.

    Returns:
        The sensitivity, 0 to 1; NaN if there is no normal or no abnormal image.
    """
    return sensitivities(labels != normal_class, -probabilities[..., normal_class], specificity=specificity)


def sensitivities(positive: np.ndarray, scores: np.ndarray, *, specificity: float) -> np.ndarray:
    """Sensitivity at a given specificity for each row of scores, (..., n) to (...); ``positive`` is (n,).

    Images with a score above a threshold are predicted positive. The threshold is the lowest one with at least the given
    specificity.
    """
    if positive.all() or not positive.any():
        return np.full(scores.shape[:-1], np.nan)
    negative_scores = np.sort(scores[..., ~positive], axis=-1)[..., ::-1]
    n_false_positives = int(_max_false_positives((~positive).sum(), specificity))
    return (scores[..., positive] > negative_scores[..., n_false_positives, None]).mean(axis=-1)


def _for_each_class(
    function: Callable[[np.ndarray, np.ndarray], np.ndarray], labels: np.ndarray, probabilities: np.ndarray
) -> np.ndarray:
    scores = [function(labels == number, probabilities[..., number]) for number in range(probabilities.shape[-1])]
    return np.stack(scores, axis=-1)


def _areas_under_roc(positive: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Compute the area for each row of scores, (..., n) to (...); ``positive`` is (n,)."""
    n_positive = int(positive.sum())
    n_negative = len(positive) - n_positive
    if n_positive == 0 or n_negative == 0:
        return np.full(scores.shape[:-1], np.nan)
    order = scores.argsort(axis=-1)
    # Equal scores share the mean of their first and last rank.
    first, last = _first_and_last_of_equals(np.take_along_axis(scores, order, axis=-1))
    ranks_of_positive = np.where(positive[order], (first + last) / 2 + 1, 0).sum(axis=-1)
    return (ranks_of_positive - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative)


def _average_precisions(positive: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Compute the average precision for each row of scores, (..., n) to (...); ``positive`` is (n,)."""
    n_positive = int(positive.sum())
    if n_positive == 0:
        return np.full(scores.shape[:-1], np.nan)
    order = (-scores).argsort(axis=-1)
    _, last = _first_and_last_of_equals(np.take_along_axis(scores, order, axis=-1))
    is_positive = positive[order]
    # A positive image counts with the precision at its own score, which is equal for tied images.
    n_true_positives = np.take_along_axis(is_positive.cumsum(axis=-1), last, axis=-1)
    return np.where(is_positive, n_true_positives / (last + 1), 0).sum(axis=-1) / n_positive


def _first_and_last_of_equals(ordered: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the positions of the first and the last equal score of each score in sorted rows, both (..., n)."""
    steps = ordered[..., 1:] != ordered[..., :-1]
    edge = np.ones((*ordered.shape[:-1], 1), dtype=bool)
    position = np.arange(ordered.shape[-1])
    first = np.maximum.accumulate(np.where(np.concatenate([edge, steps], axis=-1), position, 0), axis=-1)
    backwards = np.where(np.concatenate([steps, edge], axis=-1), position, len(position) - 1)[..., ::-1]
    return first, np.minimum.accumulate(backwards, axis=-1)[..., ::-1]


def _max_false_positives(n_normal: np.ndarray, specificity: float) -> np.ndarray:
    """Return how many normal images may be predicted abnormal; 0.1 of 10 images is 1, not 0.99..."""
    return np.floor((1 - specificity) * n_normal + 1e-9)


# ---------------------------------------------------------------------------------------------- weights of a bootstrap


def weighted_auc(positive: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Area under the ROC curve for images that count several times or not at all.

    Args:
        positive: Whether each image is of the class, (n,).
        scores: (n,).
        weights: How often each image counts, float32 (n, n_resamples); float32 holds such counts exactly up to 16 million.

    Returns:
        (n_resamples,), NaN where all counted images are positive or all are negative.
    """
    above, at_least = _weights_above(scores[~positive], scores[positive], weights[positive])
    negative_weights = weights[~positive]
    n_ordered_pairs = np.einsum("nb,nb->b", negative_weights, above + at_least) / 2
    return _divide(n_ordered_pairs, weights[positive].sum(axis=0) * negative_weights.sum(axis=0))


def weighted_average_precision(positive: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Average precision for images that count several times or not at all; arguments as in ``weighted_auc``."""
    positive_weights, thresholds = weights[positive], scores[positive]
    _, true_positives = _weights_above(thresholds, thresholds, positive_weights)
    _, false_positives = _weights_above(thresholds, scores[~positive], weights[~positive])
    precision_sums = np.einsum("nb,nb->b", positive_weights, true_positives / np.maximum(true_positives + false_positives, 1))
    return _divide(precision_sums, positive_weights.sum(axis=0))


def weighted_sensitivity_at_specificity(
    labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray, normal_class: int, *, specificity: float
) -> np.ndarray:
    """Compute ``sensitivity_at_specificity`` for images that count several times or not at all.

    Args:
        labels: True classes, integers (n,).
        probabilities: (n, k).
        weights: How often each image counts, float32 (n, n_resamples).
        normal_class: Index of the class without a finding.
        specificity: Share of the normal images, above 0 and below 1.

    Returns:
        (n_resamples,), NaN where all counted images are positive or all are negative.
    """
    return weighted_sensitivities(labels != normal_class, -probabilities[:, normal_class], weights, specificity=specificity)


def weighted_sensitivities(positive: np.ndarray, scores: np.ndarray, weights: np.ndarray, *, specificity: float) -> np.ndarray:
    """Compute ``sensitivities`` for images that count several times or not at all; arguments as in ``weighted_auc``."""
    if positive.all():
        return np.full(weights.shape[1], np.nan)
    order = (-scores[~positive]).argsort()
    n_negative = np.cumsum(weights[~positive][order], axis=0)
    is_beyond = n_negative > _max_false_positives(n_negative[-1], specificity)
    threshold = scores[~positive][order][is_beyond.argmax(axis=0)]
    positive_weights = weights[positive]
    predicted = np.einsum("nb,nb->b", positive_weights, scores[positive, None] > threshold)
    return np.where(n_negative[-1] > 0, _divide(predicted, positive_weights.sum(axis=0)), np.nan)


def _weights_above(thresholds: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sum the weights of the images with scores above each threshold, and of those at or above it.

    Args:
        thresholds: (n_thresholds,).
        scores: (n,).
        weights: (n, n_resamples).

    Returns:
        Two arrays (n_thresholds, n_resamples).
    """
    order = scores.argsort()[::-1]
    sums = np.concatenate([np.zeros_like(weights[:1], shape=(1, weights.shape[1])), np.cumsum(weights[order], axis=0)])
    ascending = scores[order][::-1]
    n_above = len(scores) - np.searchsorted(ascending, thresholds, side="right")
    n_at_least = len(scores) - np.searchsorted(ascending, thresholds, side="left")
    return sums[n_above], sums[n_at_least]


def _divide(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Divide; NaN where the whole is 0."""
    return np.divide(part, whole, out=np.full(np.shape(whole), np.nan), where=np.asarray(whole) > 0, casting="unsafe")
