"""What an ensemble's weights are chosen by."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from automl_cxr.errors import UsageError
from automl_cxr.scoring.metrics import METRICS, Metric, metric


@dataclass(frozen=True)
class Objective:
    """A metric, with the class without a finding that some metrics need.

    Attributes:
        metric: A row of ``METRICS``.
        normal_class: Index of the class without a finding, or None.
    """

    metric: Metric
    normal_class: int | None = None

    @classmethod
    def named(cls, name: str, *, normal_class: int | None = None) -> Objective:
        """Look the metric up.

        Raises:
            UnknownNameError: There is no such metric.
            UsageError: It needs the class without a finding, and none is known.
        """
        row = metric(name)
        if row.needs_normal_class and normal_class is None:
            raise UsageError(f"The objective '{name}' needs the class without a finding; received none. Name it.")
        return cls(row, normal_class)

    @property
    def name(self) -> str:
        return self.metric.name

    @property
    def sign(self) -> int:
        """1 where more is better, -1 where less is."""
        return 1 if self.metric.direction == "maximize" else -1

    def score(self, labels: np.ndarray, probabilities: np.ndarray) -> float:
        """Give the metric of labels (n,) and probabilities (n, k), in its own direction."""
        return self.metric.function(labels, probabilities, self.normal_class)


MACRO_F1 = Objective(METRICS["macro_f1"])
