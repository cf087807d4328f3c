"""Reading of TOML, JSON and records in JSON. Invalid content of any kind raises ValueError, whatever the parser raises."""

from __future__ import annotations

import dataclasses
import json
import tomllib
import types
import typing
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

_Check = Callable[[Any], Any]


def parse_toml(text: str) -> dict[str, Any]:
    """Parse TOML.

    Raises:
        ValueError: The text is not TOML, or its values are nested too deeply.
    """
    try:
        return tomllib.loads(text)
    except RecursionError as error:
        raise ValueError("its values are nested too deeply") from error


def parse_json(text: str | bytes) -> Any:
    """Parse JSON.

    Raises:
        ValueError: The text is not JSON, or its values are nested too deeply.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("its values are nested too deeply") from error


def parse_json_object(text: str | bytes) -> dict[str, Any]:
    """Parse a JSON object.

    Raises:
        ValueError: The text is not a JSON object.
    """
    values = parse_json(text)
    if not isinstance(values, dict):
        raise ValueError(f"it must contain a JSON object; received {_shorten(values)}")
    return values


def build_record(record_type: Any, values: Any) -> Any:
    """Convert parsed JSON to a dataclass, or to another type, and check the type of each value.

    Args:
        record_type: A dataclass, a tuple or mapping of types, a union, text, int, float, bool or None, as in the annotations of
            the fields of dataclasses. JSON lists become tuples, and whole numbers are accepted as floats.
        values: Parsed JSON.

    Raises:
        ValueError: A value is missing, unknown or of another type.
    """
    return _checker(record_type)(values)


@cache
def _checker(expected: Any) -> _Check:
    """Return the function that checks and converts values of a type."""
    if dataclasses.is_dataclass(expected):
        return _record_checker(expected)
    origin, arguments = typing.get_origin(expected), typing.get_args(expected)
    if origin in (typing.Union, types.UnionType):
        return _union_checker(arguments)
    if origin is tuple:
        return _tuple_checker(arguments)
    if origin is not None and issubclass(origin, Mapping):
        return _mapping_checker(*arguments)
    return _type_checker(expected)


def _type_checker(expected: type) -> _Check:
    accepted = (int, float) if expected is float else (expected,)

    def check(value: Any) -> Any:
        if type(value) not in accepted:
            raise ValueError(f"{_shorten(value)} is not of type {expected.__name__}")
        return value

    return check


def _union_checker(members: tuple[Any, ...]) -> _Check:
    checks = [_checker(member) for member in members]

    def check(value: Any) -> Any:
        for number, one in enumerate(checks, start=1):
            try:
                return one(value)
            except ValueError:
                if number == len(checks):
                    raise
        raise AssertionError("a union has members")

    return check


def _tuple_checker(members: tuple[Any, ...]) -> _Check:
    is_variable = members[-1] is Ellipsis
    checks = [_checker(member) for member in (members[:1] if is_variable else members)]

    def check(value: Any) -> tuple[Any, ...]:
        if not isinstance(value, list) or not (is_variable or len(value) == len(checks)):
            raise ValueError(f"{_shorten(value)} is not a list" + ("" if is_variable else f" of {len(checks)} values"))
        return (
            tuple(map(checks[0], value)) if is_variable else tuple(one(item) for one, item in zip(checks, value, strict=True))
        )

    return check


def _mapping_checker(key_type: Any, value_type: Any) -> _Check:
    check_one = _checker(value_type)

    def check(value: Any) -> dict[Any, Any]:
        if not isinstance(value, dict):
            raise ValueError(f"{_shorten(value)} is not a JSON object")
        return {key_type(key): check_one(one) for key, one in value.items()}  # keys of JSON objects are text

    return check


def _record_checker(record_class: Any) -> _Check:
    hints = typing.get_type_hints(record_class)
    fields = dataclasses.fields(record_class)
    checks = {one.name: _checker(hints[one.name]) for one in fields}
    required = [one.name for one in fields if one.default is one.default_factory is dataclasses.MISSING]

    def check(value: Any) -> Any:
        if not isinstance(value, dict):
            raise ValueError(f"{_shorten(value)} is not a JSON object")
        wrong = next((f"'{name}' is missing" for name in required if name not in value), None)
        wrong = wrong or next((f"'{name}' is unknown" for name in value if name not in checks), None)
        if wrong:
            raise ValueError(wrong)
        return record_class(**{name: _named(name, checks[name], one) for name, one in value.items()})

    return check


def _named(name: str, check: _Check, value: Any) -> Any:
    try:
        return check(value)
    except ValueError as error:
        raise ValueError(f"'{name}': {error}") from error


def _shorten(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
