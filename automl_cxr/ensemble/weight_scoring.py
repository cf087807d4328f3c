"""What a whole population of weightings of the same members is worth, at once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from automl_cxr.ensemble.objective import MACRO_F1, Objective
from automl_cxr.errors import DataError, UsageError
from automl_cxr.scoring.predictions import check_rows_are_probabilities

_BLOCK_BYTES = 2**18  # a part of a processor's cache: larger blocks take up to twice as long
_SHARES_BYTES = 32 * 2**20  # of the probabilities of some weightings for all images
_BYTES_PER_VOTE = 12  # of a block, for each weighting and image: two float32 votes, the winner, comparisons


class WeightScorer:
    """The members' probabilities and the truth, laid out once so that any number of weightings is scored fast.

    A population's votes for one class are one matrix product of (population, n_members) and (n_members, n), and its
    confusions with one class are another, of who won and what is true. Images go through in blocks, so that memory stays
    bounded: 100,000 images, 50 members, 14 classes and a population of 100 take the members' probabilities twice, and only a
    few MiB besides.

    A weighting has a weight for each member, or one for each member and class. Votes need not sum to 1: who wins depends
    on their order alone.

    Attributes:
        probabilities: As given, (n_members, n, k).
        labels: As given, int64 (n,).
        objective: What weightings are judged by.
        n_members: Number of members; n_images and n_classes the other two sizes.
    """

    def __init__(
        self,
        probabilities: np.ndarray,
        labels: np.ndarray,
        *,
        objective: Objective = MACRO_F1,
        block_bytes: int = _BLOCK_BYTES,
    ) -> None:
        """Check and lay out.

        Args:
            probabilities: (n_members, n, k), rows sum to 1.
            labels: True classes, integers (n,) from 0 to k - 1.
            objective: What weightings are judged by.
            block_bytes: Memory that a block of images may take.

        Raises:
            DataError: If the two do not fit together, are empty or out of range.
            UsageError: If the objective misses its normal class.
        """
        probabilities, labels = np.asarray(probabilities), np.asarray(labels)
        _check_ballots(probabilities, labels)
        objective.metric.require_normal_class(objective.normal_class, probabilities.shape[2])
        self.objective = objective
        self.n_members, self.n_images, self.n_classes = probabilities.shape
        self._block_bytes = block_bytes
        self.probabilities, self.labels = probabilities, labels.astype(np.int64)
        # (k, n_members, n): a class's votes are one product, and comparing classes runs along images.
        self._by_class = np.ascontiguousarray(probabilities.transpose(2, 0, 1), dtype=np.float32)
        self._truth = labels == np.arange(self.n_classes)[:, None]
        self._products, self._hits = self._second_moments()

    def take(self, rows: np.ndarray) -> WeightScorer:
        """Lay out some of the images, by a boolean mask or indices."""
        return WeightScorer(
            self.probabilities[:, rows], self.labels[rows], objective=self.objective, block_bytes=self._block_bytes
        )

    def merit(self, weights: np.ndarray) -> np.ndarray:
        """Judge weightings by the objective: more is better, so a metric to minimise is negated.

        Metrics of the confusion matrix and log loss go through the images in blocks, the others through the
        weightings.

        Args:
            weights: (population, n_members) or (population, n_members, k), at least 0.

        Returns:
            float64 (population,); where the metric is not defined, minus infinity.

        Raises:
            UsageError: If the weights have another shape.
        """
        metric, normal_class = self.objective.metric, self.objective.normal_class
        if metric.of_confusions is not None:
            return self._signed(metric.of_confusions(self.confusions(weights), normal_class))
        if metric.of_stacks is not None:
            scores = [metric.of_stacks(self.labels, shares, normal_class) for shares in self._shares(weights)]
            return self._signed(np.concatenate(scores))
        return self._signed(self.log_loss(weights))

    def rank(self, weights: np.ndarray) -> np.ndarray:
        """Order weightings from the best: by merit, then by squared error, then as they stand; indices (population,)."""
        return np.lexsort((self.squared_error(weights), -self.merit(weights)))

    def confusions(self, weights: np.ndarray) -> np.ndarray:
        """Count images by true class (rows) and winning class (columns) for each weighting, int64 (population, k, k)."""
        weights = self._check_weights(weights)
        confusions = np.zeros((len(weights), self.n_classes, self.n_classes), dtype=np.int64)
        for images in self._blocks(len(weights)):
            winners = self._winners(weights, images)
            truth = self._truth[:, images].T.astype(np.float32)
            for number in range(self.n_classes):
                # Counts by a product: four times as fast as by bincount, and exact up to 2 ** 24 images a block.
                confusions[:, :, number] += ((winners == number).astype(np.float32) @ truth).astype(np.int64)
        return confusions

    def log_loss(self, weights: np.ndarray) -> np.ndarray:
        """Give the log loss of each weighting, float64 (population,).

        Rounded to six decimals: the rest is float32's noise, which would rank weightings of equal members.
        """
        weights = self._check_weights(weights)
        total = np.zeros(len(weights))
        for images in self._blocks(len(weights)):
            all_votes = np.zeros((len(weights), len(self.labels[images])), dtype=np.float32)
            of_truth = np.empty_like(all_votes)
            for number in range(self.n_classes):
                votes, is_true = self._votes(weights, number, images), self._truth[number, images]
                all_votes += votes
                of_truth[:, is_true] = votes[:, is_true]
            shares = (of_truth / all_votes).clip(np.finfo(np.float32).eps, 1.0)
            total -= np.log(shares).sum(axis=1, dtype=np.float64)
        return (total / self.n_images).round(6)

    def squared_error(self, weights: np.ndarray) -> np.ndarray:
        """Give the Brier score of each weighting, its votes taken as they are, float64 (population,).

        The mean over the images of the squared distance of the votes from the truth (1 for the true class, 0 for the
        others): convex in the weights, proper, and a quadratic form of n_members numbers a class, so that it costs nothing
        however many the images. Rounded to nine decimals, as noise would rank weightings of equal members.
        """
        weights = self._check_weights(weights, np.float64).transpose(2, 0, 1)  # (k, population, n_members)
        squares = ((weights @ self._products) * weights).sum(axis=(0, 2))
        return (squares - 2 * (weights @ self._hits[..., None]).sum(axis=(0, 2)) + 1).round(9)

    def _signed(self, scores: np.ndarray) -> np.ndarray:
        """Convert scores so that more is better; what is not defined is below everything."""
        return np.where(np.isnan(scores), -np.inf, self.objective.sign * scores)

    def _shares(self, weights: np.ndarray) -> Iterator[np.ndarray]:
        """Yield probabilities of some weightings at a time, (some, n, k), rows sum to 1."""
        weights = self._check_weights(weights)
        step = max(1, _SHARES_BYTES // (self.n_images * self.n_classes * 4))
        for start in range(0, len(weights), step):
            votes = np.stack([self._votes(weights[start : start + step], c, slice(None)) for c in range(self.n_classes)])
            yield np.moveaxis(votes / votes.sum(axis=0), 0, -1)

    def _second_moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Give for each class the members' mean products (k, n_members, n_members), and mean votes where it is true."""
        products = np.zeros((self.n_classes, self.n_members, self.n_members))
        hits = np.zeros((self.n_classes, self.n_members))
        for images in self._blocks(self.n_members):
            for number, votes in enumerate(self._by_class):
                block = votes[:, images].astype(np.float64)
                products[number] += block @ block.T
                hits[number] += block @ self._truth[number, images]
        return products / self.n_images, hits / self.n_images

    def _winners(self, weights: np.ndarray, images: slice) -> np.ndarray:
        """Find the class with the most votes, the first of equals as in ``numpy.argmax``, (population, n_block).

        A running maximum over the classes, since argmax along an axis of a few entries takes five times as long; and
        numbers only grow, so that the last class to take the lead is a maximum too, cheaper than a masked assignment.
        """
        kind = np.uint8 if self.n_classes <= np.iinfo(np.uint8).max else np.uint16
        most = self._votes(weights, 0, images)
        winners = np.zeros(most.shape, dtype=kind)
        for number in range(1, self.n_classes):
            votes = self._votes(weights, number, images)
            np.maximum(winners, (votes > most) * kind(number), out=winners)
            np.maximum(most, votes, out=most)
        return winners

    def _votes(self, weights: np.ndarray, number: int, images: slice) -> np.ndarray:
        return weights[:, :, number] @ self._by_class[number][:, images]

    def _blocks(self, population: int) -> Iterator[slice]:
        step = max(1, self._block_bytes // (_BYTES_PER_VOTE * max(1, population)))
        return (slice(start, start + step) for start in range(0, self.n_images, step))

    def _check_weights(self, weights: np.ndarray, number: type[np.floating[Any]] = np.float32) -> np.ndarray:
        """Give weights as (population, n_members, k), float32 unless another kind of number is asked for."""
        weights = np.asarray(weights, dtype=number)
        if weights.ndim == 2:
            weights = np.broadcast_to(weights[..., None], (*weights.shape, self.n_classes))
        if weights.ndim != 3 or weights.shape[1:] != (self.n_members, self.n_classes):
            raise UsageError(
                f"A population of weights must have shape (population, {self.n_members}), or (population, {self.n_members}, "
                f"{self.n_classes}) by class. Received {weights.shape}."
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
