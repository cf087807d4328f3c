"""Objectives and constraints of a search: metrics of the validation part, and costs of a network."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from automl_cxr.errors import UnknownNameError, UsageError
from automl_cxr.scoring.intervals import named_metric
from automl_cxr.scoring.metric_table import CLASS_METRICS, Direction
from automl_cxr.scoring.metrics import METRICS, check_defined
from automl_cxr.scoring.underdiagnosis import FNFR
from automl_cxr.scoring.worst_group import WorstGroup
from automl_cxr.tasks import MULTICLASS, MULTILABEL

_REQUIREMENT = re.compile(r"\s*(?P<name>[^<>=]+?)\s*(?P<relation><=|>=)\s*(?P<limit>\S+)\s*")
_VIOLATION_OF_NAN = 1.0  # for an undefined value, such as a rate over no image


@dataclass(frozen=True)
class Cost:
    """One row of ``COSTS``; lower is better.

    Attributes:
        name: Name on the command line.
        description: One line for help texts.
        is_known_before_training: Whether the configuration alone determines the cost.
    """

    name: str
    description: str
    is_known_before_training: bool


_ROWS = (
    Cost("parameters", "number of parameters of the network", True),
    Cost("multiply_adds", "multiplications by a parameter for one image", True),
    Cost("weight_bytes", "size of the weights in memory in bytes", True),
    Cost("latency", "milliseconds for each image, measured after training on the machine of the trial", False),
)
COSTS: Mapping[str, Cost] = MappingProxyType({row.name: row for row in _ROWS})


def direction_of(name: str) -> Direction:
    """Return the direction of a metric or cost. Metrics of one class, such as auc_Effusion, are maximised.

    The direction of the score of the worst group (``worst_group``) is that of its metric.

    Raises:
        UnknownNameError: There is no such metric or cost.
    """
    worst = WorstGroup.parse(name)
    if worst is not None and worst.metric not in COSTS:
        return direction_of(worst.metric)
    if name in COSTS:
        return "minimize"
    if name in METRICS:
        return METRICS[name].direction
    if is_metric_of_class(name):
        return "maximize"
    raise UnknownNameError("metric or cost", name, (*METRICS, *COSTS))


def is_metric_of_class(name: str) -> bool:
    """Return whether a name is that of a metric of one class or finding, ``<kind>_<class>``; the class may not exist."""
    return name not in METRICS and any(name.startswith(f"{kind}_") and name != f"{kind}_" for kind in CLASS_METRICS)


def check_objectives(names: Sequence[str]) -> tuple[str, ...]:
    """Refuse objectives that cannot be optimised together. ``check_for_data`` also compares them with a data set.

    Raises:
        UnknownNameError: There is no such metric or cost.
        UsageError: There is no objective, one is named twice, or the first is a cost.
    """
    if not names:
        raise UsageError("A study needs at least one objective; received none. Name a metric, such as macro_f1.")
    for name in names:
        direction_of(name)
    if len(set(names)) < len(names):
        raise UsageError(f"Objectives must differ; received {', '.join(names)}. Name each one once.")
    if names[0] in COSTS:
        raise UsageError(
            f"The first objective selects the best epoch of a trial, so it must be a metric; received the cost '{names[0]}'. "
            f"Name a metric before it, such as --objective macro_f1 --objective {names[0]}."
        )
    if WorstGroup.parse(names[0]) is not None:
        raise UsageError(
            "The first objective selects the best epoch of a trial, and groups are scored after training only; received "
            f"'{names[0]}'. Name a metric before it, such as --objective macro_f1 --objective {names[0]}, or use --require."
        )
    return tuple(names)


def check_for_data(names: Sequence[str], *, task: str, classes: Sequence[str]) -> None:
    """Refuse metrics that do not exist for a data set.

    Args:
        names: Names of metrics and costs: of objectives, and of requirements.
        task: The task, a name in ``tasks.TASKS``.
        classes: Names of the classes or findings.

    Raises:
        UnknownNameError: There is no such class or finding.
        UsageError: A metric is not defined for the task.
    """
    for name in names:
        worst = WorstGroup.parse(name)
        if worst is not None:
            if not (worst.metric == FNFR and task == MULTILABEL):  # defined in groups of findings
                check_for_data([worst.metric], task=task, classes=classes)
        elif name in METRICS:
            check_defined(name, task)
        elif name not in COSTS:
            of_classes = [f"{kind}_{one}" for kind in CLASS_METRICS for one in classes]
            if name not in of_classes:
                raise UnknownNameError("metric", name, (*METRICS, *of_classes))


def needs_normal_class(name: str, *, task: str = MULTICLASS) -> bool:
    """Return whether a metric or cost is defined only if there is a class without a finding; never for findings."""
    worst = WorstGroup.parse(name)
    metric = name if worst is None else worst.metric
    return task == MULTICLASS and metric in METRICS and METRICS[metric].needs_normal_class


def measure(
    name: str,
    labels: np.ndarray,
    probabilities: np.ndarray,
    *,
    normal_class: int | None,
    costs: Mapping[str, float],
    classes: Sequence[str] = (),
) -> float:
    """Compute a metric of predictions, or return a known cost; NaN for a cost that is not known yet.

    Args:
        name: A name in ``METRICS`` or ``COSTS``, or a metric of one of the classes.
        labels: True classes, integers (n,), or label codes (n, k).
        probabilities: (n, k).
        normal_class: Index of the class without a finding, or None.
        costs: The known costs, and the scores of worst groups, by name.
        classes: Names of the classes or findings, for metrics of one of them.

    Raises:
        UnknownNameError: There is no such metric or cost.
    """
    if name in COSTS or WorstGroup.parse(name) is not None:
        return float(costs.get(name, float("nan")))
    if name in METRICS:
        return METRICS[name].function(labels, probabilities, normal_class)
    task = MULTILABEL if labels.ndim == 2 else MULTICLASS
    return named_metric(name, classes, normal_class, task=task).function(labels, probabilities, normal_class)


@dataclass(frozen=True)
class Requirement:
    """A constraint on trials, such as parameters<=10e6.

    Attributes:
        name: Name of a metric or a cost, or of the score of the worst group.
        relation: "<=" or ">=".
        limit: The bound; above 0 for a cost.
    """

    name: str
    relation: str
    limit: float

    @classmethod
    def parse(cls, text: str) -> Requirement:
        """Parse a requirement from the command line.

        Raises:
            UnknownNameError: There is no such metric or cost.
            UsageError: The text is not a valid bound.
        """
        match = _REQUIREMENT.fullmatch(text)
        try:
            limit = float(match["limit"]) if match else math.nan
        except ValueError:
            limit = math.nan
        if match is None or not math.isfinite(limit):
            raise UsageError(
                "A requirement is written like parameters<=10e6, fnfr<=0.05, auc_Effusion>=0.8 or worst:sex:fnfr<=0.1; "
                f"received '{text}'."
            )
        direction_of(match["name"])
        if match["name"] in COSTS and limit <= 0:
            raise UsageError(f"A bound on {match['name']} must be above 0; received '{text}'.")
        return cls(match["name"], match["relation"], limit)

    def __str__(self) -> str:
        return f"{self.name}{self.relation}{self.limit:.15g}"

    @property
    def is_known_before_training(self) -> bool:
        """Whether the configuration alone determines if the requirement is met."""
        return self.name in COSTS and COSTS[self.name].is_known_before_training

    def violation(self, value: float) -> float:
        """Return the distance of a value beyond the bound: above 0 if it violates the requirement, otherwise at most 0.

        Costs are compared by their logarithms, because they differ by orders of magnitude; metrics by their difference.
        """
        if math.isnan(value):
            return _VIOLATION_OF_NAN
        excess = math.log(max(value, 1e-9) / self.limit) if self.name in COSTS else value - self.limit
        return excess if self.relation == "<=" else -excess

    def value_of(self, violation: float) -> float:
        """Return the value that has a violation; the inverse of ``violation`` for defined values."""
        excess = violation if self.relation == "<=" else -violation
        return self.limit * math.exp(excess) if self.name in COSTS else self.limit + excess

    def explain(self, value: float) -> str:
        """Describe the violation by a value, such as "parameters 12,345,678 > 10,000,000"."""
        return f"{self.name} {_format_number(value)} {'>' if self.relation == '<=' else '<'} {_format_number(self.limit)}"


def _format_number(value: float) -> str:
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:,.4g}"
