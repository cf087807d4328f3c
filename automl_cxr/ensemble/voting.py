"""Weighted votes: one ensemble's probabilities, or the scores of a whole population of weightings at once."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from automl_cxr.errors import DataError, UsageError
from automl_cxr.scoring.metrics import macro_f1
from automl_cxr.scoring.predictions import check_rows_are_probabilities

_BLOCK_BYTES = 2 * 2**20  # about a processor's cache: blocks of 32 MiB take 1.5 times as long
_BYTES_PER_VOTE = 24  # of a block, for each weighting and image: two float32 votes, the prediction, its confusion cell


def weighted_average(probabilities: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Average the members' probabilities.

    Args:
        probabilities: (n_members, n, k), rows sum to 1.
        weights: (n_members,), at least 0, with a positive sum; they are scaled to sum to 1.

    Returns:
        float32 (n, k), rows sum to 1.

    Raises:
        UsageError: If the weights are not one for each member, negative, not finite or all 0.
    """
    weights = normalize_weights(weights, n_members=len(probabilities))
    average = np.zeros(probabilities.shape[1:], dtype=np.float64)
    for weight, member in zip(weights, probabilities, strict=True):
        average += weight * member
    return average.astype(np.float32)


def score_population(probabilities: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Give the macro-F1 of many weightings of the same members.

    Args:
        probabilities: (n_members, n, k), rows sum to 1.
        labels: True classes, integers (n,) from 0 to k - 1.
        weights: (population, n_members), at least 0.

    Returns:
        float64 (population,).

    Raises:
        DataError: If probabilities and labels do not fit together, or are out of range.
        UsageError: If the weights have another shape.
    """
    return Ballots(probabilities, labels).macro_f1(weights)


def normalize_weights(weights: np.ndarray, *, n_members: int) -> np.ndarray:
    """Scale weights to sum to 1, float64 (n_members,).

    Raises:
        UsageError: If they are not one for each member, negative, not finite or all 0.
    """
    weights = np.asarray(weights, dtype=np.float64)
    if weights.shape != (n_members,):
        raise UsageError(f"An ensemble of {n_members} members needs as many weights. Received shape {weights.shape}.")
    # A NaN or an infinity fails one of the two comparisons through the sum.
    if not (weights >= 0).all() or not 0 < weights.sum() < np.inf:
        raise UsageError(f"Weights must be finite, at least 0 and not all 0. Received {weights.tolist()}.")
    return weights / weights.sum()


class Ballots:
    """The members' probabilities and the truth, laid out once so that any number of weightings is scored fast.

    A population's votes for one class are one matrix product of (population, n_members) and (n_members, n). Images go
    through it in blocks, so that memory stays bounded: 100,000 images, 50 members, 14 classes and a population of 100
    take the members' probabilities twice, and only a few MiB besides.

    Attributes:
        probabilities: As given, (n_members, n, k).
        labels: As given, int64 (n,).
        n_members: Number of members; n_images and n_classes the other two sizes.
    """

    def __init__(self, probabilities: np.ndarray, labels: np.ndarray, *, block_bytes: int = _BLOCK_BYTES) -> None:
        """Check and lay out.

        Args:
            probabilities: (n_members, n, k), rows sum to 1.
            labels: True classes, integers (n,) from 0 to k - 1.
            block_bytes: Memory that a block of images may take.

        Raises:
            DataError: If the two do not fit together, are empty or out of range.
        """
        probabilities, labels = np.asarray(probabilities), np.asarray(labels)
        _check_ballots(probabilities, labels)
        self.n_members, self.n_images, self.n_classes = probabilities.shape
        self._block_bytes = block_bytes
        self.probabilities, self.labels = probabilities, labels.astype(np.int64)
        # (k, n_members, n): a class's votes are one product, and comparing classes runs along images.
        self._by_class = np.ascontiguousarray(probabilities.transpose(2, 0, 1), dtype=np.float32)
        self._of_truth = probabilities[:, np.arange(self.n_images), labels].astype(np.float32)

    def macro_f1(self, weights: np.ndarray) -> np.ndarray:
        """Give the macro-F1 of each row of ``weights`` (population, n_members), float64 (population,)."""
        weights = self._check_weights(weights)
        k = self.n_classes
        confusions = np.zeros((len(weights), k, k), dtype=np.int64)
        first_cell = np.arange(len(weights))[:, None] * k * k
        for images in self._blocks(len(weights)):
            cells = first_cell + self.labels[images] * k + self._winners(weights, images)
            confusions += np.bincount(cells.ravel(), minlength=confusions.size).reshape(confusions.shape)
        return macro_f1(confusions)

    def log_loss(self, weights: np.ndarray) -> np.ndarray:
        """Give the log loss of each row of ``weights`` (population, n_members; sum 1), float64 (population,).

        Rounded to six decimals: the rest is float32's noise, which would rank weightings of equal members.
        """
        weights = self._check_weights(weights)
        total = np.zeros(len(weights))
        for images in self._blocks(len(weights)):
            votes = weights @ self._of_truth[:, images]
            total -= np.log(votes.clip(np.finfo(np.float32).eps, 1.0)).sum(axis=1, dtype=np.float64)
        return (total / self.n_images).round(6)

    def _winners(self, weights: np.ndarray, images: slice) -> np.ndarray:
        """Find the class with the most votes, the first of equals as in ``numpy.argmax``, (population, n_block).

        A running maximum over the classes, since argmax along an axis of a few entries takes five times as long; and
        numbers only grow, so that the last class to take the lead is a maximum too, cheaper than a masked assignment.
        """
        most = weights @ self._by_class[0][:, images]
        winners = np.zeros(most.shape, dtype=np.uint16)
        for number in range(1, self.n_classes):
            votes = weights @ self._by_class[number][:, images]
            np.maximum(winners, (votes > most) * np.uint16(number), out=winners)
            np.maximum(most, votes, out=most)
        return winners

    def _blocks(self, population: int) -> Iterator[slice]:
        step = max(1, self._block_bytes // (_BYTES_PER_VOTE * max(1, population)))
        return (slice(start, start + step) for start in range(0, self.n_images, step))

    def _check_weights(self, weights: np.ndarray) -> np.ndarray:
        weights = np.asarray(weights, dtype=np.float32)
        if weights.ndim != 2 or weights.shape[1] != self.n_members:
            raise UsageError(
                f"A population of weights must have shape (population, {self.n_members}). Received {weights.shape}."
            )
        return weights


def _check_ballots(probabilities: np.ndarray, labels: np.ndarray) -> None:
    if probabilities.ndim != 3 or labels.shape != probabilities.shape[1:2] or not probabilities.size:
        raise DataError(
            "Ensemble weights are fitted on probabilities (n_members, n, k) and labels (n,), none of them empty. "
            f"Received {probabilities.shape} and {labels.shape}."
        )
    if labels.dtype.kind not in "iu" or labels.min() < 0 or labels.max() >= probabilities.shape[2]:
        raise DataError(
            f"Ensemble weights are fitted on known labels, integers from 0 to {probabilities.shape[2] - 1}. "
            f"Received {labels.dtype} from {labels.min()} to {labels.max()}. Leave unlabelled images out."
        )
    for member in probabilities:
        check_rows_are_probabilities(member)
