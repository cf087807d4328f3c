"""Search spaces as data: one description that every search library is translated from.

The TOML language::

    family = "scratch"             # a bare value fixes a hyperparameter
    [dense_units]                  # a table searches one
    type = "int"
    low = 1024
    high = 4096
    step = 512                     # a grid anchored at low; high is included
    default = 2560                 # the defaults together are the space's preset
    [loss]
    type = "choice"
    values = ["ce", "focal"]
    [focal_gamma]
    type = "float"
    low = 0.5
    high = 5.0
    when = { loss = ["focal"] }    # parents stand above; an inactive name is absent from a point

The same may stand in a larger document as its table ``[space]``.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, TypeGuard

import numpy as np

from automl_cxr.errors import SpaceError, UnknownNameError

Value = int | float | str | bool
Condition = Mapping[str, tuple[Value, ...]]


@dataclass(frozen=True, kw_only=True)
class Float:
    """A real number in [low, high], uniform, or uniform in its logarithm."""

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
        """List every value, or None where there are infinitely many."""
        if self.step is None:
            return None
        # 0.0 + 3 * 0.1 is a little more than 0.3.
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
    """A whole number low, low + step, ..., high."""

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
                raise SpaceError(f"Parameter '{self.name}': {key} must be a whole number; received {getattr(self, key)!r}.")
        _check_range(self)

    def contains(self, value: Value) -> bool:
        return type(value) is int and self.low <= value <= self.high and _is_on_grid(self, value)

    def grid(self) -> list[int]:
        """List every value."""
        return list(range(self.low, self.high + 1, self.step))

    def sample(self, rng: np.random.Generator) -> int:
        if self.log:
            edges = math.log(self.low - 0.5), math.log(self.high + 0.5)
            return int(np.clip(round(math.exp(rng.uniform(*edges))), self.low, self.high))
        return int(rng.choice(self.grid()))


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One of some values without an order."""

    name: str
    values: tuple[Value, ...]
    default: Value | None = None
    when: Condition = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.values:
            raise SpaceError(f"Parameter '{self.name}': a choice needs at least one value; received none.")
        for value in self.values:
            if not isinstance(value, (int, float, str, bool)):
                raise SpaceError(f"Parameter '{self.name}': values must be numbers, texts or booleans; received {value!r}.")
        if len({(type(value), value) for value in self.values}) < len(self.values):
            raise SpaceError(f"Parameter '{self.name}': values must differ; received {list(self.values)}.")
        _check_default(self)

    def contains(self, value: Value) -> bool:
        return any(type(value) is type(known) and value == known for known in self.values)

    def grid(self) -> list[Value]:
        """List every value."""
        return list(self.values)

    def sample(self, rng: np.random.Generator) -> Value:
        return self.values[rng.integers(len(self.values))]


Parameter = Float | Int | Choice
_TYPES: Mapping[str, type] = {"float": Float, "int": Int, "choice": Choice}


