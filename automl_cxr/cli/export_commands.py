"""`automl-cxr export`: a trial or an ensemble as one file for other programs."""

from __future__ import annotations

from pathlib import Path

import click

from automl_cxr.cli.options import debug_option, json_option, location_options, trial_option
from automl_cxr.cli.output import print_json, say
from automl_cxr.cli.sections import CommandSection, SectionedCommand


@click.command(cls=SectionedCommand, section=CommandSection.SHIP, short_help="Write a trial or an ensemble as one model file.")
@click.argument("target", metavar="STUDY|TRIAL|ENSEMBLE")
@click.option(
    "--format",
    "file_format",
    metavar="NAME",
    help="keras, onnx, tflite or savedmodel  [default: by the suffix of --out, else keras]",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="File to write, or to replace  [default: the study's and the ensemble's name]",
)
@trial_option
@location_options
@json_option
@debug_option
def export(
    target: str,
    file_format: str | None,
    out: Path | None,
    trial: int | None,
    runs: str | None,
    storage: str | None,
    as_json: bool,
) -> None:
    """Write a study's best trial, a trial's folder or an ensemble's folder as one file.

    The file takes raw grey pixels 0..255 and gives probabilities. It is opened again in a process of its own and compared with
    what `predict` gives; a file that differs by more than 1e-5 is not kept. A JSON file beside it names classes and image size.
    """
    from automl_cxr import api
    from automl_cxr.results.export import check_destination, export_classifier

    if out is not None:
        check_destination(out, file_format)
    classifier = api.open_classifier(target, trial=trial, runs=runs, storage=storage)
    say(f"Writing {classifier.name} and comparing it with `predict`.")
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
        click.echo("not checked: onnxruntime is not installed; the file is well-formed ONNX")
    else:
        click.echo(f"checked: opened anew, its probabilities differ from `predict` by {done.difference:.1e} at most")
    for warning in classifier.warnings:
        click.echo(f"warning: {warning}")
    click.echo(f"classes, image size and digests: {done.description}")
    click.echo(f"file: {done.file}")
