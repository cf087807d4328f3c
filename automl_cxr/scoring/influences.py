"""Approximate scores of several models for many weights of many images, from the influence of each image on each score."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from automl_cxr.scoring.metric_base import Metric

MAX_EXACT = 2.5e8
"""Products of models, images, classes and weights; a few seconds for the area under the ROC curve."""
MIN_IMAGES = 50
"""Images with and without a class or finding from which the error of the approximation is small compared to an interval."""


class InfluenceScorer:
    """Scores models by metrics that have influences (``Metric.of_influence``), if exact scores would take minutes.

    Args:
        labels: True classes, integers (n,), or label codes (n, k).
        probabilities: Probabilities of each model for the same images, (n_models, n, k).
        metrics: The metrics.
        n_weights: How many weights of each image will be scored.
    """

    def __init__(self, labels: np.ndarray, probabilities: np.ndarray, metrics: Sequence[Metric], *, n_weights: int) -> None:
        is_large = probabilities.size * n_weights > MAX_EXACT
        found = {metric.name: _influences(metric, labels, probabilities) for metric in metrics} if is_large else {}
        self._by_metric = {name: influences for name, influences in found.items() if influences is not None}

    def has(self, metric: Metric) -> bool:
        """Return whether the scores of a metric are approximated."""
        return metric.name in self._by_metric

    def score(self, metric: Metric, of_images: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Score all models with weights.

        Args:
            metric: A metric for which ``has`` is true.
            of_images: Scores if each image counts once, (n_models,).
            weights: (n, n_block).

        Returns:
            (n_models, n_block).
        """
        total = np.maximum(weights.sum(axis=0, dtype=np.float64), 1)
        return of_images[:, None] + (self._by_metric[metric.name] @ weights) * (len(weights) / total)


def _influences(metric: Metric, labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray | None:
    """Return the influence of each image on each model's score, float32 (n_models, n); None if the metric has none."""
    if metric.of_influence is None:
        return None
    influences = np.empty(probabilities.shape[:2], dtype=np.float32)
    for number, model in enumerate(probabilities):
        of_model = metric.of_influence(labels, model)
        if of_model is None:
            return None
        influences[number] = of_model
    return influences
