"""The optimal weights of two members, from all weights at which the predicted class of an image changes."""

from __future__ import annotations

import numpy as np

from automl_cxr.ensemble.finding_sweep import best_first_weight, is_sweep_of_pairs_possible
from automl_cxr.ensemble.finding_weight_scoring import FindingWeightScorer
from automl_cxr.ensemble.objective import LOG_LOSS
from automl_cxr.ensemble.weight_scorer_base import BaseWeightScorer
from automl_cxr.ensemble.weight_scoring import WeightScorer
from automl_cxr.errors import UsageError

_N_GRID = 1001  # weights on the grid, for objectives that also change between these weights
_BLOCK = 2**14  # changes of class whose confusion matrices are in memory at the same time
_MARGIN = 0.1  # distance from an interval's ends, as a share of its width: rounding at an end could change a class


def has_exact_optimum(scorer: BaseWeightScorer) -> bool:
    """Return whether ``exact_two_member_weights`` finds the exact optimum rather than the best on a grid."""
    if isinstance(scorer, FindingWeightScorer):
        return scorer.objective.name == LOG_LOSS or is_sweep_of_pairs_possible(scorer)
    return scorer.objective.metric.of_confusions is not None or scorer.objective.name == LOG_LOSS


def exact_two_member_weights(scorer: BaseWeightScorer) -> np.ndarray:
    """Find the optimal weights of two members, float64 (2,), sum 1.

    The votes of an image are linear in the first member's weight, so its predicted class changes at most k - 1 times. A metric
    of the confusion matrix is therefore constant between two neighbouring changes of all images, and each of these intervals
    from 0 to 1 is scored. Ties are broken by the Brier score, which is quadratic in the weight. Log loss is
    convex and is minimised directly. For any other metric, the best of 1,001 weights is returned. Of findings, the area under
    the ROC curve changes where two images with different labels change their order (``finding_sweep``).

    Raises:
        UsageError: The number of members is not two.
    """
    if scorer.n_members != 2:
        raise UsageError(f"The method 'sweep' needs two members. Received {scorer.n_members}. Use another method.")
    if isinstance(scorer, FindingWeightScorer):
        first = best_first_weight(scorer)
        if first is None:
            grid = _pairs(np.linspace(0, 1, _N_GRID))
            return grid[scorer.rank(grid)[0]]
    elif not isinstance(scorer, WeightScorer):
        raise TypeError(f"no sweep for {type(scorer).__name__}")
    elif scorer.objective.metric.of_confusions is not None:
        first = _best_in_intervals(scorer)
    elif scorer.objective.name == LOG_LOSS:
        first = _least_log_loss(scorer)
    else:
        grid = _pairs(np.linspace(0, 1, _N_GRID))
        return grid[scorer.rank(grid)[0]]
    return _pairs(np.array([first]))[0]


def _best_in_intervals(scorer: WeightScorer) -> float:
    """Return the first member's weight in the best interval."""
    ends, scores = _score_intervals(scorer)
    low, high = ends[:-1], ends[1:]
    is_wide = high - low > np.finfo(np.float32).eps
    is_best = is_wide & (scores == scores[is_wide].max())
    margin = _MARGIN * (high - low)[is_best]
    candidates = np.clip(_least_squared_error(scorer), low[is_best] + margin, high[is_best] - margin)
    return float(candidates[scorer.squared_error(_pairs(candidates)).argmin()])


def _score_intervals(scorer: WeightScorer) -> tuple[np.ndarray, np.ndarray]:
    """Return the ends of the intervals, (n + 1,) from 0 to 1, and the score of each, (n,)."""
    k, labels = scorer.n_classes, scorer.labels
    first_classes, changes_at, images, old_class, new_class = _changes(scorer.probabilities)
    confusion = np.bincount(labels * k + first_classes, minlength=k * k)
    scores = [_score_confusions(scorer, confusion[None])]
    for start in range(0, len(changes_at), _BLOCK):
        block = slice(start, start + _BLOCK)
        steps = np.zeros((len(changes_at[block]), k * k), dtype=np.int64)
        row = np.arange(len(steps))
        steps[row, labels[images[block]] * k + old_class[block]] -= 1
        steps[row, labels[images[block]] * k + new_class[block]] += 1
        confusions = confusion + steps.cumsum(axis=0)
        scores.append(_score_confusions(scorer, confusions))
        confusion = confusions[-1]
    return np.concatenate([[0.0], changes_at, [1.0]]), np.concatenate(scores)


