"""What a search may optimise or require: the metrics of the validation part, and what a network costs."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from automl_cxr.errors import UnknownNameError, UsageError
from automl_cxr.scoring.metrics import METRICS, Direction

_REQUIREMENT = re.compile(r"\s*(?P<name>\w+)\s*(?P<relation><=|>=)\s*(?P<limit>\S+)\s*")
_WITHOUT_A_NUMBER = 1.0  # violation by a figure that is not defined, such as a rate over no image


@dataclass(frozen=True)
class Cost:
    """One row of ``COSTS``; less is better.

    Attributes:
        name: What users write.
        description: One line for people.
        is_known_before_training: Whether the configuration alone decides it.
    """

    name: str
    description: str
    is_known_before_training: bool


_ROWS = (
    Cost("parameters", "numbers that the network holds", True),
    Cost("multiply_adds", "multiplications with a parameter for one image", True),
    Cost("weight_bytes", "bytes of the weights in memory", True),
    Cost("latency", "milliseconds an image, measured after training where the trial ran", False),
)
COSTS: Mapping[str, Cost] = MappingProxyType({row.name: row for row in _ROWS})


def direction_of(name: str) -> Direction:
    """Tell whether more or less of a metric or cost is better.

    Raises:
        UnknownNameError: There is no such metric or cost.
    """
    if name in COSTS:
        return "minimize"
    if name in METRICS:
        return METRICS[name].direction
    raise UnknownNameError("metric or cost", name, (*METRICS, *COSTS))


def check_objectives(names: Sequence[str]) -> tuple[str, ...]:
    """Refuse objectives that cannot be optimised together.

    Raises:
        UnknownNameError: There is no such metric or cost.
        UsageError: One is named twice, or the first is a cost.
    """
    for name in names:
        direction_of(name)
    if len(set(names)) < len(names):
        raise UsageError(f"Objectives must differ; received {', '.join(names)}. Name each once.")
    if names[0] in COSTS:
        raise UsageError(
            f"The first objective chooses a trial's epoch, so it must be a metric; received the cost '{names[0]}'. "
            f"Name a metric before it, such as --objective macro_f1 --objective {names[0]}."
        )
    return tuple(names)


def needs_normal_class(name: str) -> bool:
    """Tell whether a metric or cost is only defined with a class without a finding."""
    return name in METRICS and METRICS[name].needs_normal_class


def measure(
    name: str,
    labels: np.ndarray,
    probabilities: np.ndarray,
    *,
    normal_class: int | None,
    costs: Mapping[str, float],
) -> float:
    """Give a metric of predictions, or a cost from among those that are known; NaN where it is not known yet.

    Args:
        name: A name in ``METRICS`` or ``COSTS``.
        labels: True classes, integers (n,).
        probabilities: (n, k).
        normal_class: Index of the class without a finding, or None.
        costs: The known costs by name.
    """
    if name in COSTS:
        return float(costs.get(name, float("nan")))
    return METRICS[name].function(labels, probabilities, normal_class)


@dataclass(frozen=True)
class Requirement:
    """A bound that a trial must keep, such as parameters<=10e6.

    Attributes:
        name: Of a metric or a cost.
        relation: "<=" or ">=".
        limit: The bound; of a cost above 0.
    """

    name: str
    relation: str
    limit: float

    @classmethod
    def parse(cls, text: str) -> Requirement:
        """Read a requirement as it is typed.

        Raises:
            UnknownNameError: There is no such metric or cost.
            UsageError: It is no bound.
        """
        match = _REQUIREMENT.fullmatch(text)
        try:
            limit = float(match["limit"]) if match else math.nan
        except ValueError:
            limit = math.nan
        if match is None or not math.isfinite(limit):
            raise UsageError(f"A requirement is written like parameters<=10e6 or fnfr<=0.05; received '{text}'.")
        direction_of(match["name"])
        if match["name"] in COSTS and limit <= 0:
            raise UsageError(f"A bound on {match['name']} must be above 0; received '{text}'.")
        return cls(match["name"], match["relation"], limit)

    def __str__(self) -> str:
        return f"{self.name}{self.relation}{self.limit:.15g}"

    @property
    def is_known_before_training(self) -> bool:
        """Whether the configuration alone decides if it is met."""
        return self.name in COSTS and COSTS[self.name].is_known_before_training

    def violation(self, value: float) -> float:
        """Tell how far a value is beyond the bound: above 0 where it is, at most 0 where the requirement is met.

        Costs, which spread over orders of magnitude, are compared by their logarithms, metrics by their difference.
        """
        if math.isnan(value):
            return _WITHOUT_A_NUMBER
        excess = math.log(max(value, 1e-9) / self.limit) if self.name in COSTS else value - self.limit
        return excess if self.relation == "<=" else -excess

    def explain(self, value: float) -> str:
        """Say how a value breaks it, such as "parameters 12,345,678 > 10,000,000"."""
        return f"{self.name} {_written(value)} {'>' if self.relation == '<=' else '<'} {_written(self.limit)}"


def _written(value: float) -> str:
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:,.4g}"
