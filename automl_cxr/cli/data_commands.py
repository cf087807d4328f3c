"""The commands of `automl-cxr data`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from automl_cxr.cli.options import data_options, debug_option, json_option
from automl_cxr.cli.output import check_out, print_json, print_line, print_message, print_table, progress_bar, write_text
from automl_cxr.cli.sections import CommandSection, SectionedGroup

if TYPE_CHECKING:
    from automl_cxr.data.audit.record import Audit

_ROWS_SHOWN = 20


@click.group(cls=SectionedGroup, section=CommandSection.DATA, short_help="Inspect data, audit them, or draw phantom images.")
def data() -> None:
    """Inspect data, audit them, or draw phantom radiographs."""


@data.command("inspect")
@click.argument("directory", metavar="DIR")
@click.option(
    "--save",
    type=click.Path(path_type=Path),
    help="CSV table to write in the normal form: path, label (of several findings, a column for each), patient_id, split, "
    "view. --data accepts it.",
)
@data_options
@json_option
@debug_option
def inspect(
    directory: str,
    save: Path | None,
    as_json: bool,
    **choices: Any,
) -> None:
    """Show the classes, patients, projections, image sizes and given split of DIR, and every file that cannot be read.

    DIR is a folder or a table of images. The use of each column of a table is shown, with three images as they were understood.
    Of several findings, the positive, negative, uncertain and unknown labels of each are counted.
    """
    from automl_cxr import api

    check_out(save)
    with progress_bar("decoding") as on_progress:
        found = api.inspect(directory, save=save, on_progress=on_progress, **choices)
    if save is not None:
        print_message(f"table: {save}")
    if as_json:
        tables = {name: getattr(found, name).to_dict(orient="records") for name in ("classes", "splits", "columns", "examples")}
        values = {name: value for name, value in vars(found).items() if name not in ("images", "findings")}
        print_json({**values, **tables, "root": str(found.root)})
        return
    patients_text = "unknown" if found.n_patients is None else f"{found.n_patients}"
    if found.n_without_patient:
        patients_text += f", images without a patient: {found.n_without_patient}"
    print_line(f"{found.root}: layout {found.layout}, {len(found.images)} images, patients: {patients_text}")
    is_multilabel = found.findings is not None
    print_table(found.classes, title="findings, images" if is_multilabel else "classes")
    if not found.splits.empty:
        print_table(found.splits, title=f"given split, images{' with each finding' if is_multilabel else ''}")
    if not found.columns.empty:
        print_table(found.columns, title="use of the columns")
        print_line(f"columns without use: {', '.join(found.unused_columns) or 'none'}")
    print_table(found.examples, title="examples, as understood")
    if set(found.views) != {"unknown"}:  # a name of ``projections.PROJECTIONS``
        print_line("projections: " + ", ".join(f"{name} {n}" for name, n in found.views.items()))
    for element, counts in found.headers.items():
        print_line(f"DICOM {element}: " + ", ".join(f"{value} {n}" for value, n in counts.items()))
    print_line("sizes (height x width): " + ", ".join(f"{name} {h}x{w}" for name, (h, w) in found.sizes.items()))
    if found.n_patients_in_classes:
        print_line(f"{found.n_patients_in_classes} patients have images in more than one class")
    for what, reasons in (("cannot be read", found.unreadable), ("ignored", found.ignored)):
        if reasons:
            print_line(f"{what}: {len(reasons)}")
        for path, reason in reasons.items():
            print_line(f"  {path}: {reason}")
    for note in found.notes:
        print_line(f"note: {note}")


@data.command("audit")
@click.argument("directory", metavar="DIR")
@click.option("--out", type=click.Path(path_type=Path), help="HTML page to write, with images of the duplicates.")
@click.option(
    "--fix",
    type=click.Path(path_type=Path),
    help="CSV table to write without duplicates and conflicts, and with each patient in one part. NAME.changes.csv beside it "
    "lists the changes and their reasons.",
)
@data_options
@json_option
@debug_option
def audit(
    directory: str,
    out: Path | None,
    fix: Path | None,
    as_json: bool,
    **choices: Any,
) -> None:
    """Search the images of DIR for duplicates, leaks between parts, and shortcuts that separate the classes without anatomy.

    Duplicates are also found after resizing, compression, brightening or mirroring. The shortcut baseline is the score of a
    random forest, on patients that it was not trained on, from only image size, file properties, brightness, borders and
    corners. A useful classifier scores higher. The metadata baseline is the score of a logistic regression on sex, age, view
    and other metadata, without the image.
    """
    from automl_cxr import api

    for file in (out, fix):
        check_out(file)
    with progress_bar("reading images") as on_progress:
        found = api.audit(directory, fix=fix, on_progress=on_progress, **choices)
    if out is not None:
        from automl_cxr.results.audit_page import audit_sections
        from automl_cxr.results.html_page import render_page

        write_text(out, render_page("Data audit", audit_sections(found)))
        print_message(f"page: {out}")
    if fix is not None:
        print_message(f"cleaned table: {fix}    changes: {api.changes_file(fix)}")
    if as_json:
        import json

        print_json(
            {
                **json.loads(found.to_json()),
                "baseline": found.baseline,
                "metadata_baseline": found.metadata_baseline,
                "warnings": found.warnings,
            }
        )
        return
    _print_audit(found)


def _print_audit(found: Audit) -> None:
    counts = ", ".join(f"{n} {name}" for name, n in zip(found.classes, found.n_images, strict=True))
    print_line(f"{found.root}: {found.n_all} images ({counts})")
    separation = (
        "ROC AUC of each single image statistic for each finding"
        if found.is_multilabel
        else "separation of the classes by each single image statistic (medians by class)"
    )
    tables = {
        "shortcut baseline of each finding, ROC AUC": found.shortcut_by_finding,
        "metadata baseline of each finding, ROC AUC": found.metadata_by_finding,
        separation: found.statistics,
        "suspected burnt-in text and markers, fraction of the images": found.burnt_in_text,
        "duplicates": found.duplicates,
        "patients in more than one part": found.patients_across_parts,
        "file formats, images": found.file_formats,
    }
    for title, table in tables.items():
        if not table.empty:
            cut = f"; the first {_ROWS_SHOWN} of {len(table)} (--json lists all)" if len(table) > _ROWS_SHOWN else ""
            print_table(table.head(_ROWS_SHOWN), title=title + cut)
    if not found.found_duplicates:
        print_line("no duplicates were found")
    if found.unreadable:
        print_line(f"cannot be read: {len(found.unreadable)} (`automl-cxr data inspect` lists them)")
    for note in found.notes:
        print_line(f"note: {note}")
    for sentence in filter(None, (found.baseline, found.metadata_baseline)):
        print_line(sentence)
    for warning in found.warnings:
        print_line(f"warning: {warning}")


@data.command("demo")
@click.argument("directory", metavar="DIR")
@click.option("--images", "n_images", type=click.IntRange(12), default=600, show_default=True, help="Number of images.")
@click.option(
    "--image-size",
    type=click.IntRange(32, 1024),
    default=128,
    show_default=True,
    help="Height and width of an image, in pixels.",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Random seed of the images.")
@debug_option
def demo(directory: str, n_images: int, image_size: int, seed: int) -> None:
    """Draw phantom radiographs into DIR, in three classes: normal, opacity and effusion."""
    from automl_cxr.data.phantoms import draw_phantoms

    folder = draw_phantoms(directory, n_images=n_images, image_size=image_size, seed=seed)
    print_line(f"{n_images} phantom radiographs in {folder}")
