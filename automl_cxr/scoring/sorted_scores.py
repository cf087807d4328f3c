"""Sorting of scores together with the labels of one class or finding."""

from __future__ import annotations

import numpy as np

_BITS_OF_ONE = 0x3F800000  # of 1.0 in float32; the bits of non-negative numbers have the order of the numbers


def sort_scores(positive: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sort each row of scores, lowest first, negative images before positive ones in a tie.

    Probabilities in float32 are sorted as integers that contain the label in their last bit, which takes a third of the time of
    ``argsort`` and two selections.

    Args:
        positive: Whether each image is positive, (n,).
        scores: (..., n).

    Returns:
        The sorted scores, and whether the image of each is positive, bool, both (..., n).
    """
    if scores.dtype == np.float32:
        bits = np.ascontiguousarray(scores).view(np.uint32)
        if bits.max(initial=0) <= _BITS_OF_ONE:
            keys = np.sort((bits << 1) | positive, axis=-1)
            return (keys >> 1).view(np.float32), (keys & 1).astype(bool)
    order = np.lexsort((np.broadcast_to(positive, scores.shape), scores), axis=-1)
    return np.take_along_axis(scores, order, axis=-1), positive[order]


def last_of_equals(ordered: np.ndarray) -> np.ndarray:
    """Return the position of the last equal score of each score in sorted rows, (..., n)."""
    steps = ordered[..., 1:] != ordered[..., :-1]
    edge = np.ones((*ordered.shape[:-1], 1), dtype=bool)
    last = ordered.shape[-1] - 1
    backwards = np.where(np.concatenate([steps, edge], axis=-1), np.arange(last + 1), last)[..., ::-1]
    return np.minimum.accumulate(backwards, axis=-1)[..., ::-1]
