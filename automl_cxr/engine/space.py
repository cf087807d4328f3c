"""Search spaces: one description, which is converted to each search library.

The TOML format::

    family = "scratch"             # a plain value fixes a hyperparameter
    [dense_units]                  # a table searches a hyperparameter
    type = "int"
    low = 1024
    high = 4096
    step = 512                     # a grid that starts at low; high is included
    default = 2560                 # all defaults are the preset of the space
    [loss]
    type = "choice"
    values = ["ce", "focal"]
    [focal_gamma]
    type = "float"
    low = 0.5
    high = 5.0
    when = { loss = ["focal"] }    # parents are defined above; an inactive parameter is absent from a point
    [[portfolio]]                  # points that a search evaluates first; omitted parameters have their defaults
    dense_units = 2048

A study file contains the same in its table ``[space]``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeGuard

import numpy as np

from automl_cxr.errors import SpaceError, UnknownNameError
from automl_cxr.text_records import parse_toml

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
_TYPES: Mapping[str, type] = {"float": Float, "int": Int, "choice": Choice}


@dataclass(frozen=True)
class Space:
    """A search space: fixed values and searched parameters.

    Attributes:
        name: Name in messages and on the command line.
        constants: Values of the fixed hyperparameters.
        parameters: The searched parameters; the parents of a parameter are constants or come before it.
        description: One line for users.
        portfolio: Points that a search evaluates first, in this order.
    """

    name: str
    constants: Mapping[str, Value]
    parameters: tuple[Parameter, ...]
    description: str = ""
    portfolio: tuple[Mapping[str, Value], ...] = ()

    def __post_init__(self) -> None:
        defined: dict[str, Parameter | None] = dict.fromkeys(self.constants)
        for parameter in self.parameters:
            if parameter.name in defined:
                raise SpaceError(f"Space '{self.name}': '{parameter.name}' is defined twice. Remove one definition.")
            for parent, values in parameter.when.items():
                if parent not in defined:
                    raise SpaceError(
                        f"Space '{self.name}': '{parameter.name}' depends on '{parent}', which must be defined above it; "
                        f"received {', '.join(defined) or 'nothing'} above."
                    )
                searched = defined[parent]
                impossible = [value for value in values if searched is not None and not searched.contains(value)]
                if impossible:
                    raise SpaceError(
                        f"Space '{self.name}': '{parameter.name}' needs {parent} = {impossible[0]!r}, "
                        f"which is not a value of '{parent}'."
                    )
            defined[parameter.name] = parameter
        for point in self.portfolio:
            self.check(point)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all hyperparameters, the fixed ones first."""
        return (*self.constants, *(parameter.name for parameter in self.parameters))

    def resolve(self, choose: Callable[[Parameter], Value]) -> dict[str, Value]:
        """Choose a value for each active parameter, in the order of the space.

        This method defines which parameters are active; it is used with every search library.

        Returns:
            The searched values, without constants and inactive parameters.
        """
        values: dict[str, Value] = {}
        for parameter in self.parameters:
            known = {**self.constants, **values}
            if all(parent in known and known[parent] in allowed for parent, allowed in parameter.when.items()):
                values[parameter.name] = choose(parameter)
        return values

    def sample(self, rng: np.random.Generator) -> dict[str, Value]:
        """Draw a point, each active parameter from its own distribution."""
        return self.resolve(lambda parameter: parameter.sample(rng))

    @property
    def is_finite(self) -> bool:
        """Whether every parameter has finitely many values."""
        return all(parameter.grid() is not None for parameter in self.parameters)

    def unconditional(self) -> tuple[Parameter, ...]:
        """Return the parameters that are active in every point."""
        return tuple(
            parameter
            for parameter in self.parameters
            if all(self.constants.get(parent) in values for parent, values in parameter.when.items())
        )

    def points(self) -> Iterator[dict[str, Value]]:
        """Iterate over all points; the last parameter changes fastest.

        Raises:
            SpaceError: A parameter has infinitely many values.
        """
        for parameter in self.parameters:
            if parameter.grid() is None:
                raise SpaceError(
                    f"Space '{self.name}' is infinite: '{parameter.name}' can be any number from {parameter.low} to "  # type: ignore[union-attr]
                    f"{parameter.high}. Give it a step, or use a sampler that is not a grid."  # type: ignore[union-attr]
                )
        return self._points_with({})

    def _points_with(self, chosen: dict[str, Value]) -> Iterator[dict[str, Value]]:
        """Iterate over the points that begin with the chosen values."""
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
                yield from self._points_with({**chosen, parameter.name: value})

    def key(self, values: Mapping[str, Value]) -> Hashable:
        """Return a key that is the same for equal points, even if a library rounds a step differently."""
        named = {parameter.name: parameter for parameter in self.parameters}
        return tuple(sorted((name, _key_of(named[name], value)) for name, value in values.items() if name in named))

    def fix(self, values: Mapping[str, Value]) -> Space:
        """Return the same space with some hyperparameters fixed, whether they were searched before or not.

        Points of the portfolio with other values are left out.
        """
        fixed = Space(
            self.name,
            {**self.constants, **values},
            tuple(parameter for parameter in self.parameters if parameter.name not in values),
            self.description,
        )
        agreeing = [point for point in self.portfolio if all(point.get(name, value) == value for name, value in values.items())]
        completed = [fixed.complete({name: value for name, value in point.items() if name not in values}) for point in agreeing]
        return replace(fixed, portfolio=tuple(point for point in completed if point is not None))

    def preset(self) -> dict[str, Value] | None:
        """Return the first point to evaluate: that of the portfolio, else the point of all defaults.

        Returns:
            The point; None if there is no portfolio and an active parameter has no default.
        """
        return dict(self.portfolio[0]) if self.portfolio else self.complete({})

    def complete(self, values: Mapping[str, Value]) -> dict[str, Value] | None:
        """Return the point with these values, and the defaults of the other active parameters.

        Returns:
            The point; None if an active parameter has neither a value nor a default. Values of inactive parameters are left
            out.
        """
        missing: list[str] = []

        def value_or_default(parameter: Parameter) -> Value:
            value = values.get(parameter.name, parameter.default)
            if value is None:
                missing.append(parameter.name)
                return parameter.grid()[0] if isinstance(parameter, Choice) else parameter.low
            return value

        point = self.resolve(value_or_default)
        return None if missing else point

    def check(self, values: Mapping[str, Value]) -> None:
        """Check that values are a point of this space.

        Raises:
            UnknownNameError: A name is not a parameter of the space.
            SpaceError: A value is out of range, an active parameter is missing or an inactive one is present.
        """
        for name in values:
            if name not in self.names:
                raise UnknownNameError("parameter", name, self.names)

        def checked_value(parameter: Parameter) -> Value:
            if parameter.name not in values:
                raise SpaceError(f"Space '{self.name}': a point needs a value for '{parameter.name}'; received none.")
            value = values[parameter.name]
            if not parameter.contains(value):
                raise SpaceError(f"Space '{self.name}': '{parameter.name}' cannot be {value!r}.")
            return value

        active = self.resolve(checked_value)
        inactive = sorted(set(values) - set(active) - set(self.constants))
        if inactive:
            raise SpaceError(f"Space '{self.name}': '{inactive[0]}' is not active at this point. Remove it.")


