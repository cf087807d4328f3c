"""Generates a reference page for each command from its help when the site is built."""

from __future__ import annotations

import re
from collections.abc import Iterator

import click
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from automl_cxr.cli import commands
from automl_cxr.cli.sections import command_sections, option_sections

PROGRAM = "automl-cxr"


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Add the pages to the navigation, in the order of the program's help."""
    pages = [{" ".join(names): _path(names)} for names, _ in walk(commands)]
    config.nav = [*(config.nav or []), {"Commands": [{"All commands": "commands/index.md"}, *pages]}]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages to the written ones."""
    files.append(File.generated(config, "commands/index.md", content=index_page()))
    for names, command in walk(commands):
        files.append(File.generated(config, _path(names), content=command_page(names, command)))
    return files


def walk(group: click.Group, names: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Yield every command that can be run, with its names from the top."""
    for name, command in group.commands.items():
        if not isinstance(command, click.Group) or command.invoke_without_command:
            yield (*names, name), command
        if isinstance(command, click.Group):
            yield from walk(command, (*names, name))


def index_page() -> str:
    """List the commands by section, with one line each."""
    parts = ["# Commands\n"]
    for title, chosen in command_sections(commands):
        group = click.Group(commands=dict(chosen))
        rows = [
            f"| [{PROGRAM} {' '.join(names)}]({'-'.join(names)}.md) | {_escape(command.get_short_help_str(limit=200))} |"
            for names, command in walk(group)
        ]
        parts += [f"## {title}\n", "| command | purpose |", "| --- | --- |", *rows, ""]
    parts.append(
        "Exit codes: 0 success, 1 the operation failed, 2 usage error, 130 interrupted by Ctrl-C or SIGTERM (the command can "
        "be repeated)."
    )
    return "\n".join([*parts, ""])


def command_page(names: tuple[str, ...], command: click.Command) -> str:
    """Write the help of a command as Markdown."""
    context = click.Context(command, info_name=f"{PROGRAM} {' '.join(names)}")
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    parts = [f"# {PROGRAM} {' '.join(names)}", f"    {usage}", _escape(_paragraphs(command.help or ""))]
    for title, records in option_sections(command, context):
        parts.append(f"## {title}")
        parts.append("\n".join(f"`{terms}`\n:   {_escape(text)}\n" for terms, text in records))
    return "\n\n".join(parts)


def _path(names: tuple[str, ...]) -> str:
    return f"commands/{'-'.join(names)}.md"


def _paragraphs(text: str) -> str:
    """Join the lines of each paragraph of a docstring, as click does on a terminal."""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in re.split(r"\n\s*\n", text.strip()))


def _escape(text: str) -> str:
    """Escape Markdown's marks, except within backticks."""
    pieces = re.split(r"(`[^`]*`)", text)
    return "".join(piece if piece.startswith("`") else re.sub(r"([\\*_<\[\]|])", _escape_mark, piece) for piece in pieces)


def _escape_mark(mark: re.Match[str]) -> str:
    return {"<": "&lt;", "|": "&#124;"}.get(mark[1], f"\\{mark[1]}")
