"""Ensembles: build one of a study's trials or of other programs' predictions, and combine predictions by one."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from automl_cxr.cli.options import Numbers, debug_option, json_option, location_options
from automl_cxr.cli.output import check_out, print_json, print_table, say, write_text
from automl_cxr.cli.sections import CommandSection, SectionedGroup
from automl_cxr.ensemble.genetic_settings import DEFAULT_SETTINGS, GeneticSettings
from automl_cxr.errors import UsageError

if TYPE_CHECKING:
    from automl_cxr.ensemble.pipeline import Combination
    from automl_cxr.results.ensembles import BuiltEnsemble

_TABLE_TYPE = click.Path(dir_okay=False, path_type=Path)
_SHARE = click.FloatRange(0, 1)
# Settings of the genetic algorithm: the type of each, and its help.
_GENETIC_OPTIONS: dict[str, tuple[click.ParamType[Any], str]] = {
    "population": (click.IntRange(4), "Weightings in a generation."),
    "generations": (click.IntRange(1), "Generations at most."),
    "crossover_probability": (_SHARE, "Share of parent pairs that cross over."),
    "mutation_probability": (_SHARE, "Share of children that mutate."),
    "gene_fraction": (_SHARE, "Share of the weights that a crossover averages."),
    "elitism_fraction": (_SHARE, "Share of a generation that lives on."),
    "tournament_size": (click.IntRange(1), "Candidates for each parent."),
    "restarts": (click.IntRange(1), "Runs from other initial weights."),
    "patience": (click.IntRange(1), "Generations without progress that end a run."),
    "halvings": (click.IntRange(0), "Times that patients are halved; weights are evolved on each half and averaged."),
    "brier_weight": (click.FloatRange(0), "How much the Brier score counts beside the objective."),
    "shrinkage": (_SHARE, "How far weights are drawn to those of the best members alike."),
    "shrink_to": (click.IntRange(1), "How many best members that is."),
}


def _genetic_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the settings of the genetic algorithm, with its own defaults."""
    for name, (kind, text) in reversed(_GENETIC_OPTIONS.items()):
        words, default = f"--{name.replace('_', '-')}", getattr(DEFAULT_SETTINGS, name)
        command = click.option(words, name, type=kind, default=default, show_default=True, help=f"ga: {text}")(command)
    return command


@click.group(cls=SectionedGroup, section=CommandSection.RESULTS, short_help="Combine trials, or other programs' predictions.")
def ensemble() -> None:
    """Combine the best trials of a study, or other programs' predictions."""


@ensemble.command("build")
@click.argument("study", required=False)
@click.option("--top", type=click.IntRange(1), default=6, show_default=True, help="Members at most, best trials first.")
@click.option("--members", type=Numbers(), help="Trials to take instead of the best.")
@click.option("--diverse", is_flag=True, help="Choose trials that are good together and disagree, instead of the best.")
@click.option(
    "--predictions",
    type=_TABLE_TYPE,
    multiple=True,
    metavar="FILE",
    help="Predictions of another program for the same images, .npz or CSV (image, label, a column a class); repeatable, and "
    "more files may follow.",
)
@click.argument("files", nargs=-1, type=_TABLE_TYPE, metavar="[FILES]...")
@click.option(
    "--method",
    default="ga-by-class",
    show_default=True,
    metavar="NAME",
    help="ga, ga-by-class (a weight for each member and class), greedy, stacking, sweep (two members, exact), average or best.",
)
@click.option(
    "--objective",
    metavar="METRIC",
    help="macro_f1, accuracy, balanced_accuracy, cohen_kappa, macro_auc, macro_average_precision, log_loss, calibration_error, "
    "fnfr, sensitivity_at_90_specificity or "
    "sensitivity_at_95_specificity  [default: the study's; of tables alone macro_f1]",
)
@click.option("--normal-class", metavar="NAME", help="Of tables alone: the class without a finding  [default: by the names]")
@click.option("--name", help="Name of the ensemble  [default: method and members]")
@click.option(
    "--seed", type=click.IntRange(0), help="Of the genetic algorithm, folds and intervals  [default: the study's, or 0]"
)
@_genetic_options
@location_options
@json_option
@debug_option
def build_ensemble(
    study: str | None,
    top: int,
    members: list[int] | None,
    diverse: bool,
    predictions: tuple[Path, ...],
    files: tuple[Path, ...],
    method: str,
    objective: str | None,
    normal_class: str | None,
    name: str | None,
    seed: int | None,
    runs: str | None,
    storage: str | None,
    as_json: bool,
    **genetic: Any,
) -> None:
    """Combine the best trials of STUDY, or tables of predictions, or both.

    Every method is fitted, and judged on patients that it was not fitted on, beside the best member. Tables alone:
    `automl-cxr ensemble build --predictions a.npz b.csv`.
    """
    from automl_cxr import api

    study, tables = _part_words(study, predictions, files)
    settings = GeneticSettings(**genetic)
    if study is None:
        if members or diverse:
            raise UsageError("--members and --diverse choose trials of a study; received none. Name the study.")
        built = api.combine_predictions(
            tables,
            method=method,
            objective=objective or "macro_f1",
            normal_class=normal_class,
            settings=settings,
            seed=seed or 0,
            name=name,
        )
    else:
        if normal_class is not None:
            raise UsageError("A study knows its class without a finding. Leave --normal-class out.")
        built = api.open_study(study, runs=runs, storage=storage).ensemble(
            top=top,
            members=members,
            diverse=diverse,
            predictions=tables,
            method=method,
            objective=objective,
            settings=settings,
            seed=seed,
            name=name,
        )
    if as_json:
        print_json(_as_json(built))
        return
    if study is not None and members is None and len(built.trials) < top:
        say(f"Only {len(built.trials)} finished trials have a model, so there are fewer members than --top {top}.")
    _print_ensemble(built)


