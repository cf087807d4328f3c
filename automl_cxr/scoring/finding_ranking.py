"""Ranking metrics of one finding, for many models at once, and the influence of each image on them.

Scores are float32 probabilities of several models, (..., n), for the images whose label is known.
"""

from __future__ import annotations

import math

import numpy as np

from automl_cxr.scoring.sorted_scores import last_of_equals, sort_scores

_BITS_OF_LEVELS = 13


def areas_under_roc(positive: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Area under the ROC curve of each row of scores, (..., n) to (...); NaN if all images are positive or negative.

    It is the Mann-Whitney statistic, in which ties count half, as ``sklearn.metrics.roc_auc_score``.
    """
    n_positive = int(positive.sum())
    n_negative = len(positive) - n_positive
    if n_positive == 0 or n_negative == 0:
        return np.full(scores.shape[:-1], np.nan)
    ordered, is_positive = sort_scores(positive, scores)
    # In a tie, negative images come first, so the pairs of a tie are counted as if the positive image had the higher score.
    position = np.arange(1.0, len(positive) + 1)  # sums of whole numbers in float64 are exact, and products are fast
    n_pairs = is_positive.astype(np.float64) @ position - n_positive * (n_positive + 1) / 2
    return (n_pairs - _tied_pairs(ordered, is_positive) / 2) / (n_positive * n_negative)


def rounded_areas_under_roc(positive: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Approximate ``areas_under_roc`` from counts of rounded scores, which takes a third of the time for 5,000 images.

    The scores of a row are rounded to at most 8,192 levels with nearly equal ratios, and rounded scores that are equal count
    half. The error for some thousands of images is of the order of 1e-5.

    Args:
        positive: Whether each image is positive, (n,).
        scores: float32, at least 0, (..., n).

    Returns:
        float64 (...); NaN if all images are positive or negative.
    """
    is_positive, is_negative = np.flatnonzero(positive), np.flatnonzero(~positive)
    if not len(is_positive) or not len(is_negative):
        return np.full(scores.shape[:-1], np.nan)
    # The bits of non-negative numbers, as integers, have the order of the numbers and are nearly proportional to the logarithm.
    bits = np.maximum(scores, 0).reshape(-1, scores.shape[-1]).view(np.int32)
    steps = bits - bits.min(axis=1, keepdims=True)
    shifts = [max(0, largest.bit_length() - _BITS_OF_LEVELS) for largest in steps.max(axis=1).tolist()]
    levels = steps >> np.array(shifts, dtype=np.int32)[:, np.newaxis]
    n_pairs = np.empty(len(bits))
    for number, level in enumerate(levels):
        n_negative = np.bincount(level[is_negative], minlength=2**_BITS_OF_LEVELS)
        n_pairs[number] = (n_negative.cumsum() - n_negative / 2)[level[is_positive]].sum()
    return n_pairs.reshape(scores.shape[:-1]) / (len(is_positive) * len(is_negative))


def _tied_pairs(ordered: np.ndarray, is_positive: np.ndarray) -> np.ndarray:
    """Count the pairs of a positive and a negative image with equal scores in sorted rows, (..., n) to (...)."""
    is_equal = ordered[..., 1:] == ordered[..., :-1]
    has_ties = (is_equal & (is_positive[..., 1:] != is_positive[..., :-1])).any(axis=-1)
    pairs = np.zeros(ordered.shape[:-1])
    for row in map(tuple, np.argwhere(has_ties)):
        starts = np.flatnonzero(np.append(True, ~is_equal[row]))
        n_positive = np.add.reduceat(is_positive[row].astype(np.int64), starts)
        n_images = np.diff(np.append(starts, ordered.shape[-1]))
        pairs[row] = n_positive @ (n_images - n_positive)
    return pairs


def average_precisions(positive: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Average precision of each row of scores, (..., n) to (...); NaN if no image is positive.

    The mean of the precisions at all thresholds, weighted by the gain in recall, without interpolation, as in
    ``sklearn.metrics.average_precision_score``.
    """
    n_positive = int(positive.sum())
    if n_positive == 0:
        return np.full(scores.shape[:-1], np.nan)
    ordered, is_positive = sort_scores(positive, scores)
    ordered, is_positive = ordered[..., ::-1], is_positive[..., ::-1]
    last = last_of_equals(ordered)
    # A positive image counts with the precision at its own score, which is equal for tied images.
    n_true_positives = np.take_along_axis(is_positive.cumsum(axis=-1), last, axis=-1)
    return np.where(is_positive, n_true_positives / (last + 1), 0).sum(axis=-1) / n_positive


def average_precision_influence(positive: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Compute the influence of each image on the average precision of one model.

    The derivative of the average precision with respect to the weight of the image, as in ``auc_influence``: a positive image
    changes the mean with its own precision, and each image changes the precision at all scores up to its own.

    Args:
        positive: Whether each image is positive, (n,), at least one.
        scores: (n,).

    Returns:
        float64 (n,), sum 0.
    """
    order = scores.argsort()[::-1]
    ordered, is_positive = scores[order], positive[order]
    starts = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1]))  # of groups of equal scores, highest first
    n_positive = np.add.reduceat(is_positive.astype(np.int64), starts)
    n_images = np.diff(np.append(starts, len(ordered)))
    n_above, n_true = n_images.cumsum(), n_positive.cumsum()
    precision = n_true / n_above
    total = n_positive.sum()
    # The changes of the precisions at the scores up to that of the image.
    by_positive = _sums_from(n_positive * (1 - precision) / n_above)
    by_negative = _sums_from(-n_positive * precision / n_above)
    by_positive += precision - (n_positive @ precision) / total
    influences = np.empty(len(positive))
    influences[order] = np.where(is_positive, np.repeat(by_positive, n_images), np.repeat(by_negative, n_images)) / total
    return influences


