"""Two members: the best weight of all, by going through every weight at which some image changes its class."""

from __future__ import annotations

import numpy as np

from automl_cxr.ensemble.weight_scoring import WeightScorer
from automl_cxr.errors import UsageError

_N_GRID = 1001  # weights tried for objectives that change at other places than where an image changes its class
_BLOCK = 2**14  # changes of class whose confusion matrices are held at once
_MARGIN = 0.1  # of a stretch's width, to be kept from its ends, where rounding could turn a tie


def exact_two_member_weights(ballots: WeightScorer) -> np.ndarray:
    """Find the exact optimum over the weights of two members, float64 (2,), sum 1.

    Each image's votes are straight lines over the first member's weight, so its class changes at most k - 1 times, and a
    metric of the confusion matrix is constant between two neighbouring changes of all images: the stretches are gone through
    from 0 to 1. Among the best stretches the Brier score decides, a parabola over the weight. Log loss is convex and is
    minimised by itself; of metrics that are no sum over the images (``Metric.of_stacks``) the best of 1,001 weights is taken.

    Raises:
        UsageError: If there are not two members.
    """
    if ballots.n_members != 2:
        raise UsageError(f"A sweep goes over the weights of two members. Received {ballots.n_members}. Use another method.")
    if ballots.objective.metric.of_confusions is not None:
        first = _best_of_stretches(ballots)
    elif ballots.objective.name == "log_loss":
        first = _least_log_loss(ballots)
    else:
        grid = _pairs(np.linspace(0, 1, _N_GRID))
        return grid[ballots.rank(grid)[0]]
    return _pairs(np.array([first]))[0]


def _best_of_stretches(ballots: WeightScorer) -> float:
    """Give the first member's weight in the best stretch."""
    ends, merit = _stretches(ballots)
    low, high = ends[:-1], ends[1:]
    wide = high - low > np.finfo(np.float32).eps
    best = wide & (merit == merit[wide].max())
    margin = _MARGIN * (high - low)[best]
    candidates = np.clip(_least_squared_error(ballots), low[best] + margin, high[best] - margin)
    return float(candidates[ballots.squared_error(_pairs(candidates)).argmin()])


def _stretches(ballots: WeightScorer) -> tuple[np.ndarray, np.ndarray]:
    """Give where stretches begin and end, (s + 1,) from 0 to 1, and what each is worth, (s,)."""
    k, labels = ballots.n_classes, ballots.labels
    winners, at, images, left, taken = _changes(ballots.probabilities)
    confusion = np.bincount(labels * k + winners, minlength=k * k)
    merit = [_merit(ballots, confusion[None])]
    for start in range(0, len(at), _BLOCK):
        block = slice(start, start + _BLOCK)
        steps = np.zeros((len(at[block]), k * k), dtype=np.int64)
        row = np.arange(len(steps))
        steps[row, labels[images[block]] * k + left[block]] -= 1
        steps[row, labels[images[block]] * k + taken[block]] += 1
        confusions = confusion + steps.cumsum(axis=0)
        merit.append(_merit(ballots, confusions))
        confusion = confusions[-1]
    return np.concatenate([[0.0], at, [1.0]]), np.concatenate(merit)


def _merit(ballots: WeightScorer, confusions: np.ndarray) -> np.ndarray:
    k, objective = ballots.n_classes, ballots.objective
    if objective.metric.of_confusions is None:
        raise UsageError(f"The metric {objective.name} is no metric of the confusion matrix. Try weights one by one.")
    scores = objective.metric.of_confusions(confusions.reshape(-1, k, k), objective.normal_class)
    return np.where(np.isnan(scores), -np.inf, objective.sign * scores)


def _changes(probabilities: np.ndarray) -> tuple[np.ndarray, ...]:
    """Find where each image changes its class as the first member's weight goes from 0 to 1.

    Args:
        probabilities: (2, n, k).

    Returns:
        The class of each image just above 0, (n,); and of each change, in order: the weight, the image, the class that it
        leaves and the one that it takes, (n_changes,).
    """
    start = probabilities[1].astype(np.float64)
    slopes = probabilities[0].astype(np.float64) - start
    # Just above 0 the steepest of the highest lines is on top.
    on_top = start == start.max(axis=1, keepdims=True)
    winners = np.where(on_top, slopes, -np.inf).argmax(axis=1)
    images, current, position = np.arange(len(start)), winners, np.zeros(len(start))
    found: list[tuple[np.ndarray, ...]] = []
    for _ in range(start.shape[1] - 1):
        rows = np.arange(len(images))
        lead = start[images, current][:, None] - start[images]
        faster = slopes[images] - slopes[images, current][:, None]
        meets = np.divide(lead, faster, out=np.full(lead.shape, np.inf), where=faster > 0)
        meets = np.maximum(meets, position[:, None])  # a rounding may put a meeting before the last one
        first = meets.min(axis=1)
        taken = np.where(meets == first[:, None], slopes[images], -np.inf).argmax(axis=1)
        goes_on = rows[first < 1]
        images, left, current, position = images[goes_on], current[goes_on], taken[goes_on], first[goes_on]
        found.append((position, images, left, current))
        if not len(images):
            break
    at, of_image, left, taken = (np.concatenate(part) for part in zip(*found, strict=True))
    order = np.argsort(at, kind="stable")
    return winners, at[order], of_image[order], left[order], taken[order]


def _least_squared_error(ballots: WeightScorer) -> float:
    """Find the weight of least Brier score, a parabola that three points give."""
    at_0, at_half, at_1 = ballots.squared_error(_pairs(np.array([0.0, 0.5, 1.0])))
    bend, slope = 2 * (at_0 + at_1 - 2 * at_half), 4 * at_half - 3 * at_0 - at_1
    return float(np.clip(-slope / (2 * bend), 0, 1)) if bend > 0 else 0.5


def _least_log_loss(ballots: WeightScorer) -> float:
    from scipy.optimize import minimize_scalar  # a fifth of a second to load

    of_truth = ballots.probabilities[:, np.arange(ballots.n_images), ballots.labels].astype(np.float64)

    def loss(first: float) -> float:
        share = first * of_truth[0] + (1 - first) * of_truth[1]
        return float(-np.log(share.clip(np.finfo(np.float32).eps, 1)).mean())

    inside = float(minimize_scalar(loss, bounds=(0, 1), method="bounded", options={"xatol": 1e-7}).x)
    return min((inside, 0.0, 1.0), key=loss)


def _pairs(first: np.ndarray) -> np.ndarray:
    return np.stack([first, 1 - first], axis=1)
