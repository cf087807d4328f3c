"""Scores of many weightings of the same members at once, for one class of each image."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from automl_cxr.ensemble.objective import LOG_LOSS, MACRO_F1, Objective
from automl_cxr.ensemble.weight_scorer_base import BaseWeightScorer
from automl_cxr.errors import DataError
from automl_cxr.scoring.predictions import check_rows_are_probabilities

_BLOCK_BYTES = 2**18  # a part of a processor's cache: larger blocks take up to twice as long
_AVERAGES_BYTES = 32 * 2**20  # for the averaged probabilities of some weightings for all images
_BYTES_PER_VOTE = 12  # of a block, for each weighting and image: two float32 votes, the predicted class, comparisons


class WeightScorer(BaseWeightScorer):
    """Members' probabilities and labels in a memory layout for which any number of weightings is scored fast.

    The votes of a population for one class are one matrix product of (population, n_members) and (n_members, n). The counts of
    its confusion matrices are a product of the predicted classes and the labels. Images are processed in blocks, so that memory
    is bounded: for 100,000 images, 50 members, 14 classes and a population of 100, the scorer stores the members' probabilities
    twice, and a few MiB in addition.

    A weighting has one weight for each member, or one for each member and class. Votes need not sum to 1, because the
    predicted class depends on their order only.

    Attributes:
        probabilities: As given, (n_members, n, k).
        labels: As given, int64 (n,).
        objective: The metric that weightings are scored by.
        n_members: Number of members.
        n_images: Number of images.
        n_classes: Number of classes.
    """

    def __init__(
        self,
        probabilities: np.ndarray,
        labels: np.ndarray,
        *,
        objective: Objective = MACRO_F1,
        block_bytes: int = _BLOCK_BYTES,
    ) -> None:
        """Validate the arrays and copy them into the layout.

        Args:
            probabilities: (n_members, n, k), rows sum to 1.
            labels: True classes, integers (n,) from 0 to k - 1.
            objective: The metric that weightings are scored by.
            block_bytes: Memory for one block of images.

        Raises:
            DataError: The arrays do not match, are empty or have values out of range.
            UsageError: The objective needs a normal class and has none.
        """
        probabilities, labels = np.asarray(probabilities), np.asarray(labels)
        _check_arrays(probabilities, labels)
        objective.metric.require_normal_class(objective.normal_class, probabilities.shape[2])
        self.objective = objective
        self.n_members, self.n_images, self.n_classes = probabilities.shape
        self._block_bytes = block_bytes
        self.probabilities, self.labels = probabilities, labels.astype(np.int64)
        # (k, n_members, n): the votes for a class are one product, and classes are compared along images.
        self._by_class = np.ascontiguousarray(probabilities.transpose(2, 0, 1), dtype=np.float32)
        self._truth = labels == np.arange(self.n_classes)[:, None]
        self._products, self._mean_true_votes = self._compute_moments()

    def take(self, rows: np.ndarray) -> WeightScorer:
        """Create a scorer for some of the images, selected by a boolean mask or indices."""
        return WeightScorer(
            self.probabilities[:, rows], self.labels[rows], objective=self.objective, block_bytes=self._block_bytes
        )

    def score(self, weights: np.ndarray) -> np.ndarray:
        """Compute the objective of each weighting. Higher is better: a metric to minimise is negated.

        Metrics of the confusion matrix and log loss are computed for blocks of images. All other metrics are computed from
        the averaged probabilities of some weightings at a time: at once if the metric has ``of_stacks``, otherwise one
        weighting after another with the metric's plain function.

        Args:
            weights: (population, n_members) or (population, n_members, k), at least 0.

        Returns:
            float64 (population,); minus infinity where the metric is undefined.

        Raises:
            UsageError: The weights have another shape.
        """
        metric, normal_class = self.objective.metric, self.objective.normal_class
        if metric.of_confusions is not None:
            return self._higher_is_better(metric.of_confusions(self.confusions(weights), normal_class))
        if metric.name == LOG_LOSS:
            return self._higher_is_better(self.log_loss(weights))
        scores = [metric.score_stack(self.labels, averages, normal_class) for averages in self._averages(weights)]
        return self._higher_is_better(np.concatenate(scores))

    def standardize(self, weights: np.ndarray) -> np.ndarray:
        return weights

    def confusions(self, weights: np.ndarray) -> np.ndarray:
        """Count images by true class (rows) and predicted class (columns) for each weighting, int64 (population, k, k)."""
        weights = self._check_weights(weights)
        confusions = np.zeros((len(weights), self.n_classes, self.n_classes), dtype=np.int64)
        for images in self._blocks(len(weights)):
            predicted_classes = self._predicted_classes(weights, images)
            truth = self._truth[:, images].T.astype(np.float32)
            for number in range(self.n_classes):
                # A product counts four times as fast as bincount, and exactly up to 2 ** 24 images a block.
                confusions[:, :, number] += ((predicted_classes == number).astype(np.float32) @ truth).astype(np.int64)
        return confusions

    def log_loss(self, weights: np.ndarray) -> np.ndarray:
        """Compute the log loss of each weighting, float64 (population,).

        The result is rounded to six decimals, so that float32 rounding errors do not decide the rank of equal weightings.
        """
        weights = self._check_weights(weights)
        total = np.zeros(len(weights))
        for images in self._blocks(len(weights)):
            all_votes = np.zeros((len(weights), len(self.labels[images])), dtype=np.float32)
            true_votes_of_images = np.empty_like(all_votes)
            for number in range(self.n_classes):
                votes, is_true = self._votes(weights, number, images), self._truth[number, images]
                all_votes += votes
                true_votes_of_images[:, is_true] = votes[:, is_true]
            shares = (true_votes_of_images / all_votes).clip(np.finfo(np.float32).eps, 1.0)
            total -= np.log(shares).sum(axis=1, dtype=np.float64)
        return (total / self.n_images).round(6)

    def squared_error(self, weights: np.ndarray) -> np.ndarray:
        """Compute the Brier score of each weighting from its unscaled votes, float64 (population,).

        The Brier score is the mean over the images of the squared distance between the votes and the truth (1 for the true
        class, 0 for the others). It is convex in the weights, proper, and a quadratic form of n_members numbers for each class,
        so that its cost does not depend on the number of images. The result is rounded to nine decimals, so that rounding
        errors do not decide the rank of equal weightings.
        """
        weights = self._check_weights(weights, np.float64).transpose(2, 0, 1)  # (k, population, n_members)
        squares = ((weights @ self._products) * weights).sum(axis=(0, 2))
        return (squares - 2 * (weights @ self._mean_true_votes[..., None]).sum(axis=(0, 2)) + 1).round(9)

    def _averages(self, weights: np.ndarray) -> Iterator[np.ndarray]:
        """Yield the averaged probabilities of a block of weightings at a time, (n_block, n, k), rows sum to 1."""
        weights = self._check_weights(weights)
        step = max(1, _AVERAGES_BYTES // (self.n_images * self.n_classes * 4))
        for start in range(0, len(weights), step):
            votes = np.stack([self._votes(weights[start : start + step], c, slice(None)) for c in range(self.n_classes)])
            yield np.moveaxis(votes / votes.sum(axis=0), 0, -1)

    def _compute_moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Compute two means over the images for each class.

        Returns:
            The mean products of the members' probabilities, (k, n_members, n_members); and the mean probabilities, counted
            as 0 for images of other classes, (k, n_members).
        """
        products = np.zeros((self.n_classes, self.n_members, self.n_members))
        true_votes = np.zeros((self.n_classes, self.n_members))
        for images in self._blocks(self.n_members):
            for number, votes in enumerate(self._by_class):
                block = votes[:, images].astype(np.float64)
                products[number] += block @ block.T
                true_votes[number] += block @ self._truth[number, images]
        return products / self.n_images, true_votes / self.n_images

    def _predicted_classes(self, weights: np.ndarray, images: slice) -> np.ndarray:
        """Find the class with the most votes, (population, n_block); in a tie the first one, as in ``numpy.argmax``.

        Uses a running maximum over the classes, because argmax along an axis of a few entries takes five times as long.
        Classes are visited in ascending order. Therefore the predicted class is the maximum of all classes whose votes exceed
        those of the classes before, and a maximum is cheaper than a masked assignment.
        """
        dtype = np.uint8 if self.n_classes <= np.iinfo(np.uint8).max else np.uint16
        most = self._votes(weights, 0, images)
        predicted_classes = np.zeros(most.shape, dtype=dtype)
        for number in range(1, self.n_classes):
            votes = self._votes(weights, number, images)
            np.maximum(predicted_classes, (votes > most) * dtype(number), out=predicted_classes)
            np.maximum(most, votes, out=most)
        return predicted_classes

    def _votes(self, weights: np.ndarray, number: int, images: slice) -> np.ndarray:
        return weights[:, :, number] @ self._by_class[number][:, images]

    def _blocks(self, population: int) -> Iterator[slice]:
        step = max(1, self._block_bytes // (_BYTES_PER_VOTE * max(1, population)))
        return (slice(start, start + step) for start in range(0, self.n_images, step))


def _check_arrays(probabilities: np.ndarray, labels: np.ndarray) -> None:
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