def _sums_from(values: np.ndarray) -> np.ndarray:
    """Sum the values from each position to the last."""
    return np.cumsum(values[::-1])[::-1]


def sensitivity_influence(positive: np.ndarray, scores: np.ndarray, *, specificity: float) -> np.ndarray:
    """Compute the influence of each image on the sensitivity of one model at a given specificity.

    A negative image changes the threshold, and the threshold changes the sensitivity by the slope of the ROC curve. The slope
    is that of the curve over a quarter of the false positive rate on both sides, or over two standard errors of the rate if
    that is more.

    Args:
        positive: Whether each image is positive, (n,), with at least one of each kind.
        scores: (n,).
        specificity: Above 0 and below 1.

    Returns:
        float64 (n,), sum 0.
    """
    of_positive, of_negative = np.sort(scores[positive]), np.sort(scores[~positive])
    n_positive, n_negative, rate = len(of_positive), len(of_negative), 1 - specificity

    def score_at(rate: float) -> float:
        return float(of_negative[::-1][min(n_negative - 1, int(rate * n_negative + 1e-9))])

    def share_above(ordered: np.ndarray, threshold: float) -> float:
        return 1 - float(np.searchsorted(ordered, threshold, side="right")) / len(ordered)

    width = min(rate, 1 - rate, max(rate / 4, 2 * math.sqrt(rate * (1 - rate) / n_negative)))
    low, high = score_at(rate + width), score_at(rate - width)
    changes = [share_above(ordered, low) - share_above(ordered, high) for ordered in (of_positive, of_negative)]
    slope = changes[0] / changes[1] if changes[1] > 0 else 0.0
    threshold = score_at(rate)
    is_above = scores > threshold
    return np.where(
        positive,
        (is_above - share_above(of_positive, threshold)) / n_positive,
        -slope * (is_above - share_above(of_negative, threshold)) / n_negative,
    )


def auc_influence(positive: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Compute the influence of each image on the area under the ROC curve of one model.

    The area over images that count ``w`` times is approximately ``A + w @ influence``, where ``A`` is the area over all images,
    if the positive and negative images keep their total weights: the first-order term of the area (DeLong, DeLong and
    Clarke-Pearson 1988). The error is of the order of 1 / (number of positive images).

    Args:
        positive: Whether each image is positive, (n,), with at least one of each kind.
        scores: (n,).

    Returns:
        float64 (n,), sum 0.
    """
    order = scores.argsort()
    ordered, is_positive = scores[order], positive[order]
    starts = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1]))  # of groups of equal scores
    n_positive = np.add.reduceat(is_positive.astype(np.int64), starts)
    n_images = np.diff(np.append(starts, len(ordered)))
    n_negative = n_images - n_positive
    negatives_below = np.cumsum(n_negative) - n_negative / 2
    positives_above = n_positive.sum() - np.cumsum(n_positive) + n_positive / 2
    placements = np.empty(len(positive))
    placements[order] = np.where(
        is_positive,
        np.repeat(negatives_below / n_negative.sum(), n_images),
        np.repeat(positives_above / n_positive.sum(), n_images),
    )
    area = placements[positive].mean()
    return (placements - area) / np.where(positive, positive.sum(), (~positive).sum())