def _part_words(
    study: str | None, predictions: tuple[Path, ...], files: tuple[Path, ...]
) -> tuple[str | None, tuple[Path, ...]]:
    """Tell a study from files: after --predictions a.npz, what stands without an option is a file too.

    Raises:
        UsageError: There is neither a study nor a file.
    """
    if predictions and study is not None and Path(study).suffix.lower() in (".csv", ".npz"):
        return None, (*predictions, Path(study), *files)
    if files and not predictions:
        raise UsageError(f"Files of predictions stand after --predictions; received {files[0]} without it.")
    if study is None and not predictions:
        raise UsageError("An ensemble is built of a study's trials or of --predictions FILE; received neither. Name one.")
    return study, (*predictions, *files)


def _as_json(built: BuiltEnsemble) -> dict[str, Any]:
    found = built.combination
    return {
        "folder": str(built.folder),
        "method": built.method,
        "recommended": built.recommended,
        "objective": found.objective.name,
        "trials": built.trials,
        "members": [
            {"name": name, "weight": weight, "score": score}
            for name, weight, score in zip(found.names, built.weights, built.member_scores, strict=True)
        ],
        "methods": found.methods_table(),
        "interval": vars(found.interval),
        "calibration": vars(found.calibration),
        "near_duplicates": [list(pair) for pair in found.duplicates],
        "notes": built.notes,
    }


def _print_ensemble(built: BuiltEnsemble) -> None:
    import pandas as pd

    found = built.combination
    metric = found.objective.name
    for note in built.notes:
        say(note)
    members = {"member": list(found.names), "weight": list(built.weights), f"validation {metric}": list(built.member_scores)}
    print_table(pd.DataFrame(members), title="members")
    for one, other, correlation in found.duplicates:
        click.echo(f"{one} and {other} say nearly the same (their errors correlate by {correlation:.3f}).")
    print_table(pd.DataFrame(_rows_for_people(found)), title=f"the same members by every method, {metric}")
    click.echo(found.verdict())
    click.echo(_calibration_for_people(found))
    click.echo(f"ensemble: {built.folder}")
    if built.recommended != built.method:
        click.echo(f"recommended: --method {built.recommended}")
    folder = shlex.quote(str(built.folder))
    has_models = len(built.trials) == len(found.names)
    click.echo(f"next: automl-cxr evaluate {folder}" if has_models else f"next: automl-cxr ensemble apply {folder} TABLES...")


def _rows_for_people(found: Combination) -> list[dict[str, Any]]:
    rows = []
    for row in found.methods_table():
        shown = {"method": row["method"], "where fitted": row["fitted"]}
        if "gain" in row:
            shown |= {"out of fold": row["out_of_fold"], "gain over best member": f"{row['gain']:+.4f}"}
            shown["95% by patient"] = f"{row['gain_low']:+.3f}..{row['gain_high']:+.3f}"
        rows.append(shown)
    return rows


def _calibration_for_people(found: Combination) -> str:
    calibration = found.calibration
    if calibration.error_before != calibration.error_before:
        return "calibration: too few patients for a temperature"
    before, after = calibration.error_before, calibration.error_after
    if calibration.temperature == 1:
        return f"calibration: expected error {before:.4f} out of fold, {after:.4f} with a temperature: none is applied"
    return f"calibration: temperature {calibration.temperature:.2f}; expected error out of fold {before:.4f}, then {after:.4f}"


@ensemble.command("apply")
@click.argument("folder", metavar="ENSEMBLE", type=click.Path(file_okay=False, path_type=Path))
@click.argument("files", nargs=-1, required=True, type=_TABLE_TYPE, metavar="TABLES...")
@click.option("--out", type=_TABLE_TYPE, help="CSV file to write  [default: the screen]")
@json_option
@debug_option
def apply_ensemble(folder: Path, files: tuple[Path, ...], out: Path | None, as_json: bool) -> None:
    """Combine the members' predictions of other images: a table for each member, in the order of the members."""
    from automl_cxr import api
    from automl_cxr.results.tables import to_csv, to_json

    check_out(out)
    table, notes = api.apply_ensemble(folder, files)
    for note in notes:
        say(note)
    text = to_json(table) if as_json else to_csv(table)
    if out is None:
        click.echo(text, nl=False)
    else:
        write_text(out, text)
        say(f"{len(table)} images combined; written to {out}")
