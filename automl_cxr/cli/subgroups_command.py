"""The command `automl-cxr subgroups`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from automl_cxr.cli.options import Names, debug_option, json_option, location_options, moved_data_option
from automl_cxr.cli.output import check_out, print_json, print_line, print_message, print_table, progress_bar, write_table
from automl_cxr.cli.sections import CommandSection, SectionedCommand

if TYPE_CHECKING:
    import pandas as pd

    from automl_cxr.results.study_subgroups import StudySubgroups


@click.command(
    cls=SectionedCommand, section=CommandSection.RESULTS, short_help="Compare the scores of groups of patients, such as sexes."
)
@click.argument("study")
@click.option("--trial", type=click.IntRange(0), help="Number of a trial  [default: the recommended classifier]")
@click.option("--ensemble", metavar="NAME", help="Name or folder of an ensemble, instead of a trial.")
@click.option(
    "--split",
    "part",
    default="valid",
    show_default=True,
    metavar="PART",
    help="Part of the images: valid (for cross-validation, out of fold), test or train. Use of the test part is recorded.",
)
@click.option(
    "--by",
    type=Names(),
    metavar="COLUMN,...",
    help="Columns of the metadata, and intersections such as 'sex&age'.  [default: all that are known of sex, age, view, site, "
    "scanner and the columns that the search named with --subgroups]",
)
@click.option(
    "--metrics",
    type=Names(),
    help="Metrics in which the groups are compared.  [default: the objectives, macro_f1, macro_auc, fnfr, calibration_error]",
)
@click.option(
    "--min-patients",
    type=click.IntRange(2),
    default=20,
    show_default=True,
    help="Number of patients below which a group is shown, but not compared with others.",
)
@click.option(
    "--intersections/--no-intersections",
    default=True,
    help="Whether groups of two columns at once are compared, too: of the columns of --by, else of sex, age and view.",
)
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Table of every score of each group to write: .csv, .json, .md, .html, .xlsx or .tex.",
)
@moved_data_option
@location_options
@json_option
@debug_option
def subgroups(study: str, out: Path | None, runs: str | None, storage: str | None, as_json: bool, **choices: Any) -> None:
    """Score a classifier of STUDY in groups of patients, and test the gaps between the worst and the best group.

    The False No-Finding Rate (fnfr) measures underdiagnosis. A gap is a disparity if chance and the labels of the groups do not
    explain it: the groups are permuted among patients with the same labels, and the p-values are corrected for the number of
    tests (Holm). Intervals are 95% intervals by patient.
    """
    from automl_cxr import api
    from automl_cxr.results.tables import format_of

    check_out(out)
    kind = None if out is None else format_of(out)
    with progress_bar("predicting") as on_progress:
        found = api.open_study(study, runs=runs, storage=storage).subgroups(on_progress=on_progress, **choices)
    if out is not None and kind is not None:
        write_table(out, found.analysis.scores, kind, title=f"Subgroups of {study}")
        print_message(f"{len(found.analysis.scores)} scores written to {out}")
    if as_json:
        print_json(_as_json(found))
    else:
        _print_subgroups(found)


def _as_json(found: StudySubgroups) -> dict[str, Any]:
    analysis = found.analysis
    return {
        "study": found.study,
        "model": found.model,
        "part": found.place,
        "images": found.n_images,
        "patients": found.n_patients,
        "gaps": analysis.gaps.to_dict(orient="records"),
        "scores": analysis.scores.to_dict(orient="records"),
        "notes": analysis.notes,
        "unreadable": found.unreadable,
        "test_opened": found.n_opened,
    }


def _print_subgroups(found: StudySubgroups) -> None:
    from automl_cxr.results.tables import fold_intervals

    analysis = found.analysis
    print_line(f"{found.study}, {found.model}, {found.place}: {found.n_images} images, {found.n_patients} patients")
    for column, table in analysis.groups.groupby("column", sort=False):
        print_table(_without_empty(fold_intervals(table.drop(columns="column"))), title=str(column))
    if not analysis.gaps.empty:
        print_table(analysis.gaps, title="gaps between the worst and the best group")
    for sentence in analysis.disparities:
        print_line(f"disparity: {sentence}")
    if not analysis.disparities:
        print_line("No gap is larger than chance and the labels of the groups explain.")
    for note in analysis.notes:
        print_message(note)
    for image, reason in found.unreadable.items():
        print_message(f"excluded: {image}: {reason}")
    if found.n_opened == 1:
        print_message("This first evaluation on the test part is recorded in the study.")
    elif found.n_opened > 1:
        print_message(f"The test part was evaluated {found.n_opened} times. Do not select models by it.")


def _without_empty(table: pd.DataFrame) -> pd.DataFrame:
    """Leave out the column not_compared if all groups are compared."""
    return table if table["not_compared"].any() else table.drop(columns="not_compared")
