"""The pages of the Python names and of the hyperparameters, made of signatures and docstrings when the site is built."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

import automl_cxr
from automl_cxr.config import TrialConfig

_SECTIONS = ("Args", "Attributes", "Returns", "Raises")
_SEE = re.compile(r"``((?:data|ensemble|engine|results|scoring|splicing|study)\.[\w.]+\.\w+)``")
_PARTS_OF_STUDY = ("Evaluation", "ErrorAnalysis", "BuiltEnsemble", "Figures")  # what a study gives, beside tables


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages to those that are written by hand."""
    files.append(File.generated(config, "python.md", content=python_page()))
    files.append(File.generated(config, "hyperparameters.md", content=hyperparameter_page()))
    return files


def python_page() -> str:
    """Write the functions of the package, the study, what a study gives, and what their docstrings refer to."""
    functions = [(name, getattr(automl_cxr, name)) for name in automl_cxr.__all__ if name != "Study"]
    module = importlib.import_module("automl_cxr.api.study")
    given = [(name, getattr(module, name)) for name in _PARTS_OF_STUDY]
    written = [*functions, ("Study", automl_cxr.Study), *given]
    sections = [_function(f"automl_cxr.{name}", function) for name, function in functions]
    sections += [_class(name, one) for name, one in (("Study", automl_cxr.Study), *given)]
    text = "\n".join(sections)
    known = {f"{one.__module__.removeprefix('automl_cxr.')}.{one.__name__}" for _, one in written}
    referred = sorted(set(_SEE.findall(text)) - known)
    details = {path: text for path in referred if (text := _details(path)) is not None}
    head = "# From Python\n\nEverything that the command line does is a call. This page is made of the docstrings.\n"
    page = "\n".join([head, *sections, "## Where the keywords are explained\n", *details.values()])
    for path in details:
        page = page.replace(f"``{path}``", f"[`{path}`](#{path.replace('.', '').lower()})")
    return page.replace("``", "`")


def hyperparameter_page() -> str:
    """Write what each field of a trial's configuration means."""
    return f"# Hyperparameters\n\n{_docstring(TrialConfig)}".replace("``", "`")


def _details(path: str) -> str | None:
    """Write the function or class that a docstring refers to by its module; None if it is neither."""
    module, name = path.rsplit(".", 1)
    try:
        one = getattr(importlib.import_module(f"automl_cxr.{module}"), name)
    except (ImportError, AttributeError) as error:
        raise LookupError(f"A docstring refers to {path}, which there is not. Correct the docstring.") from error
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
    """Write how a function is called: its parameters with their defaults; what they are the docstring says."""
    words, is_keyword = [], False
    for parameter in inspect.signature(function).parameters.values():
        if parameter.name == "self":
            continue
        if parameter.kind is parameter.KEYWORD_ONLY and not is_keyword:
            words.append("*")
            is_keyword = True
        default = "" if parameter.default is parameter.empty else f"={parameter.default!r}"
        words.append(
            {parameter.VAR_KEYWORD: "**", parameter.VAR_POSITIONAL: "*"}.get(parameter.kind, "") + parameter.name + default
        )
    return f"{name}({', '.join(words)})"


def _docstring(one: Any) -> str:
    """Convert a Google style docstring into Markdown: sections become lists of definitions."""
    parts = re.split(rf"^({'|'.join(_SECTIONS)}):\n", inspect.getdoc(one) or "", flags=re.MULTILINE)
    text = _marked(parts[0])
    for title, body in zip(parts[1::2], parts[2::2], strict=True):
        text += f"\n**{title}**\n\n{_entries(inspect.cleandoc(body))}\n"
    return text


def _entries(body: str) -> str:
    """Write "name: what it is" entries, whose further lines are indented, as definitions; other text as it is."""
    entries = re.split(r"\n(?=\S)", body)
    pairs = [re.match(r"([\w.*`, ]+):\s+(.*)", " ".join(entry.split())) for entry in entries]
    if not all(pairs):
        return " ".join(body.split())
    return "\n".join(f"`{pair[1]}`\n:   {_marked(pair[2])}\n" for pair in pairs if pair)


def _marked(text: str) -> str:
    """Keep what Markdown would take for its own marks; what stands in backticks is code already."""
    pieces = re.split(r"(`+[^`]*`+)", text)
    return "".join(piece if piece.startswith("`") else re.sub(r"([*<\[\]])", _escaped, piece) for piece in pieces)


def _escaped(mark: re.Match[str]) -> str:
    return "&lt;" if mark[1] == "<" else f"\\{mark[1]}"
