"""The metric that ranks the pairs of a splice search: the objective of the study that trains the best ones."""

from __future__ import annotations

from dataclasses import dataclass

from automl_cxr.scoring.intervals import Interval, bootstrap_interval, paired_difference
from automl_cxr.scoring.objectives import direction_of, measure
from automl_cxr.scoring.predictions import Predictions


@dataclass(frozen=True)
class Ranking:
    """A metric with the settings that it needs.

    Attributes:
        metric: Name of the metric.
        normal_class: Index of the class without a finding, or None.
        seed: Seed of the bootstrap of its intervals.
    """

    metric: str = "macro_f1"
    normal_class: int | None = None
    seed: int = 0

    @property
    def is_maximised(self) -> bool:
        """Whether higher values are better."""
        return direction_of(self.metric) == "maximize"

    def score(self, predictions: Predictions) -> float:
        """Compute the metric; NaN if it is undefined."""
        return measure(
            self.metric,
            predictions.labels,
            predictions.probabilities,
            normal_class=self.normal_class,
            costs={},
            classes=predictions.classes,
        )

    def interval(self, predictions: Predictions) -> Interval:
        """Compute the 95 % bootstrap interval by patient."""
        return bootstrap_interval(predictions, metric=self.metric, seed=self.seed, normal_class=self.normal_class)

    def difference(self, one: Predictions, other: Predictions) -> tuple[float, Interval]:
        """Compute the score of ``one`` minus that of ``other``, and the paired interval."""
        return paired_difference(one, other, metric=self.metric, seed=self.seed, normal_class=self.normal_class)
