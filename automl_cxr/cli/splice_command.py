"""The command `automl-cxr splice`."""

from __future__ import annotations

import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from automl_cxr.choices import TABLE_FORMATS, list_choices
from automl_cxr.cli.options import add_options, debug_option, json_option
from automl_cxr.cli.output import (
    check_out,
    print_formatted,
    print_json,
    print_line,
    print_message,
    print_table,
    progress_bar,
    write_table,
)
from automl_cxr.cli.sections import CommandSection, SectionedCommand
from automl_cxr.errors import UnknownNameError
from automl_cxr.study.options import SpliceOptions

if TYPE_CHECKING:
    import pandas as pd

_ROWS_SHOWN = 25


@click.command(cls=SectionedCommand, section=CommandSection.SEARCH, short_help="Score every pair of cuts of two networks.")
@click.argument("first", metavar="A")
@click.argument("second", metavar="B")
@add_options(SpliceOptions)
@click.option(
    "--format",
    "kind",
    default="table",
    show_default=True,
    metavar="KIND",
    help=f"Output format: {list_choices(('table', *TABLE_FORMATS))}.",
)
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="File for the table  [default: stdout]")
@click.option(
    "--figure",
    type=click.Path(dir_okay=False, path_type=Path),
    help="HTML file for a figure with the heat map of scores and the Pareto front.",
)
@json_option
@debug_option
def splice(first: str, second: str, kind: str, out: Path | None, figure: Path | None, as_json: bool, **values: Any) -> None:
    """Score every pair of cuts of networks A and B on the validation part, and fine-tune the best pairs.

    A and B are each a backbone, such as squeezenet, a study (its best trial), STUDY/NUMBER, or the folder of a trial. Pairs are
    compared by score and number of parameters; the best pairs of the Pareto front are fine-tuned.
    """
    from automl_cxr import api
    from automl_cxr.results.splice_plots import describe_splices
    from automl_cxr.results.tables import FORMATS, format_of

    check_out(out)
    check_out(figure)
    if kind == "table" and out is not None:
        kind = format_of(out)
    if kind not in ("table", *FORMATS):
        raise UnknownNameError("format", kind, ("table", *FORMATS))
    options = SpliceOptions(**{name: value for name, value in values.items() if value is not None})
    found = api.splice(
        first,
        second,
        options=replace(options, finetune=0),
        decoding=progress_bar("decoding"),
        scoring=progress_bar("scoring pairs"),
    )
    for note in found.scores.notes:
        print_message(note)
    if figure is not None:
        found.figure.write_html(figure, include_plotlyjs=True)
        print_message(f"Figure written to {figure}")
    if out is not None:
        write_table(out, found.table, kind, title="Splices")
        print_message(f"{len(found.table)} networks written to {out}")
    if not as_json and out is None:
        _print_scores(
            found.table, title=f"{found.scores.first.name} (first) and {found.scores.second.name} (second)", kind=kind
        )
    if not as_json:
        for sentence in describe_splices(found.scores.record):
            print_message(sentence)
    if options.finetune:
        command = shlex.join(sys.argv[1:])
        found.finetune(options.finetune, name=options.name, executor=options.executor, command=command)
    if as_json:
        _print_as_json(found)
    elif found.study is not None:
        _print_study(found)


def _print_scores(table: pd.DataFrame, *, title: str, kind: str) -> None:
    from automl_cxr.results.tables import fold_intervals

    if kind != "table":
        print_formatted(table, kind)
        return
    is_shown = table["pareto"] | (table["rank"] <= _ROWS_SHOWN)
    print_table(fold_intervals(table[is_shown]), title=title)
    if not is_shown.all():
        print_message(f"{len(table) - is_shown.sum()} more networks are not shown; --out FILE writes all.")


def _print_study(found: Any) -> None:
    from automl_cxr.results.tables import fold_intervals

    metric = found.scores.metric
    columns = ["rank", "trial", metric, f"{metric}_low", f"{metric}_high", "n_parameters", "params_cut", "params_second_cut"]
    board = found.study.leaderboard()
    print_table(fold_intervals(board[columns]), title=f"fine-tuned: study {found.study.name}")
    print_line(
        f"next: automl-cxr evaluate {shlex.quote(found.study.name)}    automl-cxr leaderboard {shlex.quote(found.study.name)}"
    )


def _print_as_json(found: Any) -> None:
    board = None if found.study is None else found.study.leaderboard().to_dict(orient="records")
    print_json(
        {
            "first": found.scores.first.name,
            "second": found.scores.second.name,
            "networks": found.table.to_dict(orient="records"),
            "parents": found.parents.to_dict(orient="records"),
            "notes": list(found.scores.notes),
            "study": None if found.study is None else found.study.name,
            "fine_tuned": board,
        }
    )
