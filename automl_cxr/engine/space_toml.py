"""Search spaces as TOML.

The format::

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
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from automl_cxr.engine.parameters import Choice, Condition, Float, Int, Parameter, Value
from automl_cxr.engine.space import Space
from automl_cxr.errors import SpaceError, UnknownNameError
from automl_cxr.text_records import parse_toml

_TYPES: Mapping[str, type] = {"float": Float, "int": Int, "choice": Choice}


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
