"""The type of a metric, for one class of each image or for several findings."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from automl_cxr.errors import UsageError
from automl_cxr.scoring.metric_table import Direction
from automl_cxr.tasks import TASKS

WeightedScore = Callable[[np.ndarray], np.ndarray]
"""A function of weights (n, n_resamples) that returns scores (n_resamples,)."""


@dataclass(frozen=True)
class Metric:
    """A metric: an entry of ``METRICS``, or of ``metrics_for`` the classes of a study.

    Labels are classes (n,), or label codes of several findings (n, k), of which negative ones are not scored. A metric of
    ``METRICS`` takes both, if it is defined for both tasks.

    Attributes:
        name: Name on the command line.
        direction: "maximize" or "minimize".
        description: One line for help texts and reports.
        function: Takes (labels, probabilities (n, k), normal_class or None) and returns the score. Only this function is
            required; the next five make bootstrap intervals and ensembles faster.
        of_weights: Takes (labels, probabilities (n, k), weights (n, n_resamples), normal_class or None), where each image
            counts as often as its weight, and returns scores (n_resamples,); None if there is no such function.
        of_confusions: Takes (confusions (..., k, k), normal_class or None) and returns scores (...), for metrics of classes
            that depend only on the confusion matrix; None for other metrics.
        of_counts: Takes counts (..., k, 4) of decisions on findings (``finding_counts``) and returns scores (...), for metrics
            that depend only on them; None for other metrics.
        of_influence: Takes (labels, probabilities (n, k)) and returns the influence of each image on the score,
            float64 (n,), for intervals of many images (``finding_ranking.auc_influence``); None if there is no such function,
            or if it returns None because a class or finding has too few images.
        prepare: For findings, takes (labels, probabilities (n, k)) and returns the part of ``of_weights`` that depends on
            weights: a function of weights (n, n_resamples) that returns scores (n_resamples,); None if there is no such
            function.
        of_stacks: Takes (labels, probabilities (..., n, k), normal_class or None) and returns scores (...); None if there
            is no such function.
        of_rounded: For findings, takes (labels, probabilities (..., n, k)) and returns approximate scores (...) for searches
            that compare thousands of models; None if there is no such function.
        needs_normal_class: Whether the metric of classes is defined only if ``normal_class`` is known.
        is_raised_by_noise: Whether random errors of small samples make the score larger (``MetricRow``).
        tasks: The tasks for which the metric is defined.
        thresholds: Thresholds of decisions on findings, float64 (k,), for metrics of counts; None if each model's own
            thresholds are chosen on the same labels (``thresholds.choose_thresholds``).
    """

    name: str
    direction: Direction
    description: str
    function: Callable[[np.ndarray, np.ndarray, int | None], float]
    of_weights: Callable[[np.ndarray, np.ndarray, np.ndarray, int | None], np.ndarray] | None = None
    of_confusions: Callable[[np.ndarray, int | None], np.ndarray] | None = None
    of_counts: Callable[[np.ndarray], np.ndarray] | None = None
    of_influence: Callable[[np.ndarray, np.ndarray], np.ndarray | None] | None = None
    prepare: Callable[[np.ndarray, np.ndarray], WeightedScore] | None = None
    of_stacks: Callable[[np.ndarray, np.ndarray, int | None], np.ndarray] | None = None
    of_rounded: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None
    needs_normal_class: bool = False
    is_raised_by_noise: bool = False
    tasks: tuple[str, ...] = TASKS
    thresholds: np.ndarray | None = None

    def score_stack(self, labels: np.ndarray, probabilities: np.ndarray, normal_class: int | None) -> np.ndarray:
        """Score several models: with ``of_stacks`` if the metric has it, otherwise one after another.

        Args:
            labels: True classes, integers (n,), or label codes (n, k).
            probabilities: (..., n, k).
            normal_class: Index of the class without a finding, or None.

        Returns:
            float64 (...).
        """
        if self.of_stacks is not None:
            return self.of_stacks(labels, probabilities, normal_class)
        models = probabilities.reshape(-1, *probabilities.shape[-2:])
        scores = np.array([self.function(labels, model, normal_class) for model in models], dtype=np.float64)
        return scores.reshape(probabilities.shape[:-2])

    def score_weighted(
        self, labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray, normal_class: int | None
    ) -> np.ndarray:
        """Score one model where each image counts several times or not at all.

        Uses ``of_weights`` if the metric has it, otherwise the plain function on repeated images, once for each column of
        weights.

        Args:
            labels: True classes, integers (n,), or label codes (n, k).
            probabilities: (n, k).
            weights: How often each image counts, whole numbers (n, n_resamples).
            normal_class: Index of the class without a finding, or None.

        Returns:
            float64 (n_resamples,); NaN where no image counts.
        """
        if self.of_weights is not None:
            return self.of_weights(labels, probabilities, weights, normal_class)
        rows = (np.repeat(np.arange(len(labels)), counts) for counts in weights.T.astype(np.int64))
        scores = [self.function(labels[row], probabilities[row], normal_class) if len(row) else np.nan for row in rows]
        return np.array(scores, dtype=np.float64)

    def require_normal_class(self, normal_class: int | None, n_classes: int) -> None:
        """Check that a metric which needs a normal class has a valid one.

        Raises:
            UsageError: The metric needs a normal class and has none, or the class does not exist.
        """
        if normal_class is not None and not 0 <= normal_class < n_classes:
            raise UsageError(f"The normal class must be from 0 to {n_classes - 1}. Received {normal_class}.")
        if self.needs_normal_class and normal_class is None:
            raise UsageError(f"Metric '{self.name}' requires a normal class. Received none. Name it with --normal-class.")


def load_function(path: str, parameters: Mapping[str, Any]) -> Callable[..., Any]:
    """Import a function that a row of the table names as "module:function", and bind its keyword arguments."""
    module, name = path.split(":")
    return functools.partial(getattr(importlib.import_module(f"automl_cxr.scoring.{module}"), name), **parameters)
