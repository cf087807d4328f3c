"""The command `automl-cxr leaderboard`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from automl_cxr.choices import TABLE_FORMATS, list_choices
from automl_cxr.cli.options import Names, class_map_option, debug_option, json_option, location_options
from automl_cxr.cli.output import check_out, print_formatted, print_message, print_table, progress_bar, write_table
from automl_cxr.cli.sections import CommandSection, SectionedCommand
from automl_cxr.errors import UnknownNameError, UsageError

if TYPE_CHECKING:
    import pandas as pd


@click.command(cls=SectionedCommand, section=CommandSection.RESULTS, short_help="Rank the finished trials, with intervals.")
@click.argument("studies", nargs=-1, required=True, metavar="STUDY...")
@click.option("--metric", metavar="NAME", help="Score column that ranks the trials  [default: the first objective]")
@click.option("--intervals", type=Names(), help="Further score columns with a 95% interval, such as macro_auc,recall_covid.")
@click.option(
    "--all-intervals",
    is_flag=True,
    help="Compute the intervals of all trials.  [default: of the best 200, and of all within reach of the best one]",
)
@click.option(
    "--sort", metavar="COLUMN", help="Column by which rows are sorted, best first, such as worst_site. The ranks do not change."
)
@click.option("--columns", type=Names(), help="Columns to show or write, each with its interval.")
@click.option("--all", "shows_all", is_flag=True, help="Show all columns on the terminal. Files always contain all columns.")
@click.option(
    "--latency",
    is_flag=True,
    help="Measure the prediction time of every stored model on this machine, in milliseconds per image.",
)
@click.option(
    "--external",
    multiple=True,
    metavar="DIR",
    help="Folder or table of labelled images from another site. Every stored model and every ensemble is scored on them, in "
    "further columns. A site may have only some of the classes. Repeatable.",
)
@class_map_option
@click.option(
    "--format",
    "kind",
    metavar="KIND",
    help=f"Output format: {list_choices(('table', *TABLE_FORMATS))}  [default: table; for a file, by its suffix]",
)
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="File to write instead of printing.")
@location_options
@json_option
@debug_option
def leaderboard(
    studies: tuple[str, ...],
    intervals: list[str] | None,
    columns: list[str] | None,
    shows_all: bool,
    kind: str | None,
    out: Path | None,
    runs: str | None,
    storage: str | None,
    as_json: bool,
    **choices: Any,
) -> None:
    """Rank the finished trials of STUDY by their validation scores, with 95% intervals by patient.

    The column `tied` marks trials whose difference from the best one is not significant. Several studies are ranked together
    if they were scored on the same images.
    """
    from automl_cxr import api
    from automl_cxr.results.leaderboard import shorten_leaderboard
    from automl_cxr.results.tables import FORMATS, format_of

    check_out(out)
    kind = "json" if as_json else kind or ("table" if out is None else format_of(out))
    if kind not in ("table", *FORMATS):
        raise UnknownNameError("format", kind, ("table", *FORMATS))
    if kind == "table" and out is not None:
        raise UsageError(
            "The format table is for the terminal; received --out. Omit --format: the suffix of the file selects the format."
        )
    opened = [api.open_study(name, runs=runs, storage=storage) for name in studies]
    with progress_bar("models") as on_progress:
        table = opened[0].leaderboard(
            *opened[1:], intervals=intervals or (), with_baseline=True, on_progress=on_progress, **choices
        )
    n_trials = int(table["rank"].notna().sum())
    if columns:
        table = _select(table, columns)
    title = ", ".join(studies)
    if out is not None:
        write_table(out, table, kind, title=f"Leaderboard of {title}")
        print_message(f"{n_trials} trials written to {out}")
    elif kind == "table":
        objectives = {name for study in opened for name in study.objectives}
        _print(table if columns or shows_all else shorten_leaderboard(table, objectives), title=title)
    else:
        print_formatted(table, kind)
    for note in table.attrs.get("notes", ()):
        print_message(note)


def _print(table: pd.DataFrame, *, title: str) -> None:
    from automl_cxr.results.tables import fold_intervals

    print_table(fold_intervals(table), title=title)
    if table.empty:
        print_message("No trial is finished yet.")


def _select(table: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """Select columns by name, each with its interval if it has one.

    Raises:
        UnknownNameError: A column does not exist.
    """
    for name in columns:
        if name not in table:
            raise UnknownNameError("column", name, map(str, table.columns))
    selected = dict.fromkeys(end for name in columns for end in (name, f"{name}_low", f"{name}_high"))
    return table[[name for name in selected if name in table]]
