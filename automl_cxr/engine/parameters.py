"""Searched hyperparameters: their types, ranges and values."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeGuard

import numpy as np

from automl_cxr.errors import SpaceError

_LARGEST = 1e15  # floats represent larger whole numbers inexactly
_MAX_STEPS = 10**6  # the values of a parameter with steps are kept in memory
Value = int | float | str | bool
Condition = Mapping[str, tuple[Value, ...]]


@dataclass(frozen=True, kw_only=True)
class Float:
    """A real number in [low, high], with a uniform or a log-uniform distribution."""

    name: str
    low: float
    high: float
    step: float | None = None
    log: bool = False
    default: float | None = None
    when: Condition = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_range(self)

    def contains(self, value: Value) -> bool:
        return _is_number(value) and self.low <= value <= self.high and _is_on_grid(self, value)

    def grid(self) -> list[float] | None:
        """Return all values, or None if there are infinitely many."""
        if self.step is None:
            return None
        # 0.0 + 3 * 0.1 exceeds 0.3 by a rounding error.
        return [float(min(self.low + index * self.step, self.high)) for index in range(_n_steps(self) + 1)]

    def sample(self, rng: np.random.Generator) -> float:
        values = self.grid()
        if values is not None:
            return values[rng.integers(len(values))]
        if self.log:
            return float(np.clip(math.exp(rng.uniform(math.log(self.low), math.log(self.high))), self.low, self.high))
        return float(rng.uniform(self.low, self.high))


@dataclass(frozen=True, kw_only=True)
class Int:
    """An integer low, low + step, ..., high."""

    name: str
    low: int
    high: int
    step: int = 1
    log: bool = False
    default: int | None = None
    when: Condition = field(default_factory=dict)

    def __post_init__(self) -> None:
        for key in ("low", "high", "step"):
            if type(getattr(self, key)) is not int:
                raise SpaceError(f"Parameter '{self.name}': {key} must be an integer; received {getattr(self, key)!r}.")
        _check_range(self)

    def contains(self, value: Value) -> bool:
        return type(value) is int and self.low <= value <= self.high and _is_on_grid(self, value)

    def grid(self) -> list[int]:
        """Return all values."""
        return list(range(self.low, self.high + 1, self.step))

    def sample(self, rng: np.random.Generator) -> int:
        if self.log:
            edges = math.log(self.low - 0.5), math.log(self.high + 0.5)
            return int(np.clip(round(math.exp(rng.uniform(*edges))), self.low, self.high))
        return int(rng.choice(self.grid()))


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One of several values without an order."""

    name: str
    values: tuple[Value, ...]
    default: Value | None = None
    when: Condition = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.values:
            raise SpaceError(f"Parameter '{self.name}': a choice needs at least one value; received none.")
        for value in self.values:
            if not isinstance(value, (int, float, str, bool)):
                raise SpaceError(f"Parameter '{self.name}': values must be numbers, strings or booleans; received {value!r}.")
        if len({(type(value), value) for value in self.values}) < len(self.values):
            raise SpaceError(f"Parameter '{self.name}': values must differ; received {list(self.values)}.")
        _check_default(self)

    def contains(self, value: Value) -> bool:
        return any(type(value) is type(known) and value == known for known in self.values)

    def grid(self) -> list[Value]:
        """Return all values."""
        return list(self.values)

    def sample(self, rng: np.random.Generator) -> Value:
        return self.values[rng.integers(len(self.values))]


Parameter = Float | Int | Choice


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= _LARGEST  # false for NaN


def _check_range(parameter: Float | Int) -> None:
    for key in ("low", "high", "step"):
        value = getattr(parameter, key)
        if value is not None and not _is_number(value):
            raise SpaceError(
                f"Parameter '{parameter.name}': {key} must be a finite number of at most {_LARGEST:g}; received {value!r}."
            )
    if parameter.low > parameter.high:
        raise SpaceError(
            f"Parameter '{parameter.name}': low must not exceed high; received {parameter.low} to {parameter.high}."
        )
    if parameter.log and parameter.low <= 0:
        raise SpaceError(f"Parameter '{parameter.name}': log needs low above 0; received {parameter.low}.")
    if parameter.step is not None and parameter.step <= 0:
        raise SpaceError(f"Parameter '{parameter.name}': step must be above 0; received {parameter.step}.")
    if parameter.log and parameter.step not in (None, 1):
        raise SpaceError(f"Parameter '{parameter.name}': log and step cannot be combined. Remove one.")
    if parameter.step is not None and (parameter.high - parameter.low) / parameter.step > _MAX_STEPS:
        raise SpaceError(
            f"Parameter '{parameter.name}': a parameter has at most {_MAX_STEPS:,} steps; received {parameter.low} to "
            f"{parameter.high} in steps of {parameter.step}. Increase step, or use a float without step."
        )
    if not _is_on_grid(parameter, parameter.high):
        last = parameter.low + _n_steps(parameter) * parameter.step  # type: ignore[operator]
        raise SpaceError(
            f"Parameter '{parameter.name}': high must lie on the grid of steps from low; received {parameter.high}. "
            f"Use {last:g}."
        )
    _check_default(parameter)


def _check_default(parameter: Parameter) -> None:
    if parameter.default is not None and not parameter.contains(parameter.default):
        raise SpaceError(f"Parameter '{parameter.name}': the default {parameter.default!r} is not one of its values.")


def _n_steps(parameter: Float | Int) -> int:
    """Return the number of whole steps from low to high; the tolerance allows for rounding errors such as 0.1 + 0.2."""
    return math.floor((parameter.high - parameter.low) / parameter.step + 1e-9)  # type: ignore[operator]


def _is_on_grid(parameter: Float | Int, value: float) -> bool:
    if parameter.step is None:
        return True
    steps = (value - parameter.low) / parameter.step
    return math.isclose(steps, round(steps), abs_tol=1e-6)
