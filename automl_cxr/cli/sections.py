"""Click commands whose help is divided into sections: commands by subject, options by subject."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from enum import StrEnum
from typing import Any

import click

_TERM_WIDTH = 30


class CommandSection(StrEnum):
    """Headings in the list of commands, in order. Each command specifies its heading."""

    DATA = "Data"
    SEARCH = "Search"
    RESULTS = "Results"
    SHIP = "Ship"
    MAINTAIN = "Maintain"


class SectionedOption(click.Option):
    """An option that specifies its heading in the help of a command."""

    def __init__(self, *args: Any, section: str | None = None, **attributes: Any) -> None:
        super().__init__(*args, **attributes)
        self.section = section


class SectionedCommand(click.Command):
    """A command that specifies its heading in the list of commands, and shows its options under headings."""

    def __init__(self, *args: Any, section: CommandSection | None = None, **attributes: Any) -> None:
        super().__init__(*args, **attributes)
        self.section = section

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options under their headings."""
        for title, records in option_sections(self, ctx):
            with formatter.section(title):
                write_entries(formatter, records)


class SectionedGroup(SectionedCommand, click.Group):
    """A group of commands, which lists its commands under headings."""

    command_class = SectionedCommand

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, then the commands."""
        super().format_options(ctx, formatter)
        self.format_commands(ctx, formatter)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands under their headings; all under one heading if none is specified."""
        width = max((len(name) for name in self.commands), default=0)
        for title, commands in command_sections(self):
            records = [(name.ljust(width), command.get_short_help_str(formatter.width - width)) for name, command in commands]
            with formatter.section(title):
                write_entries(formatter, records)


def option_sections(command: click.Command, context: click.Context) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Yield each heading of a command's options, with (names, help) of each option.

    Options without a heading are under "Options", which is first.
    """
    sections: dict[str, list[tuple[str, str]]] = {"Options": []}
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if isinstance(parameter, click.Option) and record is not None:
            sections.setdefault(getattr(parameter, "section", None) or "Options", []).append(record)
    yield from ((str(title), records) for title, records in sections.items() if records)


def command_sections(group: click.Group) -> Iterator[tuple[str, list[tuple[str, click.Command]]]]:
    """Yield each heading of a group's commands, with (name, command) of each command."""
    sections: dict[str | None, list[tuple[str, click.Command]]] = {section: [] for section in CommandSection}
    for name, command in group.commands.items():
        if not command.hidden:
            sections.setdefault(getattr(command, "section", None), []).append((name, command))
    yield from ((title or "Commands", commands) for title, commands in sections.items() if commands)


def write_entries(formatter: click.HelpFormatter, records: Sequence[tuple[str, str]]) -> None:
    """Write terms and their explanations in two columns.

    ``HelpFormatter.write_dl`` would also break lines within words, at hyphens, so that names such as kt-random are cut.
    """
    indent = " " * formatter.current_indent
    column = min(max((len(term) for term, _ in records), default=0), _TERM_WIDTH) + 2
    for term, explanation in records:
        lines = textwrap.wrap(explanation, max(formatter.width - column - 2, 10), break_on_hyphens=False)
        is_long = len(term) > column - 2
        if is_long:
            formatter.write(f"{indent}{term}\n")
        for number, line in enumerate(lines or [""]):
            left = "" if is_long or number > 0 else term
            formatter.write(f"{indent}{left:<{column}}{line}".rstrip() + "\n")