def _key_of(parameter: Parameter, value: Value) -> str:
    if isinstance(parameter, Float):
        if parameter.step is None:
            return repr(float(value))
        return str(round((float(value) - parameter.low) / parameter.step))
    return f"{type(value).__name__} {value}"  # True == 1 in Python, but they are different choices


def parse_space(text: str, *, name: str) -> Space:
    """Read a space from TOML.

    Raises:
        SpaceError: The text is not TOML, or a table is not a valid parameter.
    """
    try:
        document = parse_toml(text)
    except ValueError as error:
        raise SpaceError(f"Space '{name}' is not TOML: {error}.") from error
    description = document.pop("description", "")
    if isinstance(document.get("space"), dict):
        document = document["space"]  # a study file
        description = document.pop("description", description)
    listed = document.pop("portfolio", [])
    constants = {key: value for key, value in document.items() if not isinstance(value, dict)}
    for key, value in constants.items():
        if not isinstance(value, (int, float, str, bool)):
            raise SpaceError(f"Space '{name}': '{key}' must be a number, a string or a boolean; received {value!r}.")
    parameters = tuple(_parse_parameter(key, table) for key, table in document.items() if isinstance(table, dict))
    space = Space(name, constants, parameters, description)
    return replace(space, portfolio=_parse_portfolio(listed, space)) if listed else space


def to_toml(space: Space) -> str:
    """Write a space as TOML, so that ``parse_space`` reads an equal space."""
    lines = [f"description = {_toml_value(space.description)}"] if space.description else []
    lines += [f"{name} = {_toml_value(value)}" for name, value in space.constants.items()]
    for parameter in space.parameters:
        kind = next(name for name, kind in _TYPES.items() if isinstance(parameter, kind))
        lines += ["", f"[{parameter.name}]", f'type = "{kind}"']
        for item in fields(parameter):
            value = getattr(parameter, item.name)
            if item.name not in ("name", "when") and value != item.default:
                lines.append(f"{item.name} = {_toml_value(value)}")
        if parameter.when:
            condition = ", ".join(f"{parent} = {_toml_value(values)}" for parent, values in parameter.when.items())
            lines.append(f"when = {{ {condition} }}")
    for point in space.portfolio:
        lines += ["", "[[portfolio]]", *(f"{name} = {_toml_value(value)}" for name, value in point.items())]
    return "\n".join(lines) + "\n"


def _toml_value(value: Value | tuple[Value, ...]) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(_toml_value, value))}]"
    if isinstance(value, float):
        return repr(value)
    return json.dumps(value)  # of a string, a boolean or an integer it is TOML as well


def _parse_portfolio(listed: Any, space: Space) -> tuple[Mapping[str, Value], ...]:
    if not isinstance(listed, list) or not all(isinstance(table, dict) for table in listed):
        raise SpaceError(f"Space '{space.name}': portfolio must be a list of tables [[portfolio]]; received {listed!r}.")
    points = []
    for number, table in enumerate(listed, start=1):
        point = space.complete(table)
        if point is None:
            raise SpaceError(f"Space '{space.name}': point {number} of the portfolio lacks a value without a default.")
        space.check({**point, **table})  # raises for a name that is not searched, or not active at this point
        points.append(point)
    return tuple(points)


def _parse_parameter(name: str, table: Mapping[str, Any]) -> Parameter:
    table = dict(table)
    type_name = table.pop("type", None)
    if type_name is None:
        raise SpaceError(f"Parameter '{name}' needs a type ({', '.join(_TYPES)}); received none.")
    if not isinstance(type_name, str) or type_name not in _TYPES:
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
        raise SpaceError(f"Parameter '{name}' of type {type_name} has wrong settings: {error}.") from error


def _parse_condition(name: str, condition: Any) -> Condition:
    if not isinstance(condition, dict) or not condition:
        raise SpaceError(
            f"Parameter '{name}': when must name parents and their values, such as {{ loss = [\"focal\"] }}; "
            f"received {condition!r}."
        )
    return {parent: tuple(values) if isinstance(values, list) else (values,) for parent, values in condition.items()}


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
