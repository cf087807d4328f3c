"""The commands of `automl-cxr ensemble`."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from automl_cxr.choices import ENSEMBLE_METHODS, METRIC_NAMES, list_choices
from automl_cxr.cli.options import Numbers, debug_option, json_option, location_options, mirrored_option
from automl_cxr.cli.output import check_out, print_data, print_json, print_line, print_message, print_table, write_text
from automl_cxr.cli.sections import CommandSection, SectionedGroup
from automl_cxr.ensemble.genetic_settings import DEFAULT_SETTINGS, GeneticSettings
from automl_cxr.errors import UsageError
from automl_cxr.scoring.aims import DEFAULT_CONFIDENCE

if TYPE_CHECKING:
    from automl_cxr.ensemble.pipeline import Combination
    from automl_cxr.results.ensembles import BuiltEnsemble

_TABLE_TYPE = click.Path(dir_okay=False, path_type=Path)
_FRACTION = click.FloatRange(0, 1)
# Settings of the genetic algorithm, with the type and the help text of each.
_GENETIC_OPTIONS: dict[str, tuple[click.ParamType[Any], str]] = {
    "population": (click.IntRange(4), "Number of weight vectors in a generation."),
    "generations": (click.IntRange(1), "Largest number of generations."),
    "crossover_probability": (_FRACTION, "Fraction of the parent pairs to which crossover is applied."),
    "mutation_probability": (_FRACTION, "Fraction of the children to which mutation is applied."),
    "gene_fraction": (_FRACTION, "Fraction of the weights that are averaged in a crossover."),
    "elitism_fraction": (_FRACTION, "Fraction of a generation that is copied into the next one."),
    "tournament_size": (click.IntRange(1), "Number of candidates for each parent."),
    "restarts": (click.IntRange(1), "Number of runs from different initial weights."),
    "patience": (click.IntRange(1), "Number of generations without a better score after which a run ends."),
    "halvings": (
        click.IntRange(0),
        "Number of random divisions of the patients into halves; weights are fitted on each half and averaged.",
    ),
    "brier_weight": (click.FloatRange(0), "Weight of the Brier score, relative to the objective."),
    "shrinkage": (_FRACTION, "How far the weights are moved towards equal weights of the best members (0 to 1)."),
    "shrink_to": (click.IntRange(1), "Number of best members for shrinkage."),
}


def _genetic_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the settings of the genetic algorithm, with their defaults."""
    for name, (kind, text) in reversed(_GENETIC_OPTIONS.items()):
        flag, default = f"--{name.replace('_', '-')}", getattr(DEFAULT_SETTINGS, name)
        command = click.option(flag, name, type=kind, default=default, show_default=True, help=f"ga: {text}")(command)
    return command


@click.group(cls=SectionedGroup, section=CommandSection.RESULTS, short_help="Combine trials, or other programs' predictions.")
def ensemble() -> None:
    """Combine the best trials of a study, or predictions of other programs."""


@ensemble.command("build")
@click.argument("study", required=False)
@click.option(
    "--top", type=click.IntRange(1), default=6, show_default=True, help="Maximum number of members, which are the best trials."
)
@click.option("--members", type=Numbers(), help="Numbers of the trials to combine, instead of the best ones.")
@click.option("--diverse", is_flag=True, help="Choose trials with good scores and different errors, instead of the best ones.")
@click.option(
    "--predictions",
    type=_TABLE_TYPE,
    multiple=True,
    metavar="FILE",
    help="Predictions of another program for the same images: .npz, or CSV with image, label and one column per class. "
    "Repeatable; further files may follow without the option.",
)
@click.argument("files", nargs=-1, type=_TABLE_TYPE, metavar="[FILES]...")
@click.option(
    "--method",
    default="auto",
    show_default=True,
    metavar="NAME",
    help=f"Method that combines the members: {list_choices(ENSEMBLE_METHODS)}. auto is the simplest method "
    "within one standard error of the best one out of fold; ga is a genetic algorithm with one weight per member, ga-by-class "
    "with one per member and class; sweep is exact for two members.",
)
@click.option(
    "--objective",
    metavar="METRIC",
    help=f"Metric that is optimised: {list_choices(METRIC_NAMES)}  [default: that of the study; without a study macro_f1]",
)
@click.option(
    "--normal-class",
    metavar="NAME",
    help="Class without a finding, if there is no study  [default: detected from the class names]",
)
@click.option("--name", help="Name of the ensemble  [default: the method and the number of members]")
@click.option(
    "--seed",
    type=click.IntRange(0),
    help="Random seed of the genetic algorithm, the folds and the intervals  [default: that of the study, or 0]",
)
@click.option(
    "--operating-point",
    multiple=True,
    metavar="AIM",
    help="Choose and store the threshold of a class or finding for an aim: sensitivity>=X, specificity>=X, ppv>=X, npv>=X, "
    'youden or cost:FN/FP=X; for one of several classes or findings, "covid: sensitivity>=0.95". Repeatable.',
)
@click.option(
    "--confidence",
    type=float,
    default=DEFAULT_CONFIDENCE,
    show_default=True,
    metavar="SHARE",
    help="Probability with which new patients meet a sensitivity or specificity of --operating-point; 0: no margin for chance.",
)
@mirrored_option
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
    operating_point: tuple[str, ...],
    confidence: float,
    mirrored: bool,
    runs: str | None,
    storage: str | None,
    as_json: bool,
    **genetic: Any,
) -> None:
    """Combine the best trials of STUDY, or tables of predictions, or both.

    Every method is fitted, scored on patients that it was not fitted on, and compared with the best member. Without a study:
    `automl-cxr ensemble build --predictions a.npz b.csv`.
    """
    from automl_cxr import api

    study, tables = _split_arguments(study, predictions, files)
    settings = GeneticSettings(**genetic)
    if study is None:
        if members or diverse or mirrored:
            raise UsageError("--members, --diverse and --mirrored need the trials of a study; received no study. Add its name.")
        built = api.combine_predictions(
            tables,
            method=method,
            objective=objective or "macro_f1",
            normal_class=normal_class,
            settings=settings,
            seed=seed or 0,
            name=name,
            operating_point=operating_point,
            confidence=confidence,
        )
    else:
        if normal_class is not None:
            raise UsageError(
                "A study stores its class without a finding, so --normal-class applies only without a study. Omit it."
            )
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
            mirrored=mirrored,
            operating_point=operating_point,
            confidence=confidence,
        )
    if as_json:
        print_json(_as_json(built))
        return
    if study is not None and members is None and len(built.trials) < top:
        print_message(f"Only {len(built.trials)} finished trials have a stored model, fewer than --top {top}.")
    _print_ensemble(built)


