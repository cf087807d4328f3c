"""Explanations of a classifier's predictions by Grad-CAM, activation maps or SHAP values, in memory or as files."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from automl_cxr.errors import UnknownNameError, UsageError
from automl_cxr.results.classifier import Classifier, LoadedClassifier
from automl_cxr.results.explain.activation_maps import activations_explainer
from automl_cxr.results.explain.gradcam_overlays import GRADCAM_BATCH_SIZE, gradcam_explainer
from automl_cxr.results.explain.image_batches import BatchExplainer, OnProblem, OnProgress, read_batches
from automl_cxr.results.explain.overlays import HeatmapOverlay, file_name_parts, write_overlay
from automl_cxr.results.explain.shap_overlays import shap_explainer
from automl_cxr.results.explain.shap_values import DEFAULT_EVALUATIONS, MIN_EVALUATIONS, TimeIsUpError, load_shap
from automl_cxr.results.tables import safe_cells

_INDEX_FILE = "index.csv"
INDEX_COLUMNS = (
    "image", "label", "predicted", "probability", "explained", "explained_probability", "method", "detail", "outside",
)  # fmt: skip
METHODS = ("gradcam", "activations", "shap")  # see ``_build_explainer``


@dataclass(frozen=True, kw_only=True)
class ExplanationOptions:
    """Options of an explanation.

    Attributes:
        method: A name of ``METHODS``.
        class_name: The class to explain; by default the predicted class of each image, or all predicted findings.
        layer: For Grad-CAM: a layer with feature maps; by default the last feature maps.
        n_evaluations: For SHAP: number of predictions of masked copies of an image.
        seconds: Time limit after which no further image or evaluation starts; None for no limit.

    Raises:
        UsageError: The method is unknown, a layer is given for another method than Grad-CAM, or there are too few evaluations.
    """

    method: str = "gradcam"
    class_name: str | None = None
    layer: str | None = None
    n_evaluations: int = DEFAULT_EVALUATIONS
    seconds: float | None = None

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise UnknownNameError("method", self.method, METHODS)
        if self.layer is not None and self.method != "gradcam":
            raise UsageError(f"Only gradcam supports a layer; received '{self.layer}' with {self.method}. Remove it.")
        if self.n_evaluations < MIN_EVALUATIONS:
            raise UsageError(f"SHAP needs at least {MIN_EVALUATIONS} evaluations; received {self.n_evaluations}.")


def explain(
    classifier: Classifier,
    images: Sequence[str | Path],
    *,
    method: str = "gradcam",
    class_name: str | None = None,
    layer: str | None = None,
    n_evaluations: int = DEFAULT_EVALUATIONS,
    seconds: float | None = None,
    labels: Mapping[str, str] | None = None,
    explained: Mapping[str, Sequence[str]] | None = None,
    on_progress: OnProgress | None = None,
    on_problem: OnProblem | None = None,
) -> list[HeatmapOverlay]:
    """Explain a classifier's predictions for some images.

    Args:
        classifier: A trial or an ensemble.
        images: Image files.
        method: "gradcam": the image regions that support a class. "activations": the feature maps of every convolution and
            pooling layer. "shap": the contribution of each region to the probability of a class.
        class_name: The class to explain; by default the predicted class of each image. For findings, by default those whose
            probability reaches the threshold; if there is none, the one whose probability is the largest relative to it.
        layer: For Grad-CAM: a layer with feature maps; by default the last feature maps of each branch.
        n_evaluations: For SHAP: number of masked copies of each image that are predicted.
        seconds: Time limit; the result contains the images that are finished within it.
        labels: True class by image, if known; for findings those that are present, as "A|B".
        explained: The classes to explain by image, which take precedence over ``class_name``.
        on_progress: Called with (processed images, all images); for SHAP with evaluations instead of images.
        on_problem: Called with an image and the reason why it cannot be read.

    Returns:
        One overlay for each image and explained class, or for "activations" one for each image and layer, in the order of the
        images.

    Raises:
        UsageError: A name is unknown, an option does not fit the method, or shap is not installed.
        TrialError: A model file is damaged.
    """
    options = ExplanationOptions(
        method=method, class_name=class_name, layer=layer, n_evaluations=n_evaluations, seconds=seconds
    )
    overlays = explain_each(
        classifier, images, options, labels=labels, explained=explained, on_progress=on_progress, on_problem=on_problem
    )
    return list(overlays)


def explain_each(
    classifier: Classifier,
    images: Sequence[str | Path],
    options: ExplanationOptions,
    *,
    labels: Mapping[str, str] | None = None,
    explained: Mapping[str, Sequence[str]] | None = None,
    on_progress: OnProgress | None = None,
    on_problem: OnProblem | None = None,
) -> Iterator[HeatmapOverlay]:
    """Yield the overlays of ``explain`` one by one, so that only one batch is in memory."""
    if options.method == "shap":
        load_shap()  # before the networks are loaded, to report a missing package early
    deadline = None if options.seconds is None else time.monotonic() + options.seconds
    loaded = LoadedClassifier(classifier)
    explain_batch = _build_explainer(loaded, options, deadline, len(images), on_progress)
    batches = read_batches(
        loaded,
        images,
        class_name=options.class_name,
        labels=labels,
        explained=explained,
        batch_size=GRADCAM_BATCH_SIZE if options.method == "gradcam" else 1,
        max_classes=1 if options.method == "activations" else None,  # feature maps do not depend on the class
        on_problem=on_problem,
    )
    for batch in batches:
        try:
            yield from explain_batch(batch)
        except TimeIsUpError:
            return
        if on_progress is not None and options.method != "shap":
            on_progress(batch.n_finished, len(images))
        if deadline is not None and time.monotonic() > deadline:
            return


def _build_explainer(
    loaded: LoadedClassifier,
    options: ExplanationOptions,
    deadline: float | None,
    n_images: int,
    on_progress: Callable[[int, int], None] | None,
) -> BatchExplainer:
    """Return the function of the method that explains a batch of images."""
    if options.method == "gradcam":
        return gradcam_explainer(loaded, layer=options.layer)
    if options.method == "activations":
        return activations_explainer(loaded)
    return shap_explainer(
        loaded, n_evaluations=options.n_evaluations, n_images=n_images, deadline=deadline, on_progress=on_progress
    )


def write_explanations(
    classifier: Classifier,
    images: Sequence[str | Path],
    options: ExplanationOptions,
    folder: Path,
    *,
    labels: Mapping[str, str] | None = None,
    explained: Mapping[str, Sequence[str]] | None = None,
    on_progress: OnProgress | None = None,
    on_problem: OnProblem | None = None,
) -> pd.DataFrame:
    """Explain images and write a PNG file for each overlay and an ``index.csv`` into a folder.

    Returns:
        The index, one row for each file: file, image, label, predicted, probability, explained, explained_probability,
        method, detail and outside, as in ``HeatmapOverlay``.

    Raises:
        UsageError: The folder cannot be written, or contains an index.csv of another program; other errors as in ``explain``.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _check_index(folder / _INDEX_FILE)
    except OSError as error:
        raise UsageError(f"Cannot write into {folder} ({error.strerror or error}). Choose another folder.") from error
    numbers = {str(image): number for number, image in enumerate(images, start=1)}
    overlays = explain_each(
        classifier, images, options, labels=labels, explained=explained, on_progress=on_progress, on_problem=on_problem
    )
    parts = file_name_parts(classifier.classes) if classifier.is_multilabel else {}
    rows = []
    for overlay in overlays:
        file = write_overlay(overlay, folder, numbers[overlay.image], finding=parts.get(overlay.explained, ""))
        rows.append({"file": file.name, **{name: getattr(overlay, name) for name in INDEX_COLUMNS}})
    index = pd.DataFrame(rows, columns=["file", *INDEX_COLUMNS])
    safe_cells(index).to_csv(folder / _INDEX_FILE, index=False)
    return index


def _check_index(file: Path) -> None:
    """Raise UsageError if the index in the folder was not written by this function."""
    if not file.exists():
        return
    with file.open(encoding="utf-8", errors="replace") as stream:
        header = stream.readline().rstrip("\n")
    if header != ",".join(("file", *INDEX_COLUMNS)):
        raise UsageError(f"The pictures are listed in {file}, which is another file. Choose another folder with --out.")
