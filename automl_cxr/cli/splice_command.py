"""`automl-cxr splice`."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from automl_cxr.cli.options import Names, data_options, debug_option, json_option, place_options, set_option
from automl_cxr.cli.output import check_out, print_formatted, print_json, print_table, progress_bar, say, write_table
from automl_cxr.errors import UnknownNameError

if TYPE_CHECKING:
    import pandas as pd

_ROWS_SHOWN = 25


@click.command()
@click.argument("first", metavar="A")
@click.argument("second", metavar="B")
@click.option("--data", metavar="DIR", help="Folder or CSV table of radiographs  [default: a trained branch's, else phantoms]")
@click.option("--cuts", type=Names(), help="Layers of A to cut at, or numbers of its splice points  [default: all of these]")
@click.option("--second-cuts", type=Names(), help="The same of B.")
@click.option(
    "--finetune",
    type=click.IntRange(0),
    default=3,
    show_default=True,
    help="Best pairs of the Pareto front that are trained and put into a study; 0 for none.",
)
@click.option("--name", help="Name of that study; the same name continues it  [default: made of A and B]")
@set_option
@click.option("--weights", "weights_folder", metavar="DIR", help="Folder that pretrained weights are looked for in first.")
@click.option(
    "--image-size", type=click.IntRange(16, 2048), help="Height and width in pixels  [default: a trained branch's, else 112]"
)
@click.option("--fit", metavar="NAME", help="How an image meets its square: stretch, pad or crop  [default: stretch]")
@click.option("--epochs", type=click.IntRange(1), help="Passes over the training images at most, a pair  [default: 30]")
@click.option("--batch-size", type=click.IntRange(1, 4096), help="Images a gradient step  [default: 32]")
@click.option("--normal-class", metavar="CLASS", help="Class without a finding  [default: guessed from the names]")
@click.option("--valid-fraction", type=float, help="Share of the images that pairs are scored on  [default: 0.15]")
@click.option("--test-fraction", type=float, help="Share of the images that stays sealed  [default: 0.15]")
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), help="Decides split and weights  [default: 0]")
@data_options
@click.option(
    "--executor", default="inline", show_default=True, metavar="NAME", help="How pairs are trained: inline, one by one, or ray."
)
@click.option(
    "--format", "kind", default="table", show_default=True, metavar="KIND", help="table, csv, json, md, html, latex or xlsx."
)
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Write the table to a file, not to the screen.")
@click.option(
    "--figure", type=click.Path(dir_okay=False, path_type=Path), help="HTML file for the heat map and the Pareto front."
)
@place_options
@json_option
@debug_option
def splice(
    first: str,
    second: str,
    cuts: list[str] | None,
    second_cuts: list[str] | None,
    fixed: tuple[tuple[str, Any], ...],
    finetune: int,
    name: str | None,
    executor: str,
    kind: str,
    out: Path | None,
    figure: Path | None,
    as_json: bool,
    runs: str | None,
    storage: str | None,
    **settings: Any,
) -> None:
    """Score every pair of cuts of networks A and B on the validation part, and fine-tune the best small ones.

    A and B are each a backbone of `automl-cxr describe`, a study (its best trial), STUDY/NUMBER, or the folder of a trial.
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
    found = api.splice(
        first,
        second,
        **settings,
        cuts=cuts or (),
        second_cuts=second_cuts or (),
        finetune=0,
        fixed=dict(fixed) or None,
        runs=runs,
        storage=storage,
        decoding=progress_bar("decoding"),
        scoring=progress_bar("scoring pairs"),
    )
    for note in found.scores.notes:
        say(note)
    if figure is not None:
        found.figure.write_html(figure, include_plotlyjs=True)
        say(f"Figure written to {figure}")
    if out is not None:
        write_table(out, found.table, kind, title="Splices")
        say(f"{len(found.table)} networks written to {out}")
    if not as_json and out is None:
        _print_scores(
            found.table, title=f"{found.scores.first.name} (first) and {found.scores.second.name} (second)", kind=kind
        )
    if not as_json:
        for sentence in describe_splices(found.scores.record):
            say(sentence)
    if finetune:
        command = " ".join(sys.argv[1:])
        found.finetune(finetune, name=name, executor=executor, command=command)
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
        say(f"{len(table) - is_shown.sum()} more networks are in the table that --out FILE writes.")


def _print_study(found: Any) -> None:
    from automl_cxr.results.tables import fold_intervals

    columns = ["rank", "trial", "macro_f1", "macro_f1_low", "macro_f1_high", "n_parameters", "params_cut", "params_second_cut"]
    board = found.study.leaderboard()
    print_table(fold_intervals(board[columns]), title=f"fine-tuned: study {found.study.name}")
    click.echo(
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