@dataclass(frozen=True)
class Space:
    """Fixed values and searched parameters, in the order of their conditions.

    Attributes:
        name: What messages and the command line call it.
        constants: Values of the hyperparameters that are fixed.
        parameters: The searched ones; a parameter's parents stand above it or among the constants.
        description: One line for people.
    """

    name: str
    constants: Mapping[str, Value]
    parameters: tuple[Parameter, ...]
    description: str = ""

    def __post_init__(self) -> None:
        above: dict[str, Parameter | None] = dict.fromkeys(self.constants)
        for parameter in self.parameters:
            if parameter.name in above:
                raise SpaceError(f"Space '{self.name}': '{parameter.name}' stands there twice. Keep one.")
            for parent, values in parameter.when.items():
                if parent not in above:
                    raise SpaceError(
                        f"Space '{self.name}': '{parameter.name}' depends on '{parent}', which must stand above it; "
                        f"received {', '.join(above) or 'nothing'} above."
                    )
                searched = above[parent]
                impossible = [value for value in values if searched is not None and not searched.contains(value)]
                if impossible:
                    raise SpaceError(
                        f"Space '{self.name}': '{parameter.name}' waits for {parent} = {impossible[0]!r}, "
                        f"which '{parent}' never takes."
                    )
            above[parameter.name] = parameter

    @property
    def names(self) -> tuple[str, ...]:
        """Name every hyperparameter, the fixed ones first."""
        return (*self.constants, *(parameter.name for parameter in self.parameters))

    def resolve(self, choose: Callable[[Parameter], Value]) -> dict[str, Value]:
        """Walk the space from top to bottom and choose a value for each parameter that is active.

        This walk is the meaning of a space: every search library is asked through it.

        Returns:
            The searched values; constants and inactive parameters are absent.
        """
        values: dict[str, Value] = {}
        for parameter in self.parameters:
            known = {**self.constants, **values}
            if all(parent in known and known[parent] in allowed for parent, allowed in parameter.when.items()):
                values[parameter.name] = choose(parameter)
        return values

    def sample(self, rng: np.random.Generator) -> dict[str, Value]:
        """Draw a point, each active parameter by its own distribution."""
        return self.resolve(lambda parameter: parameter.sample(rng))

    @property
    def is_finite(self) -> bool:
        """Whether every parameter has finitely many values."""
        return all(parameter.grid() is not None for parameter in self.parameters)

    def unconditional(self) -> tuple[Parameter, ...]:
        """Give the parameters that every point has a value for."""
        return tuple(
            parameter
            for parameter in self.parameters
            if all(self.constants.get(parent) in values for parent, values in parameter.when.items())
        )

    def points(self) -> Iterator[dict[str, Value]]:
        """Walk through every point, the last parameter changing fastest.

        Raises:
            SpaceError: A parameter has infinitely many values.
        """
        for parameter in self.parameters:
            if parameter.grid() is None:
                raise SpaceError(
                    f"Space '{self.name}' has no end: '{parameter.name}' takes any number from {parameter.low} to "  # type: ignore[union-attr]
                    f"{parameter.high}. Give it a step, or search with a sampler that is no grid."  # type: ignore[union-attr]
                )
        return self._points_below({})

    def _points_below(self, chosen: dict[str, Value]) -> Iterator[dict[str, Value]]:
        """Walk through the points that begin with the chosen values."""
        following: list[Parameter] = []

        def choose(parameter: Parameter) -> Value:
            if parameter.name in chosen:
                return chosen[parameter.name]
            following.append(parameter)
            return parameter.grid()[0]  # type: ignore[index]

        point = self.resolve(choose)
        if not following:
            yield point
        else:
            parameter = following[0]
            for value in parameter.grid():  # type: ignore[union-attr]
                yield from self._points_below({**chosen, parameter.name: value})

    def key(self, values: Mapping[str, Value]) -> Hashable:
        """Give what two points have in common when they are the same, however a library has rounded a step."""
        named = {parameter.name: parameter for parameter in self.parameters}
        return tuple(sorted((name, _key_of(named[name], value)) for name, value in values.items() if name in named))

    def fix(self, values: Mapping[str, Value]) -> Space:
        """Give the same space with some hyperparameters at fixed values, searched before or not."""
        return Space(
            self.name,
            {**self.constants, **values},
            tuple(parameter for parameter in self.parameters if parameter.name not in values),
            self.description,
        )

    def preset(self) -> dict[str, Value] | None:
        """Give the point of the defaults, or None where an active parameter has none."""
        missing: list[str] = []

        def default(parameter: Parameter) -> Value:
            if parameter.default is None:
                missing.append(parameter.name)
                return parameter.grid()[0] if isinstance(parameter, Choice) else parameter.low
            return parameter.default

        values = self.resolve(default)
        return None if missing else values

    def check(self, values: Mapping[str, Value]) -> None:
        """Refuse values that are no point of this space.

        Raises:
            UnknownNameError: A name that the space does not search.
            SpaceError: A value out of range, an active parameter missing or an inactive one present.
        """
        for name in values:
            if name not in self.names:
                raise UnknownNameError("parameter", name, self.names)

        def given(parameter: Parameter) -> Value:
            if parameter.name not in values:
                raise SpaceError(f"Space '{self.name}': a point needs a value for '{parameter.name}'; received none.")
            value = values[parameter.name]
            if not parameter.contains(value):
                raise SpaceError(f"Space '{self.name}': '{parameter.name}' cannot be {value!r}.")
            return value

        active = self.resolve(given)
        inactive = sorted(set(values) - set(active) - set(self.constants))
        if inactive:
            raise SpaceError(f"Space '{self.name}': '{inactive[0]}' is not active at this point and must be left out.")


