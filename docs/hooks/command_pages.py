"""A page for each command of the command line, made of the command's own words when the site is built."""

from __future__ import annotations

import re
from collections.abc import Iterator

import click
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from automl_cxr.cli import commands

PROGRAM = "automl-cxr"


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the pages into the navigation, in the order of the program's own help."""
    pages = [{" ".join(words): _path(words)} for words, _ in walk(commands)]
    config.nav = [*(config.nav or []), {"Commands": [{"All commands": "commands/index.md"}, *pages]}]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages to those that are written by hand."""
    files.append(File.generated(config, "commands/index.md", content=index_page()))
    for words, command in walk(commands):
        files.append(File.generated(config, _path(words), content=command_page(words, command)))
    return files


def walk(group: click.Group, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Yield every command that does something, with the words that name it."""
    for name, command in group.commands.items():
        if not isinstance(command, click.Group) or command.invoke_without_command:
            yield (*words, name), command
        if isinstance(command, click.Group):
            yield from walk(command, (*words, name))


def index_page() -> str:
    """List the commands with a line each."""
    rows = [
        f"| [{PROGRAM} {' '.join(words)}]({'-'.join(words)}.md) | {_marked(command.get_short_help_str(limit=200))} |"
        for words, command in walk(commands)
    ]
    shared = "Exit codes: 0 done, 1 the work failed, 2 the words were wrong, 130 interrupted (and resumable)."
    return "\n".join(["# Commands\n", "| command | does |", "| --- | --- |", *rows, "", shared, ""])


def command_page(words: tuple[str, ...], command: click.Command) -> str:
    """Write what a command's `--help` says, as Markdown."""
    context = click.Context(command, info_name=f"{PROGRAM} {' '.join(words)}")
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    options = [option for option in command.get_params(context) if isinstance(option, click.Option)]
    records = [record for option in options if (record := option.get_help_record(context)) is not None]
    explained = "\n".join(f"`{names}`\n:   {_marked(text)}\n" for names, text in records)
    parts = [
        f"# {PROGRAM} {' '.join(words)}",
        f"    {usage}",
        _marked(_paragraphs(command.help or "")),
        "## Options",
        explained,
    ]
    return "\n\n".join(parts)


def _path(words: tuple[str, ...]) -> str:
    return f"commands/{'-'.join(words)}.md"


def _paragraphs(text: str) -> str:
    """Join the lines of each paragraph of a docstring, as click does on the screen."""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in re.split(r"\n\s*\n", text.strip()))


def _marked(text: str) -> str:
    """Keep what Markdown would take for its own marks; what stands in backticks is code already."""
    pieces = re.split(r"(`[^`]*`)", text)
    return "".join(piece if piece.startswith("`") else re.sub(r"([\\*_<\[\]|])", _escaped, piece) for piece in pieces)


def _escaped(mark: re.Match[str]) -> str:
    return {"<": "&lt;", "|": "&#124;"}.get(mark[1], f"\\{mark[1]}")
