"""Options that several commands share, and the types of their values."""

from __future__ import annotations

import csv
from collections.abc import Callable, Collection
from typing import Any, TypeVar

import click

from automl_cxr.cli.sections import SectionedOption
from automl_cxr.data.data_options import DataOptions
from automl_cxr.errors import UsageError
from automl_cxr.hardware import parse_bytes
from automl_cxr.study.option_fields import Option, options_of, parse_duration
from automl_cxr.study.options import AUTO, SearchOptions

_debug = False
CommandT = TypeVar("CommandT", bound=Callable[..., Any])


def is_debug() -> bool:
    """Return whether --debug was given."""
    return _debug


def _set_debug(_context: click.Context, _parameter: click.Parameter, is_set: bool) -> None:
    global _debug
    _debug = _debug or is_set


debug_option = click.option(
    "--debug", is_flag=True, expose_value=False, is_eager=True, callback=_set_debug, help="Show the traceback of an error."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
trial_option = click.option(
    "--trial",
    type=click.IntRange(0),
    help="Number of a trial of the study  [default: the recommended classifier, else the best trial]",
)
mirrored_option = click.option(
    "--mirrored", is_flag=True, help="Average the probabilities over an image and its mirror image, in twice the time."
)
moved_data_option = click.option(
    "--data", metavar="DIR", help="Folder or CSV table of the study's images, if they were moved  [default: as in the study]"
)

class_map_option = click.option(
    "--class-map",
    metavar="A=B,...|FILE",
    help="Names of the classes of external sites in the study, such as 'COVID-19=covid,No finding=no_finding'; 'Other=' leaves "
    "the images of Other out. For many classes a CSV file with the columns class and name.",
)


class Setting(click.ParamType[tuple[str, Any]]):
    """A hyperparameter and its value, typed as NAME=VALUE."""

    name = "NAME=VALUE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, Any]:
        if isinstance(value, tuple):
            return value
        from automl_cxr.config import read_value

        name, equals, text = value.partition("=")
        if not equals:
            self.fail(f"a hyperparameter is set like dropout=0.3; received {value!r}.", param, ctx)
        return name, read_value(name.strip(), text.strip())


class Names(click.ParamType[list[str]]):
    """Names, separated by commas; a name that contains a comma is placed in double quotes, as in a CSV file."""

    name = "A,B,..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[str]:
        names = value if isinstance(value, list) else self._split(value, param, ctx)
        if not all(names):
            self.fail(f"names must not be empty; received {value!r}.", param, ctx)
        return names

    def _split(self, text: str, param: click.Parameter | None, ctx: click.Context | None) -> list[str]:
        try:
            return [name.strip() for row in csv.reader([text], skipinitialspace=True, strict=True) for name in row] or [""]
        except csv.Error:
            self.fail(f'a name that contains a comma is written like A,"B, C"; received {text!r}.', param, ctx)


class Numbers(click.ParamType[list[int]]):
    """Numbers of trials, separated by commas."""

    name = "N,N,..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[int]:
        if isinstance(value, list):
            return value
        if not all(part.strip().isdecimal() for part in value.split(",")):
            self.fail(f"trials are given by their numbers, such as 3,7,9; received {value!r}.", param, ctx)
        return [int(part) for part in value.split(",")]


class Duration(click.ParamType[float]):
    """A duration in seconds, typed as 45s, 90m, 2h, 1h30m or a number of seconds."""

    name = "TIME"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            return parse_duration(str(value))
        except UsageError as error:
            self.fail(str(error), param, ctx)


class IntegerOrAuto(click.IntRange):
    """An integer in a range, or the word "auto"."""

    name = "N|auto"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == AUTO:
            return value
        if not str(value).strip().lstrip("-").isdecimal():
            self.fail(f"a number or the word {AUTO} is needed; received {value!r}.", param, ctx)
        return super().convert(value, param, ctx)


class Size(click.ParamType[int]):
    """A size in bytes, typed as 500MB, 6GB, 1.5GiB or a number of bytes."""

    name = "SIZE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            return parse_bytes(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


def _as_int(bound: float | None) -> int | None:
    return None if bound is None else int(bound)


_TYPES: dict[str, Callable[[Option], Any]] = {
    "text": lambda _: str,
    "path": lambda _: str,
    "int": lambda option: click.IntRange(_as_int(option.low), _as_int(option.high)),
    "int_or_auto": lambda option: IntegerOrAuto(_as_int(option.low), _as_int(option.high)),
    "float": lambda option: click.FloatRange(option.low, option.high) if option.low is not None else float,
    "duration": lambda _: Duration(),
    "bytes": lambda _: Size(),
    "names": lambda _: Names(),
    "settings": lambda _: Setting(),
    "flag": lambda _: bool,
}


def add_options(
    options_class: type[Any], only: Collection[str] | None = None, *, has_sections: bool = True
) -> Callable[[CommandT], CommandT]:
    """Return a decorator that adds the options of a dataclass to a command, in the order of its fields.

    Args:
        options_class: ``SearchOptions`` or ``SpliceOptions``.
        only: Names of the fields to add. [default: all]
        has_sections: Whether the help shows the options under the headings of their sections.
    """

    def decorate(command: CommandT) -> CommandT:
        chosen = [option for option in options_of(options_class) if only is None or option.name in only]
        for option in reversed(chosen):
            for former in option.hidden_flags:
                command = _hidden_option(option, former)(command)
            command = _click_option(option, section=option.section if has_sections else None)(command)
        return command

    return decorate


def _click_option(option: Option, *, section: str | None) -> Callable[[CommandT], CommandT]:
    return click.option(
        f"--{option.flag}",
        option.name,
        cls=SectionedOption,
        section=section,
        type=_TYPES[option.kind](option),
        metavar=option.metavar,
        multiple=option.is_repeatable,
        is_flag=option.kind == "flag",
        default=None,
        callback=_as_mapping if option.kind == "settings" else None,
        help=option.command_line_help,
    )


def _as_mapping(_context: click.Context, _parameter: click.Parameter, pairs: tuple[tuple[str, Any], ...]) -> dict[str, Any]:
    return dict(pairs)


def _hidden_option(option: Option, former: str) -> Callable[[CommandT], CommandT]:
    """Accept a former name of an option."""

    def use_value(context: click.Context, _parameter: click.Parameter, value: Any) -> None:
        if value is not None:
            context.default_map = {**(context.default_map or {}), option.name: value}

    return click.option(
        f"--{former}",
        f"former_{former.replace('-', '_')}",
        type=_TYPES[option.kind](option),
        hidden=True,
        is_eager=True,
        expose_value=False,
        callback=use_value,
        help=f"Former name of --{option.flag}.",
    )


location_options = add_options(SearchOptions, only=("runs", "storage"))
data_options = add_options(SearchOptions, only=DataOptions.names(), has_sections=False)
set_option = add_options(SearchOptions, only=("fixed",), has_sections=False)


def use_study_file(context: click.Context, _parameter: click.Parameter, name: str | None) -> None:
    """Use the options in a study file as defaults, so that command line options take precedence."""
    if name is None:
        return
    from automl_cxr.study.study_files import load_study_options

    by_key = {key: option for option in options_of(SearchOptions) for key in (option.flag, *option.hidden_flags)}
    values = {
        by_key[key].name: text.split(",") if by_key[key].is_repeatable else text
        for key, text in load_study_options(name).items()
    }
    context.default_map = {**values, **(context.default_map or {})}
