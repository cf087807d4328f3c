"""Generates the reference pages of the Python functions, the hyperparameters and the search options when the site is built."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import re
from collections.abc import Iterator
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

import automl_cxr
from automl_cxr.config import TrialConfig
from automl_cxr.study.option_fields import Option, options_of
from automl_cxr.study.options import SearchOptions

_SECTIONS = ("Args", "Attributes", "Returns", "Raises")
_SEE = re.compile(r"``((?:data|ensemble|engine|results|scoring|splicing|study)\.[\w.]+\.\w+)``")
_RESULTS_OF_STUDY = (  # results that are not tables
    *("CorrectedBest", "Recommended", "Evaluation", "ErrorAnalysis", "BuiltEnsemble", "Figures"),
)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Add the page of the options to the navigation."""
    config.nav = [*(config.nav or []), {"Search options": "options.md"}]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages to the written ones."""
    files.append(File.generated(config, "python.md", content=python_page()))
    files.append(File.generated(config, "hyperparameters.md", content=hyperparameter_page()))
    files.append(File.generated(config, "options.md", content=option_page()))
    return files


def python_page() -> str:
    """Document the public functions, the study, the results of a study, and the functions that their docstrings refer to."""
    public = [(name, getattr(automl_cxr, name)) for name in automl_cxr.__all__ if name != "Study"]
    module = importlib.import_module("automl_cxr.api.study")
    classes = [("Study", automl_cxr.Study), *((name, getattr(module, name)) for name in _RESULTS_OF_STUDY)]
    written = [*public, *classes]
    sections = [_function(f"automl_cxr.{name}", one) for name, one in public if inspect.isfunction(one)]
    sections += [
        _option_class(name, one) if dataclasses.is_dataclass(one) else _class(name, one)
        for name, one in public
        if inspect.isclass(one)
    ]
    sections += [_class(name, one) for name, one in classes]
    text = "\n".join(sections)
    known = {f"{one.__module__.removeprefix('automl_cxr.')}.{one.__name__}" for _, one in written}
    referred = sorted(set(_SEE.findall(text)) - known)
    details = {path: text for path in referred if (text := _details(path)) is not None}
    head = "# From Python\n\nEvery command is also a Python function. This page is generated from the docstrings.\n"
    page = "\n".join([head, *sections, "## Functions that these pages refer to\n", *details.values()])
    for path in details:
        page = page.replace(f"``{path}``", f"[`{path}`](#{path.replace('.', '').lower()})")
    return page.replace("``", "`")


def option_page() -> str:
    """Document every option of a search: command line, Python keyword, key of a study file, and meaning."""
    introduction = (
        "Each option is an option of `automl-cxr search`, a keyword of `automl_cxr.search` and, except `--set`, a key of a "
        "study file (without the leading hyphens). Options of the study are stored in its specification: a study that is "
        "continued keeps them, and only the sampler and the locations of files may change. The other options apply to one "
        "search."
    )
    sections: dict[str, list[Option]] = {}
    for option in options_of(SearchOptions):
        sections.setdefault(str(option.section), []).append(option)
    return "\n".join(
        ["# Search options\n", introduction, "", *(_option_section(title, options) for title, options in sections.items())]
    )


def _option_section(title: str, options: list[Option]) -> str:
    whose = "of the study" if options[0].scope == "study" else "of one search"
    entries = [f"`--{option.flag}`, `{option.name}`\n:   {_escape(option.command_line_help)}\n" for option in options]
    return "\n".join([f"## {title}\n", f"Options {whose}.\n", *entries])


def _option_class(name: str, one: type) -> str:
    """Document a dataclass of options, whose fields are the keywords of a function."""
    return f"## {name}\n\n    {name}(*, ...)\n\n{_docstring(one)}\n"


def hyperparameter_page() -> str:
    """Document the fields of a trial's configuration."""
    return f"# Hyperparameters\n\n{_docstring(TrialConfig)}".replace("``", "`")


def _details(path: str) -> str | None:
    """Document the function or class that a docstring refers to by its module; None if it is neither."""
    module, name = path.rsplit(".", 1)
    try:
        one = getattr(importlib.import_module(f"automl_cxr.{module}"), name)
    except (ImportError, AttributeError) as error:
        raise LookupError(f"A docstring refers to {path}, which does not exist. Correct the docstring.") from error
    return _function(path, one, level=3) if inspect.isfunction(one) or inspect.isclass(one) else None


def _class(name: str, one: type) -> str:
    members = [_member(attribute, value) for attribute, value in _public(one)]
    return "\n".join([f"## {name}\n", _docstring(one), *members])


def _public(one: type) -> Iterator[tuple[str, Any]]:
    for attribute, value in vars(one).items():
        if not attribute.startswith("_") and (inspect.isfunction(value) or hasattr(value, "__doc__")):
            yield attribute, value


def _member(name: str, value: Any) -> str:
    if inspect.isfunction(value):
        return _function(name, value, level=3)
    return f"### {name}\n\n{_docstring(value)}" if _is_property(value) else ""


def _is_property(value: Any) -> bool:
    return isinstance(value, property) or type(value).__name__ == "cached_property"


def _function(name: str, function: Any, *, level: int = 2) -> str:
    return f"{'#' * level} {name}\n\n    {_signature(name.split('.')[-1], function)}\n\n{_docstring(function)}\n"


def _signature(name: str, function: Any) -> str:
    """Write the parameters of a function with their defaults. The docstring documents them."""
    parameters, is_keyword = [], False
    for parameter in inspect.signature(function).parameters.values():
        if parameter.name == "self":
            continue
        if parameter.kind is parameter.KEYWORD_ONLY and not is_keyword:
            parameters.append("*")
            is_keyword = True
        default = "" if parameter.default is parameter.empty else f"={parameter.default!r}"
        parameters.append(
            {parameter.VAR_KEYWORD: "**", parameter.VAR_POSITIONAL: "*"}.get(parameter.kind, "") + parameter.name + default
        )
    return f"{name}({', '.join(parameters)})"


def _docstring(one: Any) -> str:
    """Convert a Google style docstring into Markdown: sections become lists of definitions."""
    parts = re.split(rf"^({'|'.join(_SECTIONS)}):\n", inspect.getdoc(one) or "", flags=re.MULTILINE)
    text = _escape(parts[0])
    for title, body in zip(parts[1::2], parts[2::2], strict=True):
        text += f"\n**{title}**\n\n{_entries(inspect.cleandoc(body))}\n"
    return text


def _entries(body: str) -> str:
    """Write "name: description" entries, whose further lines are indented, as definitions; other text unchanged."""
    entries = re.split(r"\n(?=\S)", body)
    pairs = [re.match(r"([\w.*`, ]+):\s+(.*)", " ".join(entry.split())) for entry in entries]
    if not all(pairs):
        return " ".join(body.split())
    return "\n".join(f"`{pair[1]}`\n:   {_escape(pair[2])}\n" for pair in pairs if pair)


def _escape(text: str) -> str:
    """Escape Markdown's marks, except within backticks."""
    pieces = re.split(r"(`+[^`]*`+)", text)
    return "".join(piece if piece.startswith("`") else re.sub(r"([*<\[\]])", _escape_mark, piece) for piece in pieces)


def _escape_mark(mark: re.Match[str]) -> str:
    return "&lt;" if mark[1] == "<" else f"\\{mark[1]}"
