"""Scores of several models of findings for images that count several times or not at all."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from automl_cxr.scoring.finding_counts import DecisionCounter, count_decisions
from automl_cxr.scoring.influences import InfluenceScorer
from automl_cxr.scoring.metric_base import Metric, WeightedScore
from automl_cxr.scoring.thresholds import choose_thresholds


class FindingScorer:
    """Scores models by metrics of findings, from decisions that are counted and influences that are computed once.

    Args:
        labels: Label codes (n, k).
        probabilities: Probabilities of each model for the same images, (n_models, n, k).
        metrics: The metrics.
        thresholds: Thresholds of each model's decisions, (n_models, k). By default those of the metrics, and otherwise those
            that are chosen for each model on all images. They do not depend on the weights.
        n_weights: How many weights of each image will be scored. With many weights of many images, areas under the ROC curve
            are approximated by the influence of each image (``Metric.of_influence``).
    """

    def __init__(
        self,
        labels: np.ndarray,
        probabilities: np.ndarray,
        metrics: Sequence[Metric],
        *,
        thresholds: np.ndarray | None,
        n_weights: int,
    ) -> None:
        self._labels, self._probabilities, self._metrics = labels, probabilities, metrics
        self._decided, self._counter = None, None
        if any(metric.of_counts is not None for metric in metrics):
            self._decided = probabilities >= _thresholds_of_models(labels, probabilities, metrics, thresholds)[:, None, :]
            self._counter = DecisionCounter(labels, self._decided)
        self._influences = InfluenceScorer(labels, probabilities, metrics, n_weights=n_weights)
        self._prepared: dict[str, list[WeightedScore]] = {}
        self.of_images = {metric.name: self._score_images(metric) for metric in metrics}
        """The scores of each model if each image counts once, (n_models,) by the name of the metric."""

    def score_block(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        """Score all models by every metric with weights (n, n_block); (n_models, n_block) by name."""
        counts = None if self._counter is None else self._counter.count(weights)
        return {metric.name: self._score_metric(metric, weights, counts) for metric in self._metrics}

    def _score_images(self, metric: Metric) -> np.ndarray:
        if metric.of_counts is not None and self._decided is not None:
            return metric.of_counts(np.stack([count_decisions(self._labels, decided) for decided in self._decided]))
        return metric.score_stack(self._labels, self._probabilities, None)

    def _score_metric(self, metric: Metric, weights: np.ndarray, counts: np.ndarray | None) -> np.ndarray:
        if metric.of_counts is not None and counts is not None:
            return metric.of_counts(counts)
        if self._influences.has(metric):
            return self._influences.score(metric, self.of_images[metric.name], weights)
        return np.array([score(weights) for score in self._prepare(metric)])

    def _prepare(self, metric: Metric) -> list[WeightedScore]:
        """Return functions of weights for each model, which are prepared once for all blocks of weights."""
        if metric.name not in self._prepared:
            self._prepared[metric.name] = [self._prepare_model(metric, model) for model in self._probabilities]
        return self._prepared[metric.name]

    def _prepare_model(self, metric: Metric, model: np.ndarray) -> WeightedScore:
        if metric.prepare is not None:
            return metric.prepare(self._labels, model)
        return lambda weights: metric.score_weighted(self._labels, model, weights, None)


def _thresholds_of_models(
    labels: np.ndarray, probabilities: np.ndarray, metrics: Sequence[Metric], thresholds: np.ndarray | None
) -> np.ndarray:
    if thresholds is not None:
        return thresholds
    bound = next((metric.thresholds for metric in metrics if metric.thresholds is not None), None)
    if bound is not None:
        return np.broadcast_to(bound, (len(probabilities), labels.shape[1]))
    return choose_thresholds(labels, probabilities)
