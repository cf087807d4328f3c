"""The commands `importance`, `evaluate`, `predict` and `dashboard`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from automl_cxr.cli.options import (
    class_map_option,
    debug_option,
    json_option,
    location_options,
    mirrored_option,
    moved_data_option,
    trial_option,
)
from automl_cxr.cli.output import (
    check_out,
    print_data,
    print_json,
    print_line,
    print_message,
    print_table,
    progress_bar,
    write_text,
)
from automl_cxr.cli.sections import CommandSection, SectionedCommand
from automl_cxr.cli.targets import open_target


@click.command(cls=SectionedCommand, section=CommandSection.RESULTS, short_help="Show which hyperparameters affect the scores.")
@click.argument("study")
@click.option(
    "--evaluator",
    default="ped-anova",
    show_default=True,
    metavar="NAME",
    help="Method: ped-anova, the hyperparameters that distinguish the best tenth of the trials; fanova, those that explain the "
    "variance of the scores.",
)
@location_options
@json_option
@debug_option
def importance(study: str, evaluator: str, runs: str | None, storage: str | None, as_json: bool) -> None:
    """Estimate how strongly each hyperparameter affects the scores of STUDY."""
    from automl_cxr import api

    table = api.open_study(study, runs=runs, storage=storage).importance(evaluator=evaluator)
    if as_json:
        print_json({row["parameter"]: row for row in table.to_dict(orient="records")})
        return
    assessed = table[table["left_out"] == ""].drop(columns=["left_out"])
    ranking, conditional = assessed[~assessed["conditional"]], assessed[assessed["conditional"]]
    print_table(ranking.drop(columns=["conditional"]), title=f"{study}: {evaluator}")
    if not conditional.empty:
        title = "conditional hyperparameters: share within the trials in which each is active"
        print_table(conditional.drop(columns=["conditional"]), title=title)
    for row in table[table["left_out"] != ""].itertuples():
        print_message(f"omitted: {row.parameter} ({row.left_out})")


@click.command(
    cls=SectionedCommand, section=CommandSection.RESULTS, short_help="Score a trial or an ensemble on the test part."
)
@click.argument("target", metavar="STUDY|ENSEMBLE")
@click.option(
    "--split",
    "part",
    metavar="PART",
    help="Part of the images: test, valid (for cross-validation, out of fold) or train. Use of the test part is recorded.  "
    "[default: test]",
)
@click.option(
    "--external",
    metavar="DIR",
    help="Folder or table of labelled images from another site, instead of a part. A site may have only some of the classes.",
)
@class_map_option
@trial_option
@mirrored_option
@click.option(
    "--abstain",
    type=float,
    default=0.9,
    show_default=True,
    metavar="SHARE",
    help="Stated coverage of the conformal sets whose coverage is measured on the test part or the site.",
)
@moved_data_option
@click.option("--features", metavar="FILE", help="Table of features of the study, if it was moved.")
@location_options
@json_option
@debug_option
def evaluate(
    target: str,
    part: str | None,
    external: str | None,
    class_map: str | None,
    trial: int | None,
    mirrored: bool,
    abstain: float,
    data: str | None,
    features: str | None,
    runs: str | None,
    storage: str | None,
    as_json: bool,
) -> None:
    """Score a study's recommended classifier, or an ensemble, with 95% intervals by patient.

    The images are a part of the study's images, or with --external those of another site.
    """
    from automl_cxr import api

    classifier = open_target(target, trial=trial, runs=runs, storage=storage, mirrored=mirrored)
    study = api.open_study(classifier.study, runs=runs, storage=storage)
    with progress_bar("predicting") as on_progress:
        result = study.evaluate(
            classifier,
            part=part,
            data=data,
            features=features,
            external=external,
            class_map=class_map,
            abstain=abstain,
            on_progress=on_progress,
        )
    if as_json:
        print_json(
            {
                "study": study.name,
                "classifier": result.classifier,
                "split": result.part,
                **({"site": result.site} if result.site else {}),
                **({"notes": result.notes} if result.notes or result.site or result.predictions.is_multilabel else {}),
                "images": len(result.predictions),
                "scores": result.scores,
                "intervals": {name: vars(interval) for name, interval in result.intervals.items()},
                **({"findings": result.per_class.to_dict(orient="index")} if result.predictions.is_multilabel else {}),
                "calibration": result.calibration.to_dict(orient="records"),
                "net_benefit": result.net_benefits.to_dict(orient="records"),
                **_operating_point_fields(result),
                **_set_coverage_fields(result),
                "confusion": result.confusion.to_dict(orient="index"),
                "unreadable": result.unreadable,
                "test_opened": result.n_opened,
                "warnings": result.warnings,
            }
        )
        return
    _print_evaluation(study.name, result)


def _operating_point_fields(result: Any) -> dict[str, Any]:
    """Return the scores of operating points for JSON; nothing if the classifier has none."""
    return {} if result.operating_points is None else {"operating_points": result.operating_points.to_dict(orient="records")}


def _set_coverage_fields(result: Any) -> dict[str, Any]:
    """Return the coverage of conformal sets for JSON; nothing if it was not measured."""
    measured = result.set_coverage
    if measured is None:
        return {}
    return {"conformal_sets": {"stated": measured.stated, "coverage": measured.table.to_dict(orient="records")}}


def _print_evaluation(study: str, result: Any) -> None:
    import pandas as pd

    from automl_cxr.results.tables import fold_intervals

    n_patients = len(set(result.predictions.patients))
    print_line(f"{study}, {result.classifier}, {result.place}: {len(result.predictions)} images, {n_patients} patients")
    rows = [
        {"metric": name, "score": result.scores[name], "95% interval": f"{interval.low:.3f}..{interval.high:.3f}"}
        for name, interval in result.intervals.items()
    ]
    print_table(pd.DataFrame(rows), title="scores")
    if result.predictions.is_multilabel:
        print_table(fold_intervals(result.per_class.reset_index()), title="per finding")
        print_table(result.confusion.reset_index(), title="decisions at the thresholds")
    else:
        print_table(result.per_class.reset_index(), title="per class")
        print_table(result.confusion.reset_index(names="true \\ predicted"), title="confusion matrix")
    if result.operating_points is not None:
        print_table(fold_intervals(result.operating_points), title="operating points")
    for title, table in (("calibration", result.calibration), ("net benefit of decisions", result.net_benefits)):
        if not table.empty:
            print_table(fold_intervals(table), title=title)
    if result.set_coverage is not None:
        title = f"conformal sets with a stated coverage of {result.set_coverage.stated:.0%}"
        print_table(fold_intervals(result.set_coverage.table), title=title)
    for image, reason in result.unreadable.items():
        print_message(f"excluded: {image}: {reason}")
    for note in result.notes:
        print_message(note)
    for warning in result.warnings:
        print_message(f"warning: {warning}")
    if result.n_opened == 1:
        print_message("This first evaluation on the test part is recorded in the study.")
    elif result.n_opened > 1:
        print_message(f"The test part was evaluated {result.n_opened} times. Do not select models by it.")


@click.command(cls=SectionedCommand, section=CommandSection.SHIP, short_help="Classify image files and folders of images.")
@click.argument("target", metavar="STUDY|ENSEMBLE")
@click.argument("paths", nargs=-1, required=True, metavar="PATHS...")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="CSV file to write  [default: stdout]")
@click.option(
    "--abstain",
    type=float,
    metavar="SHARE",
    help="Decide only where the conformal set with this coverage of each class, such as 0.9, has one class. "
    " [default: a decision for each image]",
)
@click.option(
    "--features",
    metavar="FILE",
    help="Table of features of the images, for a study with a table of features: an npz file with ids and features.",
)
@click.option(
    "--sr",
    "reports",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="New or empty folder for a DICOM structured report of each DICOM image, marked as research use.",
)
@trial_option
@mirrored_option
@location_options
@json_option
@debug_option
def predict(
    target: str,
    paths: tuple[str, ...],
    out: Path | None,
    abstain: float | None,
    features: str | None,
    reports: Path | None,
    trial: int | None,
    mirrored: bool,
    runs: str | None,
    storage: str | None,
    as_json: bool,
) -> None:
    """Classify image files and all images in folders, with the recommended classifier of a study or an ensemble.

    If images may have several findings, the table has a probability and a decision (1 or 0, by the threshold of the classifier)
    for each finding. An ensemble with operating points has a decision for each of their classes.

    With --abstain, the table also has the conformal set of each image and the decision, which is empty where the classifier
    abstains.
    """
    from automl_cxr import api
    from automl_cxr.results.tables import to_json, to_plain_csv

    check_out(out)
    classifier = open_target(target, trial=trial, runs=runs, storage=storage, mirrored=mirrored)
    with progress_bar("predicting") as on_progress:
        table, problems = api.predict(
            classifier,
            paths,
            abstain=abstain,
            features=features,
            reports=reports,
            runs=runs,
            storage=storage,
            on_progress=on_progress,
        )
    for note in table.attrs["notes"]:
        print_message(note)
    for path, reason in problems.items():
        print_message(f"not predicted: {path}: {reason}")
    text = to_json(table) if as_json else to_plain_csv(table)
    if out is None:
        print_data(text)
    else:
        write_text(out, text)
        print_message(f"{len(table)} images predicted, {len(problems)} not; written to {out}")
    if table.empty:
        raise click.exceptions.Exit(1)


@click.command(cls=SectionedCommand, section=CommandSection.RESULTS, short_help="Browse all studies in the Optuna dashboard.")
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Network address to listen on. Any other address than the default is reachable from the network, without encryption.",
)
@click.option("--port", type=click.IntRange(1, 65535), default=8080, show_default=True, help="TCP port to listen on.")
@click.option(
    "--allow-host",
    "other_hosts",
    multiple=True,
    metavar="NAME",
    help="Another host name under which browsers open the dashboard, such as that of a reverse proxy. Repeatable.",
)
@click.option(
    "--allow-changes",
    is_flag=True,
    help="Let browsers create, rename and delete studies, change trials and attach files  [default: only notes]",
)
@location_options
@debug_option
def dashboard(
    host: str, port: int, other_hosts: tuple[str, ...], allow_changes: bool, runs: str | None, storage: str | None
) -> None:
    """Serve all studies in the Optuna dashboard until Ctrl-C.

    Open the printed address; each browser needs its token once. The page of a trial shows its learning curves and confusion
    matrix; the page of a study shows figures and its settings.
    """
    from automl_cxr import api
    from automl_cxr.results.dashboard import serve_dashboard

    folder, url = api.locate(runs, storage)
    serve_dashboard(
        url,
        runs=folder,
        host=host,
        port=port,
        other_hosts=other_hosts,
        allow_changes=allow_changes,
        on_ready=lambda address: print_message(f"Dashboard at {address} (stop with Ctrl-C)"),
    )
