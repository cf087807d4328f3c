"""Signatures and documentation of functions whose keywords are options."""

from __future__ import annotations

import dataclasses
import os
import textwrap
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from inspect import Parameter, signature
from pathlib import Path
from typing import Any, TypeVar

from automl_cxr.csv_io import read_header
from automl_cxr.data.data_options import DataOptions
from automl_cxr.data.normal_form import is_normal_form
from automl_cxr.errors import DataError, UnknownNameError, UsageError
from automl_cxr.study.option_fields import Option, options_of
from automl_cxr.study.options import SearchOptions, SpliceOptions

OptionsT = TypeVar("OptionsT", SearchOptions, SpliceOptions)
FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])


def with_keywords(options_class: type[OptionsT], options: OptionsT | None, keywords: Mapping[str, Any]) -> OptionsT:
    """Combine options with keywords, which take precedence where they are not None.

    A keyword is the name of an option, or its name on the command line, such as ``time`` for ``seconds``.

    Raises:
        UnknownNameError: A keyword is not an option.
        UsageError: A value is out of its range, or an option is given under both names.
    """
    known: dict[str, str] = {option.name: option.name for option in options_of(options_class)}
    on_command_line: dict[str, str] = {option.flag.replace("-", "_"): option.name for option in options_of(options_class)}
    given: dict[str, Any] = {}
    for keyword, value in keywords.items():
        name = known.get(keyword) or on_command_line.get(keyword)
        if name is None:
            raise UnknownNameError("keyword", keyword, [*known, *on_command_line, "options"])
        if value is None:
            continue
        if name in given:
            raise UsageError(f"An option can be given once; received {name} under two names. Omit {keyword}.")
        given[name] = value
    return replace(options, **given) if options is not None else options_class(**given)


def data_options(keywords: Mapping[str, Any]) -> DataOptions:
    """Return keywords as the choices with which a data set is read.

    Raises:
        UnknownNameError: A keyword is not such a choice.
    """
    for keyword in keywords:
        if keyword not in DataOptions.names():
            raise UnknownNameError("keyword", keyword, DataOptions.names())
    return DataOptions.select(vars(with_keywords(SearchOptions, None, keywords)))


def document_options(
    options_class: type[Any], *, only: Collection[str] | None = None, width: int = 120
) -> Callable[[FunctionT], FunctionT]:
    """Return a decorator that adds options to the signature and the documentation of a function.

    The last parameter of the function is ``**keywords``. The line "{options}" in its docstring is replaced by the entries of
    the options that the docstring does not contain.

    Args:
        options_class: The dataclass of the options.
        only: Names of the options to add; by default all.
        width: Width of a line of the documentation.
    """

    def decorate(function: FunctionT) -> FunctionT:
        own = [
            parameter for parameter in signature(function).parameters.values() if parameter.kind is not Parameter.VAR_KEYWORD
        ]
        positional = [parameter for parameter in own if parameter.kind is Parameter.POSITIONAL_OR_KEYWORD]
        own_names = {parameter.name for parameter in own}
        keywords = [
            Parameter(item.name, Parameter.KEYWORD_ONLY, default=item.default, annotation=item.type)
            for item in dataclasses.fields(options_class)
            if item.name not in own_names and (only is None or item.name in only)
        ]
        further = [parameter for parameter in own if parameter.kind is Parameter.KEYWORD_ONLY]
        function.__signature__ = signature(function).replace(parameters=[*positional, *keywords, *further])  # type: ignore[attr-defined]
        if function.__doc__ is not None:  # None with python -OO
            keyword_names = {parameter.name for parameter in keywords}
            documented = [option for option in options_of(options_class) if option.name in keyword_names]
            function.__doc__ = function.__doc__.replace("        {options}\n", _entries(documented, width))
        return function

    return decorate


def _entries(options: Collection[Option], width: int) -> str:
    keywords = {option.flag: option.name for option in options_of(SearchOptions)}
    lines = [
        textwrap.fill(
            f"{option.name}: {option.python_help(keywords)}",
            width,
            initial_indent=" " * 8,
            subsequent_indent=" " * 12,
            break_long_words=False,
            break_on_hyphens=False,
        )
        for option in options
    ]
    return "\n".join(lines) + "\n"


def check_out(out: str | os.PathLike[str], data: str | os.PathLike[str], keywords: Mapping[str, Any], name: str) -> None:
    """Check that a new table does not replace a table from which the data are read, whose other columns would be lost.

    Args:
        out: The new table.
        data: Folder or table of images.
        keywords: The options of the data.
        name: Name of the option for the new table, for the message.

    Raises:
        UsageError: It would.
    """
    read = {Path(file).expanduser().resolve() for file in (data, keywords.get("labels")) if file is not None}
    new = Path(out).resolve()
    if new in read or (new.is_relative_to(Path(data).expanduser().resolve()) and _is_foreign_table(new)):
        raise UsageError(f"The new table must not replace the table that is read; received {out}. Choose another --{name}.")


def _is_foreign_table(path: Path) -> bool:
    """Return whether a file exists that is not in the normal form, so that it may be a table of the data set."""
    try:
        return not is_normal_form(read_header(path)) if path.exists() else False
    except DataError:
        return True