def _split_arguments(
    study: str | None, predictions: tuple[Path, ...], files: tuple[Path, ...]
) -> tuple[str | None, tuple[Path, ...]]:
    """Separate the study from the files: with --predictions, further arguments may be files.

    Raises:
        UsageError: There is neither a study nor a file.
    """
    if predictions and study is not None and Path(study).suffix.lower() in (".csv", ".npz"):
        return None, (*predictions, Path(study), *files)
    if files and not predictions:
        raise UsageError(f"Files of predictions need the option --predictions; received {files[0]} without it.")
    if study is None and not predictions:
        raise UsageError("An ensemble needs a study or --predictions FILE; received neither. Add one of them.")
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
        "operating_points": [point.to_record() for point in found.operating_points],
        "near_duplicates": [list(pair) for pair in found.duplicates],
        "notes": built.notes,
    }


def _print_ensemble(built: BuiltEnsemble) -> None:
    import pandas as pd

    from automl_cxr.results.operating_scores import operating_points_table

    found = built.combination
    metric = found.objective.name
    for note in built.notes:
        print_message(note)
    members = {"member": list(found.names), "weight": list(built.weights), f"validation {metric}": list(built.member_scores)}
    print_table(pd.DataFrame(members), title="members")
    for one, other, correlation in found.duplicates:
        print_line(f"{one} and {other} are nearly identical (the correlation of their errors is {correlation:.3f}).")
    print_table(pd.DataFrame(_method_rows(found)), title=f"the same members with every method, {metric}")
    print_line(found.verdict())
    print_line(_calibration_line(found))
    if found.operating_points:
        kind, where = found.predictions.kind, "out of fold" if found.comparison else "on the fitted images"
        table = operating_points_table([point.to_record() for point in found.operating_points], kind)
        print_table(table, title=f"operating points, {where}")
    print_line(f"ensemble: {built.folder}")
    if built.recommended != built.method:
        print_line(f"recommended: --method {built.recommended}")
    folder = shlex.quote(str(built.folder))
    has_models = len(built.trials) == len(found.names)
    print_line(f"next: automl-cxr evaluate {folder}" if has_models else f"next: automl-cxr ensemble apply {folder} TABLES...")


def _method_rows(found: Combination) -> list[dict[str, Any]]:
    rows = []
    for row in found.methods_table():
        shown = {"method": row["method"], "on the fitted images": row["fitted"]}
        if "gain" in row:
            shown |= {"out of fold": row["out_of_fold"], "gain over best member": f"{row['gain']:+.4f}"}
            shown["95% by patient"] = f"{row['gain_low']:+.3f}..{row['gain_high']:+.3f}"
        rows.append(shown)
    return rows


def _calibration_line(found: Combination) -> str:
    calibration = found.calibration
    if calibration.error_before != calibration.error_before:
        return "calibration: too few patients for temperature scaling"
    before, after = calibration.error_before, calibration.error_after
    if calibration.temperature == 1:
        return f"calibration: out-of-fold ECE {before:.4f}, {after:.4f} with temperature scaling; none is applied"
    errors = f"{before:.4f} before, {after:.4f} after"
    return f"calibration: temperature {calibration.temperature:.2f}; out-of-fold ECE {errors}"


@ensemble.command("apply")
@click.argument("folder", metavar="ENSEMBLE", type=click.Path(file_okay=False, path_type=Path))
@click.argument("files", nargs=-1, required=True, type=_TABLE_TYPE, metavar="TABLES...")
@click.option("--out", type=_TABLE_TYPE, help="CSV file to write  [default: stdout]")
@json_option
@debug_option
def apply_ensemble(folder: Path, files: tuple[Path, ...], out: Path | None, as_json: bool) -> None:
    """Combine the members' predictions for new images. TABLES are one file per member, in the order of the members."""
    from automl_cxr import api
    from automl_cxr.results.tables import to_json, to_plain_csv

    check_out(out)
    if out is not None and out.resolve() in (file.resolve() for file in files):
        raise UsageError(f"--out must not replace the table of a member; received {out}. Choose another --out.")
    table, notes = api.apply_ensemble(folder, files)
    for note in notes:
        print_message(note)
    text = to_json(table) if as_json else to_plain_csv(table)
    if out is None:
        print_data(text)
    else:
        write_text(out, text)
        print_message(f"{len(table)} images combined; written to {out}")
