"""The metric for which ensemble weights are optimised."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from automl_cxr.errors import UsageError
from automl_cxr.scoring.intervals import named_metric
from automl_cxr.scoring.metric_base import Metric
from automl_cxr.scoring.metrics import METRICS, check_defined
from automl_cxr.tasks import MULTICLASS, MULTILABEL

LOG_LOSS = "log_loss"
"""Name of the one metric that ensembles compute in bulk without ``Metric.of_confusions``."""


@dataclass(frozen=True)
class Objective:
    """A metric, with the index of the normal class, which some metrics need.

    Attributes:
        metric: A row of ``METRICS``.
        normal_class: Index of the class without a finding, or None.
    """

    metric: Metric
    normal_class: int | None = None

    @classmethod
    def named(
        cls, name: str, *, normal_class: int | None = None, task: str = MULTICLASS, classes: Sequence[str] = ()
    ) -> Objective:
        """Create the objective for a metric's name.

        Args:
            name: Name of the metric, or of a metric of one of the classes.
            normal_class: Index of the class without a finding, or None.
            task: The task, a name in ``tasks.TASKS``.
            classes: Names of the classes or findings, for metrics of one of them.

        Raises:
            UnknownNameError: There is no such metric.
            UsageError: The metric is not defined for the task, or needs the class without a finding, and none is known.
        """
        if task == MULTILABEL or name not in METRICS:
            return cls(named_metric(name, classes, normal_class, task=task))
        check_defined(name, task)
        row = METRICS[name]
        if row.needs_normal_class and normal_class is None:
            raise UsageError(
                f"The objective '{name}' needs the class without a finding. Received none. Name it with --normal-class."
            )
        return cls(row, normal_class)

    @property
    def name(self) -> str:
        return self.metric.name

    @property
    def sign(self) -> int:
        """1 if higher is better, -1 if lower is better."""
        return 1 if self.metric.direction == "maximize" else -1

    def score(self, labels: np.ndarray, probabilities: np.ndarray) -> float:
        """Compute the metric of labels, (n,) or (n, k), and probabilities (n, k), with the metric's own sign."""
        return self.metric.function(labels, probabilities, self.normal_class)


MACRO_F1 = Objective(METRICS["macro_f1"])
