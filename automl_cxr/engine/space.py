"""Search spaces: one description, which is converted to each search library. ``space_toml.py`` reads and writes it."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from automl_cxr.engine.parameters import Choice, Float, Parameter, Value
from automl_cxr.errors import SpaceError, UnknownNameError


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
