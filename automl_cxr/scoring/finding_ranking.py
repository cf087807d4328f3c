"""Ranking metrics of one finding, for many models at once, and the influence of each image on them.

Scores are float32 probabilities of several models, (..., n), for the images whose label is known.
"""

from __future__ import annotations

import numpy as np

from automl_cxr.scoring.sorted_scores import last_of_equals, sort_scores


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
    position = np.arange(1, len(positive) + 1)
    n_pairs = np.where(is_positive, position, 0).sum(axis=-1) - n_positive * (n_positive + 1) / 2
    return (n_pairs - _tied_pairs(ordered, is_positive) / 2) / (n_positive * n_negative)


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
