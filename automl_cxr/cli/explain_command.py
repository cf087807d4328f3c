"""The command `automl-cxr explain`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from automl_cxr.cli.options import Duration, debug_option, json_option, location_options, moved_data_option, trial_option
from automl_cxr.cli.output import print_json, print_line, print_message, print_table, progress_bar
from automl_cxr.cli.sections import CommandSection, SectionedCommand
from automl_cxr.cli.targets import open_target
from automl_cxr.errors import UsageError

if TYPE_CHECKING:
    from automl_cxr.results.classifier import Classifier
    from automl_cxr.results.explain.explanation import ExplanationOptions

_DEFAULT_OUT = "explanations"


@click.command(cls=SectionedCommand, section=CommandSection.RESULTS, short_help="Show which image regions affect a prediction.")
@click.argument("target", metavar="STUDY|ENSEMBLE")
@click.argument("paths", nargs=-1, metavar="[IMAGES]...")
@click.option(
    "--method",
    default="gradcam",
    show_default=True,
    metavar="NAME",
    help="Method: gradcam, the image regions that support a class; activations, the feature maps of every convolution and "
    "pooling layer; shap, the contribution of each region to the probability of the class.",
)
@click.option(
    "--class",
    "class_name",
    metavar="NAME",
    help="Class or finding to explain  [default: the predicted class of each image, or its predicted findings]",
)
@click.option(
    "--layer",
    metavar="NAME",
    help="Layer for gradcam, such as backbone/fire5_concat  [default: the last feature maps of each branch]",
)
@click.option(
    "--evaluations",
    type=click.IntRange(10),
    default=300,
    show_default=True,
    help="Number of masked copies of an image for shap. More copies give finer regions.",
)
@click.option(
    "--time",
    "seconds",
    type=Duration(),
    help="Wall time after which the command stops; finished images are kept. Typed like 45s or 10m.",
)
@click.option(
    "--per-class",
    type=click.IntRange(1),
    default=3,
    show_default=True,
    help="Number of validation images of each class, if no IMAGES are given.",
)
@click.option(
    "--corners",
    is_flag=True,
    help="Do not write images. Measure the fraction of the gradcam evidence in corners and borders, outside the lungs, over "
    "IMAGES or the whole validation part.",
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for the PNG files and index.csv  [default: explanations]",
)
@trial_option
@moved_data_option
@location_options
@json_option
@debug_option
def explain(
    target: str,
    paths: tuple[str, ...],
    class_name: str | None,
    per_class: int,
    corners: bool,
    out: Path | None,
    trial: int | None,
    data: str | None,
    runs: str | None,
    storage: str | None,
    as_json: bool,
    evaluations: int,
    **choices: Any,
) -> None:
    """Show which regions of IMAGES affect the predictions of a study's recommended classifier or of an ensemble.

    IMAGES are files or folders. The command writes a PNG file for each image, with the class and its probability, and an
    index.csv. If images may have several findings, it writes a PNG file for each predicted finding of each image; without
    IMAGES, for each finding of the validation images.
    """
    from automl_cxr import api
    from automl_cxr.data.dataset import load_image_paths
    from automl_cxr.results.explain.explanation import ExplanationOptions

    options = ExplanationOptions(class_name=class_name, n_evaluations=evaluations, **choices)
    if corners and (out is not None or options.method != "gradcam" or options.seconds is not None):
        raise UsageError("--corners measures gradcam evidence and writes no files. Omit --out, --method and --time.")
    classifier = open_target(target, trial=trial, runs=runs, storage=storage)
    explained: dict[str, tuple[str, ...]] = {}
    if paths:
        files, problems = load_image_paths(paths)
        images, labels = list(map(str, files)), {}
        for note in api.record_test_images(classifier, files, "explanations", runs=runs, storage=storage):
            print_message(note)
    else:
        problems = {}
        study = api.open_study(classifier.study, runs=runs, storage=storage)
        labels = study.validation_images(per_class=None if corners else per_class, data=data)
        images = list(labels)
        if classifier.is_multilabel and class_name is None and not corners:
            explained = study.validation_findings(per_finding=per_class, data=data)
    for path, reason in problems.items():
        _print_problem(path, reason)
    if corners:
        _measure(classifier, images, options, as_json=as_json)
    else:
        _draw(classifier, images, labels, explained, options, out or Path(_DEFAULT_OUT), as_json=as_json)


def _print_problem(path: str, reason: str) -> None:
    print_message(f"not explained: {path}: {reason}")


def _draw(
    classifier: Classifier,
    images: list[str],
    labels: dict[str, str],
    explained: dict[str, tuple[str, ...]],
    options: ExplanationOptions,
    out: Path,
    *,
    as_json: bool,
) -> None:
    from automl_cxr.results.explain.explanation import write_explanations

    unreadable: list[str] = []

    def on_problem(image: str, reason: str) -> None:
        unreadable.append(image)
        _print_problem(image, reason)

    with progress_bar("explaining") as on_progress:
        index = write_explanations(
            classifier,
            images,
            options,
            out,
            labels=labels,
            explained=explained,
            on_progress=on_progress,
            on_problem=on_problem,
        )
    n_done = index["image"].nunique()
    if as_json:
        print_json({"folder": str(out), "images": n_done, "pictures": index.to_dict(orient="records")})
    else:
        print_line(f"{n_done} of {len(images)} images explained, {len(index)} pictures: {out / 'index.csv'}")
    if options.seconds is not None and n_done + len(unreadable) < len(images):
        print_message(f"Time limit reached after {n_done} of {len(images)} images. Set a longer --time or fewer --evaluations.")
    if index.empty:
        raise click.exceptions.Exit(1)


def _measure(classifier: Classifier, images: list[str], options: ExplanationOptions, *, as_json: bool) -> None:
    from automl_cxr.results.explain.off_lung_evidence import measure_off_lung_evidence, off_lung_warnings

    with progress_bar("explaining") as on_progress:
        table = measure_off_lung_evidence(
            classifier,
            images,
            class_name=options.class_name,
            layer=options.layer,
            on_progress=on_progress,
            on_problem=_print_problem,
        )
    warnings = off_lung_warnings(table)
    if as_json:
        print_json({"classifier": classifier.name, "regions": table.to_dict(orient="records"), "warnings": warnings})
    else:
        print_table(table, title=f"{classifier.name}: fraction of the evidence for each class in corners and borders")
    for warning in warnings:
        print_message(f"Warning: {warning}")
