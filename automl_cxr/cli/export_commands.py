"""The command `automl-cxr export`."""

from __future__ import annotations

from pathlib import Path

import click

from automl_cxr.choices import EXPORT_FORMATS, list_choices
from automl_cxr.cli.options import debug_option, json_option, location_options, mirrored_option, trial_option
from automl_cxr.cli.output import print_json, print_line, print_message
from automl_cxr.cli.sections import CommandSection, SectionedCommand
from automl_cxr.cli.targets import open_target


@click.command(cls=SectionedCommand, section=CommandSection.SHIP, short_help="Write a trial or an ensemble as one model file.")
@click.argument("target", metavar="STUDY|TRIAL|ENSEMBLE")
@click.option(
    "--format",
    "file_format",
    metavar="NAME",
    help=f"Format of the file: {list_choices(EXPORT_FORMATS)}  [default: by the suffix of --out, else keras]",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="File to write; an existing file is replaced  [default: named after the study and the trial or ensemble]",
)
@trial_option
@mirrored_option
@location_options
@json_option
@debug_option
def export(
    target: str,
    file_format: str | None,
    out: Path | None,
    trial: int | None,
    mirrored: bool,
    runs: str | None,
    storage: str | None,
    as_json: bool,
) -> None:
    """Write a classifier as one model file: the recommended one of a study, or the folder of a trial or an ensemble.

    The input of the model is raw grey pixels 0..255, its output is probabilities. A separate process opens the file and
    compares it with `automl-cxr predict`; a file whose probabilities differ by more than 1e-5 is deleted. A JSON file beside it
    contains the class names and the image size. If images may have several findings, or the ensemble has operating points, a
    second output is the decision on each finding or class (1 or 0), and the JSON file contains the thresholds.
    """
    from automl_cxr.results.export import check_destination, export_classifier

    if out is not None:
        check_destination(out, file_format)
    classifier = open_target(target, trial=trial, runs=runs, storage=storage, mirrored=mirrored)
    print_message(f"Writing {classifier.name} and comparing it with `predict`.")
    done = export_classifier(classifier, out, file_format=file_format)
    if as_json:
        print_json(
            {
                "file": str(done.file),
                "description": str(done.description),
                "format": done.file_format,
                "difference": done.difference,
                "warnings": classifier.warnings,
            }
        )
        return
    if done.difference is None:
        print_line("not compared, because onnxruntime is not installed; the file is valid ONNX")
    else:
        print_line(f"compared: the probabilities of the file differ from `automl-cxr predict` by at most {done.difference:.1e}")
    for warning in classifier.warnings:
        print_line(f"warning: {warning}")
    print_line(f"classes, image size and digests: {done.description}")
    print_line(f"file: {done.file}")
