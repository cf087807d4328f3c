"""The weighted average of members' probabilities."""

from __future__ import annotations

import numpy as np

from automl_cxr.errors import UsageError


def weighted_average(probabilities: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Average the members' probabilities. With a weight for each member and class, each row is scaled to sum to 1.

    Args:
        probabilities: (n_members, n, k), rows sum to 1.
        weights: (n_members,) or (n_members, k), at least 0, with a positive sum (for each class).

    Returns:
        float32 (n, k), rows sum to 1.

    Raises:
        UsageError: The weights have another shape, are negative, not finite or all 0.
    """
    n_members, n_images, n_classes = probabilities.shape
    weights = normalize_weights(weights, n_members=n_members, n_classes=n_classes)
    votes = np.zeros((n_images, n_classes), dtype=np.float64)
    for weight, member in zip(weights, probabilities, strict=True):
        votes += weight * member
    if weights.ndim == 2:
        votes /= np.maximum(votes.sum(axis=1, keepdims=True), np.finfo(np.float64).tiny)
    return votes.astype(np.float32)


def normalize_weights(weights: np.ndarray, *, n_members: int, n_classes: int | None = None) -> np.ndarray:
    """Scale weights to sum to 1, float64 (n_members,), or to an average sum of 1 for each class, (n_members, n_classes).

    Args:
        weights: One for each member, or one for each member and class.
        n_members: Number of members.
        n_classes: Number of classes; None if weights by class are not allowed.

    Raises:
        UsageError: The weights have another shape, are negative, not finite or all 0.
    """
    weights = np.asarray(weights, dtype=np.float64)
    if weights.shape not in ((n_members,), (n_members, n_classes)):
        raise UsageError(f"An ensemble of {n_members} members needs as many weights. Received shape {weights.shape}.")
    sums = weights.sum(axis=0)
    # A NaN or an infinity makes the sum NaN or infinite, so that one of the two comparisons fails.
    if not (weights >= 0).all() or not ((sums > 0) & (sums < np.inf)).all():
        raise UsageError(f"Weights must be finite, at least 0 and not all 0. Received {weights.tolist()}.")
    return weights / sums.mean()
