"""Scores of several models on bootstrap resamples of the same patients, and on jackknife samples.

A resample is represented by the number of times that each image was drawn. All models and metrics use the same resamples, so
that the variation that models have in common cancels out in their differences.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from automl_cxr.scoring.finding_resampling import FindingScorer
from automl_cxr.scoring.influences import InfluenceScorer
from automl_cxr.scoring.metric_base import Metric

if TYPE_CHECKING:
    from scipy.sparse import csr_array

_BLOCK_BYTES = 2**20  # of weights, which then stay in a core's cache while all models are scored
_MIN_BLOCK = 16
_MAX_GROUPS = 400  # of patients for the jackknife; the error of the BCa acceleration is then at most 0.002


@dataclass(frozen=True, eq=False)
class ResampledScores:
    """One metric of several models; NaN where it is undefined.

    Attributes:
        scores: Scores on the original images, (n_models,).
        of_resamples: Scores on each bootstrap resample of patients, (n_models, n_resamples).
        left_out: Scores without each patient, or without each of 400 groups of patients, (n_models, n_groups).
        is_raised_by_noise: Whether random errors of small samples make the scores larger (``MetricRow``).
        lowest: Smallest possible value of a score.
    """

    scores: np.ndarray
    of_resamples: np.ndarray
    left_out: np.ndarray
    is_raised_by_noise: bool = False
    lowest: float = -np.inf


def resample_scores(
    labels: np.ndarray,
    probabilities: np.ndarray,
    patients: Sequence[str],
    metrics: Sequence[Metric],
    *,
    n_resamples: int,
    seed: int,
    normal_class: int | None = None,
    thresholds: np.ndarray | None = None,
) -> dict[str, ResampledScores]:
    """Score models on resamples of patients.

    The resamples depend only on the patients and the seed, so a model's scores do not depend on the other models and metrics.
    Resamples are not stratified: the number of images of a class varies too.

    Args:
        labels: True classes, integers (n,), or label codes (n, k).
        probabilities: Probabilities of each model for the same images, (n_models, n, k).
        patients: Patient of each image, (n,).
        metrics: The metrics.
        n_resamples: Number of resamples.
        seed: Seed of the resamples, at least 0.
        normal_class: Index of the class without a finding, for metrics that need it.
        thresholds: Thresholds of each model's decisions on findings, (n_models, k); by default see ``FindingScorer``.

    Returns:
        The scores by name of the metric.
    """
    patient, n_patients = number_patients(patients)
    scorer = ResampleScorer(labels, probabilities, metrics, normal_class, thresholds=thresholds, n_weights=n_resamples)
    of_resamples = scorer.score(_draw_resamples(patient, n_patients, n_resamples, seed))
    left_out = scorer.score(_leave_out(patient, n_patients))
    of_images = scorer.of_images
    return {
        metric.name: ResampledScores(
            of_images[metric.name],
            of_resamples[metric.name],
            left_out[metric.name],
            metric.is_raised_by_noise,
            lowest=0.0 if metric.is_raised_by_noise else -np.inf,
        )
        for metric in metrics
    }


class ResampleScorer:
    """Scores models with weights of images.

    Args:
        labels: True classes, integers (n,), or label codes (n, k).
        probabilities: Probabilities of each model for the same images, (n_models, n, k).
        metrics: The metrics.
        normal_class: Index of the class without a finding, for metrics that need it.
        thresholds: For findings, see ``FindingScorer``.
        n_weights: How many weights of each image will be scored. With many weights of many images, areas under the ROC curve
            are approximated (``InfluenceScorer``).
    """

    def __init__(
        self,
        labels: np.ndarray,
        probabilities: np.ndarray,
        metrics: Sequence[Metric],
        normal_class: int | None,
        *,
        thresholds: np.ndarray | None = None,
        n_weights: int = 1,
    ) -> None:
        self._names = [metric.name for metric in metrics]
        self._scorer: _ClassScorer | FindingScorer
        if labels.ndim == 2:
            self._scorer = FindingScorer(labels, probabilities, metrics, thresholds=thresholds, n_weights=n_weights)
        else:
            self._scorer = _ClassScorer(labels, probabilities, metrics, normal_class, n_weights=n_weights)

    @property
    def of_images(self) -> Mapping[str, np.ndarray]:
        """The scores of each model if each image counts once, (n_models,) by the name of the metric."""
        return self._scorer.of_images

    def score(self, blocks: Iterable[np.ndarray]) -> Mapping[str, np.ndarray]:
        """Score all models by every metric with blocks of weights (n, n_block). Return arrays (n_models, n_weights) by name."""
        scored = [self._scorer.score_block(weights) for weights in blocks]
        return {name: np.concatenate([block[name] for block in scored], axis=1) for name in self._names}


class _ClassScorer:
    """Scores models by metrics of classes, from confusion matrix cells that are computed once."""

    def __init__(
        self,
        labels: np.ndarray,
        probabilities: np.ndarray,
        metrics: Sequence[Metric],
        normal_class: int | None,
        *,
        n_weights: int,
    ) -> None:
        self._labels, self._probabilities = labels, probabilities
        self._metrics, self._normal_class = metrics, normal_class
        needs_cells = any(metric.of_confusions is not None for metric in metrics)
        self._cells = _cells_of_images(labels, probabilities) if needs_cells else None
        self._influences = InfluenceScorer(labels, probabilities, metrics, n_weights=n_weights)

    @functools.cached_property
    def of_images(self) -> dict[str, np.ndarray]:
        return {
            metric.name: np.array([metric.function(self._labels, one, self._normal_class) for one in self._probabilities])
            for metric in self._metrics
        }

    def score_block(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        confusions = None if self._cells is None else self._confusions(self._cells, weights)
        return {metric.name: self._score_metric(metric, weights, confusions) for metric in self._metrics}

    def _score_metric(self, metric: Metric, weights: np.ndarray, confusions: np.ndarray | None) -> np.ndarray:
        if metric.of_confusions is not None and confusions is not None:
            return metric.of_confusions(confusions, self._normal_class)
        if self._influences.has(metric):
            return self._influences.score(metric, self.of_images[metric.name], weights)
        return np.array(
            [metric.score_weighted(self._labels, model, weights, self._normal_class) for model in self._probabilities]
        )

    def _confusions(self, cells: csr_array, weights: np.ndarray) -> np.ndarray:
        """Sum weights by true and predicted class, (n_models, n_block, k, k)."""
        n_models, _, n_classes = self._probabilities.shape
        counts = (cells @ weights).reshape(n_models, n_classes, n_classes, -1)
        return np.moveaxis(counts, -1, 1).astype(np.float64)


def _cells_of_images(labels: np.ndarray, probabilities: np.ndarray) -> csr_array:
    """Return the confusion matrix cell of each model and image as ones in a sparse matrix (n_models * k * k, n)."""
    from scipy.sparse import csr_array  # the import takes 0.2 s

    n_models, n_images, n_classes = probabilities.shape
    images = np.empty((n_models, n_images), dtype=np.int32)  # sorted by cell
    n_in_cells = np.empty((n_models, n_classes**2), dtype=np.int64)
    for number, model in enumerate(probabilities):
        cells = (labels * n_classes + model.argmax(axis=1)).astype(np.min_scalar_type(n_classes**2))
        images[number] = cells.argsort(kind="stable")
        n_in_cells[number] = np.bincount(cells, minlength=n_classes**2)
    starts = np.append(0, n_in_cells.ravel().cumsum())
    ones = np.ones(images.size, dtype=np.float32)
    return csr_array((ones, images.ravel(), starts), shape=(n_models * n_classes**2, n_images))


def _draw_resamples(patient: np.ndarray, n_patients: int, n_resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Yield the number of times that each image is drawn with its patient, float32 (n, n_block)."""
    rng = np.random.default_rng(seed)
    for size in _blocks(len(patient), n_resamples):
        drawn = rng.integers(n_patients, size=(size, n_patients)) + n_patients * np.arange(size)[:, None]
        times = np.bincount(drawn.ravel(), minlength=size * n_patients).reshape(size, n_patients)
        yield np.ascontiguousarray(times.T, dtype=np.float32)[patient]


def _leave_out(patient: np.ndarray, n_patients: int) -> Iterator[np.ndarray]:
    """Yield 0 for the images of one group of patients and 1 for the others, float32 (n, n_block)."""
    n_groups = min(n_patients, _MAX_GROUPS)
    group, first = patient % n_groups, 0
    for size in _blocks(len(patient), n_groups):
        yield (group[:, None] != np.arange(first, first + size)).astype(np.float32)
        first += size


def _blocks(n_images: int, n_resamples: int) -> Iterator[int]:
    size = max(_MIN_BLOCK, _BLOCK_BYTES // (4 * n_images))
    yield from (min(size, n_resamples - start) for start in range(0, n_resamples, size))


def number_patients(patients: Sequence[str]) -> tuple[np.ndarray, int]:
    """Number the patients from 0 in the order of their first image, int64 (n,)."""
    numbers: dict[str, int] = {}
    of_image = [numbers.setdefault(name, len(numbers)) for name in patients]
    return np.array(of_image, dtype=np.int64), len(numbers)