def _key_of(parameter: Parameter, value: Value) -> str:
    if isinstance(parameter, Float):
        if parameter.step is None:
            return repr(float(value))
        return str(round((float(value) - parameter.low) / parameter.step))
    return f"{type(value).__name__} {value}"  # True is 1 to Python, but another choice


def parse_space(text: str, *, name: str) -> Space:
    """Read a space from TOML.

    Raises:
        SpaceError: The text is not TOML, or a table is no parameter; the message names it.
    """
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SpaceError(f"Space '{name}' is not TOML: {error}.") from error
    description = document.pop("description", "")
    if isinstance(document.get("space"), dict):
        document = document["space"]  # a study file that holds its space
        description = document.pop("description", description)
    constants = {key: value for key, value in document.items() if not isinstance(value, dict)}
    for key, value in constants.items():
        if not isinstance(value, (int, float, str, bool)):
            raise SpaceError(f"Space '{name}': '{key}' must be a number, a text or a boolean; received {value!r}.")
    parameters = tuple(_parse_parameter(key, table) for key, table in document.items() if isinstance(table, dict))
    return Space(name, constants, parameters, description)


def _parse_parameter(name: str, table: Mapping[str, Any]) -> Parameter:
    table = dict(table)
    type_name = table.pop("type", None)
    if type_name is None:
        raise SpaceError(f"Parameter '{name}' needs a type ({', '.join(_TYPES)}); received none.")
    if type_name not in _TYPES:
        raise UnknownNameError(f"type of parameter '{name}'", str(type_name), _TYPES)
    kind = _TYPES[type_name]
    known = [item.name for item in fields(kind) if item.name != "name"]
    for key in table:
        if key not in known:
            raise UnknownNameError(f"setting of parameter '{name}'", key, known)
    if "when" in table:
        table["when"] = _parse_condition(name, table["when"])
    if "values" in table:
        table["values"] = tuple(table["values"]) if isinstance(table["values"], list) else (table["values"],)
    try:
        return kind(name=name, **table)
    except TypeError as error:
        raise SpaceError(f"Parameter '{name}' of type {type_name} lacks a setting: {error}.") from error


def _parse_condition(name: str, condition: Any) -> Condition:
    if not isinstance(condition, dict) or not condition:
        raise SpaceError(
            f"Parameter '{name}': when must name parents and their values, such as {{ loss = [\"focal\"] }}; "
            f"received {condition!r}."
        )
    return {parent: tuple(values) if isinstance(values, list) else (values,) for parent, values in condition.items()}


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _check_range(parameter: Float | Int) -> None:
    for key in ("low", "high", "step"):
        value = getattr(parameter, key)
        if value is not None and not _is_number(value):
            raise SpaceError(f"Parameter '{parameter.name}': {key} must be a finite number; received {value!r}.")
    if parameter.low > parameter.high:
        raise SpaceError(
            f"Parameter '{parameter.name}': low must not exceed high; received {parameter.low} to {parameter.high}."
        )
    if parameter.log and parameter.low <= 0:
        raise SpaceError(f"Parameter '{parameter.name}': log needs low above 0; received {parameter.low}.")
    if parameter.step is not None and parameter.step <= 0:
        raise SpaceError(f"Parameter '{parameter.name}': step must be above 0; received {parameter.step}.")
    if parameter.log and parameter.step not in (None, 1):
        raise SpaceError(f"Parameter '{parameter.name}': log and step exclude each other. Drop one.")
    if not _is_on_grid(parameter, parameter.high):
        last = parameter.low + _n_steps(parameter) * parameter.step  # type: ignore[operator]
        raise SpaceError(
            f"Parameter '{parameter.name}': high must lie on the grid of steps from low; received {parameter.high}. "
            f"Use {last:g}."
        )
    _check_default(parameter)


def _check_default(parameter: Parameter) -> None:
    if parameter.default is not None and not parameter.contains(parameter.default):
        raise SpaceError(f"Parameter '{parameter.name}': the default {parameter.default!r} is none of its values.")


def _n_steps(parameter: Float | Int) -> int:
    """Count the whole steps from low to high; the tolerance forgives 0.1 + 0.2."""
    return math.floor((parameter.high - parameter.low) / parameter.step + 1e-9)  # type: ignore[operator]


def _is_on_grid(parameter: Float | Int, value: float) -> bool:
    if parameter.step is None:
        return True
    steps = (value - parameter.low) / parameter.step
    return math.isclose(steps, round(steps), abs_tol=1e-6)
