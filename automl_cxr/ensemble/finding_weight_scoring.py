"""Scores of many weightings of the same members at once, for several findings of each image."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from automl_cxr.ensemble.finding_combiners import normalize_columns
from automl_cxr.ensemble.objective import Objective
from automl_cxr.ensemble.weight_scorer_base import BaseWeightScorer
from automl_cxr.errors import DataError
from automl_cxr.scoring.predictions import check_rows_are_probabilities
from automl_cxr.tasks import LABEL_CODES, PRESENT

_AVERAGES_BYTES = 32 * 2**20  # for the averaged probabilities of some weightings for all images


class FindingWeightScorer(BaseWeightScorer):
    """Members' probabilities of findings in a memory layout for which any number of weightings is scored fast.

    The averages of a population for one finding are one matrix product of (population, n_members) and (n_members, n). The
    weights of each finding are scaled to sum 1, because decisions depend on the size of the averages. Labels that are not known
    do not count.
    """

    def __init__(
        self, probabilities: np.ndarray, labels: np.ndarray, *, objective: Objective, is_rounded: bool = False
    ) -> None:
        """Validate the arrays and copy them into the layout.

        Args:
            probabilities: (n_members, n, k).
            labels: Label codes (n, k).
            objective: The metric that weightings are scored by.
            is_rounded: Whether the metric is approximated if it has ``Metric.of_rounded``.

        Raises:
            DataError: The arrays do not match, are empty or have values out of range, or no label is known.
        """
        probabilities, labels = np.asarray(probabilities), np.asarray(labels)
        _check_arrays(probabilities, labels)
        self.objective, self._is_rounded = objective, is_rounded
        self.n_members, self.n_images, self.n_classes = probabilities.shape
        # The labels of one finding are next to each other, because metrics read one finding after another.
        self.probabilities, self.labels = probabilities, labels.astype(np.int64, order="F")
        self._by_finding = np.ascontiguousarray(probabilities.transpose(2, 0, 1), dtype=np.float32)
        self._products, self._mean_present, self._share_present = self._compute_moments()

    def take(self, rows: np.ndarray, *, is_rounded: bool | None = None) -> FindingWeightScorer:
        """Create a scorer for some of the images; ``is_rounded`` as in the constructor, by default as in this scorer."""
        return FindingWeightScorer(
            self.probabilities[:, rows],
            self.labels[rows],
            objective=self.objective,
            is_rounded=self._is_rounded if is_rounded is None else is_rounded,
        )

    def score(self, weights: np.ndarray) -> np.ndarray:
        return self._higher_is_better(np.concatenate([self._score(averages) for averages in self._averages(weights)]))

    def _score(self, averages: np.ndarray) -> np.ndarray:
        """Score averaged probabilities (n_block, n, k), float64 (n_block,)."""
        metric = self.objective.metric
        if self._is_rounded and metric.of_rounded is not None:
            return metric.of_rounded(self.labels, averages)
        return metric.score_stack(self.labels, averages, None)

    def squared_error(self, weights: np.ndarray) -> np.ndarray:
        """Compute the Brier score of each weighting, float64 (population,): the mean over the findings of the squared error.

        It is a quadratic form of n_members numbers for each finding, so that its cost does not depend on the number of images.
        The result is rounded to nine decimals, so that rounding errors do not decide the rank of equal weightings.
        """
        weights = normalize_columns(self._check_weights(weights, np.float64)).transpose(2, 0, 1)  # (k, population, n_members)
        squares = ((weights @ self._products) * weights).sum(axis=2)
        errors = squares - 2 * (weights @ self._mean_present[..., None])[..., 0] + self._share_present[:, None]
        return errors.mean(axis=0).round(9)

    def standardize(self, weights: np.ndarray) -> np.ndarray:
        return normalize_columns(weights)

    def _averages(self, weights: np.ndarray) -> Iterator[np.ndarray]:
        """Yield the averaged probabilities of a block of weightings at a time, (n_block, n, k)."""
        weights = normalize_columns(self._check_weights(weights))
        step = max(1, _AVERAGES_BYTES // (self.n_images * self.n_classes * 4))
        for start in range(0, len(weights), step):
            block = weights[start : start + step].transpose(2, 0, 1)
            # Rounding must not make an average larger than 1.
            yield np.moveaxis(np.minimum(block @ self._by_finding, 1), 0, -1)

    def _compute_moments(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Compute means over the images whose label is known; 0 for findings without such an image.

        Returns:
            The mean products of the members' probabilities, (k, n_members, n_members); the mean probabilities, counted as 0
            where the finding is absent, (k, n_members); and the share of images with the finding, (k,).
        """
        products = np.zeros((self.n_classes, self.n_members, self.n_members))
        present, shares = np.zeros((self.n_classes, self.n_members)), np.zeros(self.n_classes)
        for number, members in enumerate(self._by_finding):
            is_known, is_present = self.labels[:, number] >= 0, self.labels[:, number] == PRESENT
            known = members[:, is_known]
            n_known = max(1, known.shape[1])
            products[number] = known @ known.T / n_known
            present[number] = members @ is_present / n_known
            shares[number] = is_present.sum() / n_known
        return products, present, shares


def _check_arrays(probabilities: np.ndarray, labels: np.ndarray) -> None:
    if probabilities.ndim != 3 or labels.shape != probabilities.shape[1:] or not probabilities.size:
        raise DataError(
            "Ensemble weights are fitted on probabilities (n_members, n, k) and labels (n, k), none of them empty. "
            f"Received {probabilities.shape} and {labels.shape}."
        )
    if labels.dtype.kind not in "iu" or not np.isin(labels, LABEL_CODES).all() or not (labels >= 0).any():
        raise DataError(
            f"Ensemble weights are fitted on label codes, of which some are known. Received {labels.dtype} from {labels.min()} "
            f"to {labels.max()}."
        )
    for member in probabilities:
        check_rows_are_probabilities(member, sum_to_one=False)
