"""Words that recur: options that several commands take, and the types of their values."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import click

from automl_cxr.hardware import parse_bytes

_debug = False


def wants_debug() -> bool:
    """Tell whether --debug was typed anywhere."""
    return _debug


def _set_debug(_context: click.Context, _parameter: click.Parameter, is_set: bool) -> None:
    global _debug
    _debug = _debug or is_set


debug_option = click.option(
    "--debug", is_flag=True, expose_value=False, is_eager=True, callback=_set_debug, help="Show tracebacks of errors."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
trial_option = click.option("--trial", type=click.IntRange(0), help="A trial of the study instead of its best one.")


def place_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add where studies are kept: --runs and --storage."""
    command = click.option(
        "--storage",
        metavar="URL",
        help="Record of the studies: sqlite:///FILE, journal:///FILE, postgresql://..., grpc://HOST:PORT  "
        "[default: $AUTOML_CXR_STORAGE, else sqlite in --runs]",
    )(command)
    return click.option("--runs", metavar="DIR", help="Folder of all studies  [default: $AUTOML_CXR_RUNS, else automl_runs]")(
        command
    )


def data_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add how data are read: --layout, --classes and --patients."""
    for option in (
        click.option(
            "--patients",
            metavar="REGEX",
            help="Finds the patient in a file name: group 'patient', group 1, or the match.",
        ),
        click.option("--classes", type=Names(), help="Classes to use, in the order of their columns."),
        click.option(
            "--layout",
            metavar="NAME",
            help="folders, split-folders, csv, arrays, nih or radiography  [default: found by itself]",
        ),
    ):
        command = option(command)
    return command


class Setting(click.ParamType[tuple[str, Any]]):
    """A hyperparameter and its value, typed NAME=VALUE."""

    name = "NAME=VALUE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, Any]:
        if isinstance(value, tuple):
            return value
        from automl_cxr.config import read_value

        name, equals, text = value.partition("=")
        if not equals:
            self.fail(f"a hyperparameter is set like dropout=0.3; received {value!r}.", param, ctx)
        return name, read_value(name.strip(), text.strip())


set_option = click.option(
    "--set", "fixed", type=Setting(), multiple=True, help="Fix a hyperparameter, whatever the space says of it; repeatable."
)


class Names(click.ParamType[list[str]]):
    """Names separated by commas."""

    name = "A,B,..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[str]:
        names = value if isinstance(value, list) else [name.strip() for name in value.split(",")]
        if not all(names):
            self.fail(f"names must not be empty; received {value!r}.", param, ctx)
        return names


class Numbers(click.ParamType[list[int]]):
    """Numbers of trials separated by commas."""

    name = "N,N,..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[int]:
        if isinstance(value, list):
            return value
        if not all(part.strip().isdecimal() for part in value.split(",")):
            self.fail(f"trials are named by their numbers, such as 3,7,9; received {value!r}.", param, ctx)
        return [int(part) for part in value.split(",")]


class Duration(click.ParamType[float]):
    """Seconds, written as 45s, 90m, 2h, 1h30m or a bare number of seconds."""

    name = "TIME"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        text = str(value).strip().lower()
        match = re.fullmatch(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s?)?", text)
        if not text or match is None:
            self.fail(f"a time is written like 45s, 90m, 2h or 1h30m; received {value!r}.", param, ctx)
        hours, minutes, seconds = (float(part or 0) for part in match.groups())
        total = hours * 3600 + minutes * 60 + seconds
        if total <= 0:
            self.fail(f"a time must be above 0; received {value!r}.", param, ctx)
        return total


class Size(click.ParamType[int]):
    """Bytes, written as 500MB, 6GB, 1.5GiB or a bare number."""

    name = "SIZE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            return parse_bytes(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


def use_study_file(context: click.Context, _parameter: click.Parameter, name: str | None) -> None:
    """Make the settings of a study file the defaults of the options, so that words typed beside it win."""
    if name is None:
        return
    from automl_cxr.study.study_files import load_study_options

    options = {
        text.removeprefix("--"): option
        for option in context.command.params
        for text in option.opts
        if option.expose_value and text != "--set"  # a study file fixes hyperparameters in its space
    }
    settings = load_study_options(name, options)
    context.default_map = {
        str(options[key].name): value.split(",") if getattr(options[key], "multiple", False) else value
        for key, value in settings.items()
    }
