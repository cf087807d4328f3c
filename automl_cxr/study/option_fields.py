"""The description of an option, stored as metadata of a dataclass field."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Literal

from automl_cxr.errors import UsageError

Kind = Literal["text", "path", "int", "int_or_auto", "float", "duration", "bytes", "names", "settings", "flag"]


class Scope(StrEnum):
    """The object to which an option applies."""

    STUDY = "study"  # part of the study's specification, which does not change when the study is continued
    BUDGET = "budget"  # limits of this search only
    EXECUTION = "execution"  # how trials are run; has no effect on their results
    LOCATION = "location"  # where studies are stored


class Section(StrEnum):
    """Headings in the help text of a command."""

    DATA = "Data and split"
    SEARCH = "Search"
    TRAINING = "Training"
    BUDGET = "Budget of this search"
    EXECUTION = "Execution"
    LOCATION = "Location of studies"


_SCOPES = {Section.BUDGET: Scope.BUDGET, Section.EXECUTION: Scope.EXECUTION, Section.LOCATION: Scope.LOCATION}


@dataclass(frozen=True, kw_only=True)
class Option:
    """Description of one option: the metadata of a field.

    Attributes:
        help: One or two plain sentences, with the unit. In Python help, ``--some-option`` is replaced by ``some_option``.
        section: Heading of the option in the help text.
        scope: The object to which the option applies.
        name: Name of the field, which is the Python keyword.
        flag: Long option without its hyphens, which is also the key in study files.
        hidden_flags: Former names of the flag. The command line and study files still accept them.
        kind: Type of the value on the command line.
        low: Lowest number accepted on the command line, or None.
        high: Highest number accepted on the command line, or None.
        above_zero: Whether Python values must also be above 0.
        metavar: Placeholder of the value in the help text; None for that of ``kind``.
        choices: Names that the option accepts, if they form a fixed list.
        is_repeatable: Whether the option can be given several times.
        example: A hint on the format of the value, for the command line only.
        setting: Field of ``StudySpec`` that stores the value; empty if the value needs separate processing.
        default: Value that is used when the option is not given.
        default_text: Description of the default if ``default`` is None.
        in_study_files: Whether a study file may set the option.
    """

    help: str
    section: Section
    scope: Scope
    name: str = ""
    flag: str = ""
    hidden_flags: tuple[str, ...] = ()
    kind: Kind = "text"
    low: float | None = None
    high: float | None = None
    above_zero: bool = False
    metavar: str | None = None
    choices: tuple[str, ...] = ()
    is_repeatable: bool = False
    example: str = ""
    setting: str = ""
    default: Any = None
    default_text: str = ""
    in_study_files: bool = True

    @property
    def command_line_help(self) -> str:
        """Help text of the command line option."""
        repeatable = "Repeatable." if self.is_repeatable else ""
        return "  ".join(filter(None, (" ".join(filter(None, (self.help, self.example, repeatable))), self._default_hint)))

    def python_help(self, keywords: Mapping[str, str]) -> str:
        """Return the help text of the Python keyword.

        Args:
            keywords: Keyword of each flag that the text may mention.
        """
        text = re.sub(r"--([a-z][a-z-]+)", lambda match: f"``{keywords[match[1]]}``", self.help)
        unit = {"duration": "In seconds. Text such as '45m' is accepted, too.", "bytes": "In bytes."}.get(self.kind)
        return " ".join(filter(None, (text, unit, self._default_hint)))

    @property
    def _default_hint(self) -> str:
        has_default = self.default is not False and self.default not in (None, (), {})
        text = self.default_text or (_format_default(self.default) if has_default else "")
        return f"[default: {text}]" if text else ""


def _format_default(default: Any) -> str:
    return ", ".join(map(str, default)) if isinstance(default, tuple) else str(default)


def parse_duration(text: str) -> float:
    """Convert a duration, such as 45s, 90m, 2h, 1h30m or a number of seconds, to seconds.

    Raises:
        UsageError: The text is not a duration above 0.
    """
    cleaned = text.strip().lower()
    match = re.fullmatch(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s?)?", cleaned)
    if not cleaned or match is None:
        raise UsageError(f"a time is typed like 45s, 90m, 2h or 1h30m; received {text!r}.")
    hours, minutes, seconds = (float(part or 0) for part in match.groups())
    total = hours * 3600 + minutes * 60 + seconds
    if total <= 0:
        raise UsageError(f"a time must be above 0; received {text!r}.")
    return total


def option_field(help: str, section: Section, *, value: Any = None, **details: Any) -> Any:  # noqa: A002 - as in click
    """Create a dataclass field for an option.

    Args:
        help: See ``Option.help``.
        section: See ``Option.section``; it determines the scope.
        value: Value of the field when the option is not given. None if the default depends on other values, such as those
            of an existing study.
        details: Further attributes of ``Option``.
    """
    default = details.pop("default", value)
    option = Option(help=help, section=section, scope=_SCOPES.get(section, Scope.STUDY), default=default, **details)
    return field(default=value, metadata={"option": option})


def inherited_field(options_class: type[Any], name: str, **changes: Any) -> Any:
    """Create a field with the metadata of a field of another option dataclass.

    Args:
        options_class: The other dataclass.
        name: Name of the field.
        changes: Attributes of ``Option`` that differ, and ``value``, the value of the field when the option is not given.
    """
    other = next(item for item in dataclasses.fields(options_class) if item.name == name)
    option: Option = other.metadata["option"]
    value = changes.pop("value", other.default)
    if value is not None:
        changes.setdefault("default", value)
    return field(default=value, metadata={"option": replace(option, **changes)})


class OptionSet:
    """Checks that the option dataclasses share."""

    def __post_init__(self) -> None:
        for option in options_of(type(self)):
            value = getattr(self, option.name)
            if option.kind == "duration" and isinstance(value, str):
                value = parse_duration(value)
                object.__setattr__(self, option.name, value)
            if value is not None and option.above_zero and not value > 0:
                raise UsageError(f"{option.name} must be above 0; received {value}.")
            if option.kind == "path" and value is not None:
                object.__setattr__(self, option.name, os.fspath(value))
            if option.is_repeatable and option.kind == "text":  # one name is a list of one name
                object.__setattr__(self, option.name, ((value,) if isinstance(value, str) else tuple(value or ())) or None)


def options_of(options_class: type[Any]) -> tuple[Option, ...]:
    """List the options of a dataclass in the order of its fields, with their names and flags."""
    listed = []
    for item in dataclasses.fields(options_class):
        option: Option = item.metadata["option"]
        listed.append(replace(option, name=item.name, flag=option.flag or item.name.replace("_", "-")))
    return tuple(listed)