def _score_confusions(scorer: WeightScorer, confusions: np.ndarray) -> np.ndarray:
    k, objective = scorer.n_classes, scorer.objective
    if objective.metric.of_confusions is None:
        raise UsageError(f"'{objective.name}' is not a metric of the confusion matrix. Score weightings with WeightScorer.")
    scores = objective.metric.of_confusions(confusions.reshape(-1, k, k), objective.normal_class)
    return np.where(np.isnan(scores), -np.inf, objective.sign * scores)


def _changes(probabilities: np.ndarray) -> tuple[np.ndarray, ...]:
    """Find the weights of the first member, from 0 to 1, at which the predicted class of an image changes.

    Args:
        probabilities: (2, n, k).

    Returns:
        The predicted class of each image just above 0, (n,). Then four arrays (n_changes,) in order of the weight: the
        weight, the image, the class before and the class after the change.
    """
    start = probabilities[1].astype(np.float64)
    slopes = probabilities[0].astype(np.float64) - start
    # Several lines may be highest at 0. The steepest of them is the highest just above 0.
    is_highest = start == start.max(axis=1, keepdims=True)
    first_classes = np.where(is_highest, slopes, -np.inf).argmax(axis=1)
    images, current, position = np.arange(len(start)), first_classes, np.zeros(len(start))
    found: list[tuple[np.ndarray, ...]] = []
    for _ in range(start.shape[1] - 1):
        rows = np.arange(len(images))
        gap = start[images, current][:, None] - start[images]
        relative_slope = slopes[images] - slopes[images, current][:, None]
        crossings = np.divide(gap, relative_slope, out=np.full(gap.shape, np.inf), where=relative_slope > 0)
        crossings = np.maximum(crossings, position[:, None])  # rounding may put a crossing before the previous one
        first = crossings.min(axis=1)
        following = np.where(crossings == first[:, None], slopes[images], -np.inf).argmax(axis=1)
        has_change = rows[first < 1]
        images, previous = images[has_change], current[has_change]
        current, position = following[has_change], first[has_change]
        found.append((position, images, previous, current))
        if not len(images):
            break
    changes_at, of_image, old_class, new_class = (np.concatenate(part) for part in zip(*found, strict=True))
    order = np.argsort(changes_at, kind="stable")
    return first_classes, changes_at[order], of_image[order], old_class[order], new_class[order]


def _least_squared_error(scorer: WeightScorer) -> float:
    """Find the weight with the smallest Brier score: the minimum of the parabola through three points."""
    at_0, at_half, at_1 = scorer.squared_error(_pairs(np.array([0.0, 0.5, 1.0])))
    curvature, slope = 2 * (at_0 + at_1 - 2 * at_half), 4 * at_half - 3 * at_0 - at_1
    return float(np.clip(-slope / (2 * curvature), 0, 1)) if curvature > 0 else 0.5


def _least_log_loss(scorer: WeightScorer) -> float:
    from scipy.optimize import minimize_scalar  # the import takes 0.2 s

    true_probability = scorer.probabilities[:, np.arange(scorer.n_images), scorer.labels].astype(np.float64)

    def loss(first: float) -> float:
        share = first * true_probability[0] + (1 - first) * true_probability[1]
        return float(-np.log(share.clip(np.finfo(np.float32).eps, 1)).mean())

    inside = float(minimize_scalar(loss, bounds=(0, 1), method="bounded", options={"xatol": 1e-7}).x)
    return min((inside, 0.0, 1.0), key=loss)


def _pairs(first: np.ndarray) -> np.ndarray:
    return np.stack([first, 1 - first], axis=1)
