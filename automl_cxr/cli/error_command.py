"""The command `automl-cxr errors`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from automl_cxr.cli.options import Numbers, debug_option, json_option, location_options, moved_data_option
from automl_cxr.cli.output import (
    check_out,
    print_json,
    print_line,
    print_message,
    print_table,
    progress_bar,
    write_table,
    write_text,
)
from automl_cxr.cli.sections import CommandSection, SectionedCommand
from automl_cxr.errors import UnknownNameError, UsageError

if TYPE_CHECKING:
    from automl_cxr.results.error_analysis import ErrorAnalysis
    from automl_cxr.results.finding_errors import FindingErrors

_TABLE_SUFFIXES = {".csv": "csv", ".json": "json", ".md": "md"}


@click.command(
    cls=SectionedCommand, section=CommandSection.RESULTS, short_help="Show which images trials and ensembles misclassify."
)
@click.argument("study")
@click.option("--trials", type=Numbers(), help="Numbers of the trials to compare  [default: the recommended classifier]")
@click.option("--top", type=click.IntRange(1), help="Number of best trials to compare.")
@click.option(
    "--ensemble", "ensembles", multiple=True, metavar="NAME", help="Name or folder of an ensemble to compare. Repeatable."
)
@click.option(
    "--predictions",
    type=click.Path(dir_okay=False, path_type=Path),
    multiple=True,
    metavar="FILE",
    help="Predictions of another program for the same images, .npz or CSV. Repeatable.",
)
@click.option(
    "--split",
    "part",
    default="valid",
    show_default=True,
    metavar="PART",
    help="Part of the images: valid (for cross-validation, out of fold), test or train. Use of the test part is recorded.",
)
@click.option(
    "--show",
    "n_shown",
    type=click.IntRange(1),
    default=6,
    show_default=True,
    help="Number of images of each class in each group on the page, and of wrong predictions in each table on the terminal.",
)
@click.option(
    "--format",
    "kind",
    metavar="KIND",
    help="Format of the file: html, a page with images; csv, json or md, one row per image  "
    "[default: by the suffix of --out, else html]",
)
@click.option(
    "--out", type=click.Path(dir_okay=False, path_type=Path), help="File to write, in addition to the output on the terminal."
)
@moved_data_option
@location_options
@json_option
@debug_option
def errors(
    study: str,
    trials: list[int] | None,
    top: int | None,
    ensembles: tuple[str, ...],
    predictions: tuple[Path, ...],
    part: str,
    n_shown: int,
    kind: str | None,
    out: Path | None,
    data: str | None,
    runs: str | None,
    storage: str | None,
    as_json: bool,
) -> None:
    """Show the images that the trials and ensembles of STUDY misclassify, with the probabilities.

    Images are counted by class in four groups: all models wrong, all right, only one wrong, only one right. Wrong predictions
    are listed by confidence and by uncertainty. `--out errors.html` writes a page with the images. If images may have several
    findings, the missed and the falsely reported findings are counted, and the pairs of errors in one image.
    """
    from automl_cxr import api

    check_out(out)
    kind = _check_format(kind, out)
    opened = api.open_study(study, runs=runs, storage=storage)
    with progress_bar("predicting") as on_progress:
        analysis = opened.errors(
            trials=trials,
            top=top,
            ensembles=ensembles,
            predictions=predictions,
            part=part,
            data=data,
            on_progress=on_progress,
        )
    if top is not None and len(analysis.models) < top:
        print_message(f"Only {len(analysis.models)} models can be compared, fewer than --top {top}.")
    for note in analysis.notes:
        print_message(note)
    if as_json:
        print_json(_as_json(analysis))
    else:
        _print_errors(analysis, n_shown)
    if out is None:
        return
    if kind == "html":
        with progress_bar("drawing") as on_progress:
            write_text(out, opened.error_page(analysis, n_shown=n_shown, data=data, on_progress=on_progress))
    else:
        write_table(out, analysis.table(), kind, title=f"Errors of {study}")
    print_message(f"{len(analysis.images)} images written to {out}")


def _check_format(kind: str | None, out: Path | None) -> str:
    """Return the format of the file.

    Raises:
        UnknownNameError: The format does not exist.
        UsageError: A format is given without a file.
    """
    kinds = ("html", *_TABLE_SUFFIXES.values())
    if kind is not None and kind not in kinds:
        raise UnknownNameError("format", kind, kinds)
    if kind is not None and out is None:
        raise UsageError(f"--format is the format of a file; received --format {kind} without --out. Add --out, or use --json.")
    return kind or _TABLE_SUFFIXES.get(out.suffix.lower() if out else "", "html")


def _as_json(analysis: ErrorAnalysis | FindingErrors) -> dict[str, Any]:
    images = analysis.images
    return {
        "study": analysis.study,
        "part": analysis.place,
        "images": len(images),
        "patients": len(set(images.patients)),
        "models": _records(analysis.by_model),
        **(_finding_counts(analysis) if images.is_multilabel else _class_counts(analysis)),
        "pairs": _records(analysis.pairs),
        "auc_differences": _records(analysis.auc_differences),
        "confusions": _records(analysis.confusions()),
        "unreadable": analysis.unreadable,
        "test_opened": analysis.n_opened,
        "notes": analysis.notes,
    }


def _class_counts(analysis: Any) -> dict[str, Any]:
    images = analysis.images
    groups = {
        str(group): [images.ids[row] for column in range(len(images.classes)) for row in analysis.rows(group, column)]
        for group in analysis.groups
    }
    return {"classes": _records(analysis.by_class), "groups": groups}


def _finding_counts(analysis: Any) -> dict[str, Any]:
    thresholds = [dict(zip(analysis.images.classes, row.tolist(), strict=True)) for row in analysis.thresholds]
    return {
        "findings": _records(analysis.by_finding),
        "thresholds": dict(zip(analysis.models, thresholds, strict=True)),
    }


def _records(table: Any) -> list[dict[str, Any]]:
    return table.to_dict(orient="records")


def _print_errors(analysis: ErrorAnalysis | FindingErrors, n_shown: int) -> None:
    images = analysis.images
    n_patients = len(set(images.patients))
    print_line(f"{analysis.study}, {analysis.place}: {len(images)} images, {n_patients} patients")
    print_table(analysis.by_model, title="errors of each model")
    if images.is_multilabel:
        shown = _print_finding_errors(analysis, n_shown)
    else:
        print_table(analysis.by_class, title="images of each class by agreement of the models")  # type: ignore[union-attr]
        shown = ["image", "label", "model", "predicted", "probability", "margin"]
        if not analysis.pairs.empty:
            print_table(analysis.pairs, title="confused classes")
    if not analysis.auc_differences.empty:
        _print_auc_differences(analysis)
    if not analysis.is_wrong.any():
        print_line("No image is misclassified.")
        return
    for order in ("confident", "uncertain"):
        worst = analysis.confusions(order=order).head(n_shown)[shown]
        print_table(worst, title=f"most {order} first")
    for image, reason in analysis.unreadable.items():
        print_message(f"excluded: {image}: {reason}")
    if analysis.n_opened:
        print_message(f"The test part was evaluated {analysis.n_opened} times, once per model. Do not select models by it.")


def _print_auc_differences(analysis: ErrorAnalysis | FindingErrors) -> None:
    from automl_cxr.results.auc_differences import describe_dependence
    from automl_cxr.results.tables import fold_intervals

    title = "areas under the ROC curves: bootstrap by patient, and DeLong's test"
    print_table(fold_intervals(analysis.auc_differences), title=title)
    note = describe_dependence(analysis.images)
    if note:
        print_message(note)


def _print_finding_errors(analysis: Any, n_shown: int) -> list[str]:
    """Print the errors on each finding and the pairs of errors; return the columns to show of the wrong decisions."""
    print_table(analysis.by_finding, title="errors on each finding")
    if not analysis.pairs.empty:
        print_table(analysis.pairs.head(n_shown), title="images with two errors, the most frequent pairs first")
    return ["image", "finding", "error", "model", "probability", "threshold", "margin"]
