"""Why a classifier says what it says of an image: heat maps, feature maps, SHAP values; and evidence where no lung is."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from automl_cxr.data.decode import decode_image
from automl_cxr.errors import UnknownNameError, UnreadableImageError, UsageError
from automl_cxr.results.classifier import Classifier, LoadedClassifier
from automl_cxr.results.explain.classifier_gradcam import ClassifierGradCam, Heatmap, ImageHeatmap, on_picture
from automl_cxr.results.explain.off_lung_evidence import ALL, REGIONS, SUSPICIOUS, evidence_by_region, outside, sum_up
from automl_cxr.results.explain.overlays import (
    HeatmapOverlay,
    draw_sheet,
    overlay_heatmap,
    overlay_signed,
    shown,
    write_overlay,
)
from automl_cxr.results.explain.shap_values import DEFAULT_EVALUATIONS, LEAST_EVALUATIONS, TimeIsUpError, load_shap, shap_values
from automl_cxr.results.tables import safe_cells

INDEX_COLUMNS = (
    "image", "label", "predicted", "probability", "explained", "explained_probability", "method", "detail", "outside",
)  # fmt: skip
METHODS = ("gradcam", "activations", "shap")
_AT_ONCE = 16  # images whose feature maps are in memory together
_MOST_PARTS = 6  # pictures of single networks beside the joined one
_PLACES = {region: "the borders" if region == "borders" else f"the {region.replace('_', ' ')} corner" for region in REGIONS}
OnProgress = Callable[[int, int], None]
OnProblem = Callable[[str, str], None]


@dataclass(frozen=True, kw_only=True)
class Explaining:
    """How images are explained.

    Attributes:
        method: A name of ``METHODS``.
        class_name: The class to explain; by default the predicted one of each image.
        layer: Of Grad-CAM: a layer with feature maps; by default the last ones.
        n_evaluations: Of SHAP: predictions of masked copies of an image.
        seconds: After which no further image, and no further evaluation, is begun; None for no limit.

    Raises:
        UsageError: No such method, a layer for another method than Grad-CAM, or too few evaluations.
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
            raise UsageError(f"A layer is named for gradcam alone; received '{self.layer}' with {self.method}. Leave it out.")
        if self.n_evaluations < LEAST_EVALUATIONS:
            raise UsageError(f"SHAP needs {LEAST_EVALUATIONS} evaluations or more; received {self.n_evaluations}.")


@dataclass(frozen=True, eq=False)
class _Seen:
    """Some images, what each member takes of them, and what the classifier says."""

    images: list[str]
    labels: list[str | None]
    pictures: list[np.ndarray]
    squares: list[np.ndarray]
    probabilities: np.ndarray
    columns: np.ndarray


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
    on_progress: OnProgress | None = None,
    on_problem: OnProblem | None = None,
) -> list[HeatmapOverlay]:
    """Explain what a classifier says of some images.

    Args:
        classifier: A trial or an ensemble.
        images: Image files.
        method: "gradcam": where the evidence for a class lies. "activations": the feature maps of every convolution and pool.
            "shap": what regions add to a class's probability, or take from it.
        class_name: The class; by default the predicted one of each image.
        layer: Of Grad-CAM: a layer with feature maps; by default the last ones of each branch.
        n_evaluations: Of SHAP: masked copies of each image that are predicted.
        seconds: After this time it ends with the images that are done.
        labels: True class by image, where known.
        on_progress: Told (images done, images in all); of SHAP evaluations.
        on_problem: Told an image and the reason why it could not be read.

    Returns:
        One picture an image, or of "activations" one for each image and layer, in the order of the images.

    Raises:
        UsageError: A name is unknown, an option does not fit the method, or shap is not installed.
        TrialError: A model file is damaged.
    """
    how = Explaining(method=method, class_name=class_name, layer=layer, n_evaluations=n_evaluations, seconds=seconds)
    found = explain_each(classifier, images, how, labels=labels, on_progress=on_progress, on_problem=on_problem)
    return list(found)


def explain_each(
    classifier: Classifier,
    images: Sequence[str | Path],
    how: Explaining,
    *,
    labels: Mapping[str, str] | None = None,
    on_progress: OnProgress | None = None,
    on_problem: OnProblem | None = None,
) -> Iterator[HeatmapOverlay]:
    """Do as ``explain``, and yield each picture when it is done, keeping none."""
    if how.method == "shap":
        load_shap()  # before the networks are opened in vain
    deadline = None if how.seconds is None else time.monotonic() + how.seconds
    loaded = LoadedClassifier(classifier)
    explain_batch = _METHODS[how.method](loaded, how, deadline, len(images), on_progress)
    n_done = 0
    for seen in _see(loaded, images, how, labels or {}, on_problem):
        try:
            yield from explain_batch(seen)
        except TimeIsUpError:
            return
        n_done += len(seen.images)
        if on_progress is not None and how.method != "shap":
            on_progress(n_done, len(images))
        if deadline is not None and time.monotonic() > deadline:
            return


def write_explanations(
    classifier: Classifier,
    images: Sequence[str | Path],
    how: Explaining,
    folder: Path,
    *,
    labels: Mapping[str, str] | None = None,
    on_progress: OnProgress | None = None,
    on_problem: OnProblem | None = None,
) -> pd.DataFrame:
    """Explain images, and write each picture and an ``index.csv`` of all of them into a folder.

    Returns:
        What the index holds, one row a picture: file, image, label, predicted, probability, explained, explained_probability,
        method, detail and outside, as in ``HeatmapOverlay``.

    Raises:
        UsageError: The folder cannot be written; the rest as ``explain``.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"Cannot write into {folder} ({error.strerror or error}). Name another folder.") from error
    numbers = {str(image): number for number, image in enumerate(images, start=1)}
    rows = []
    for overlay in explain_each(classifier, images, how, labels=labels, on_progress=on_progress, on_problem=on_problem):
        file = write_overlay(overlay, folder, numbers[overlay.image])
        rows.append({"file": file.name, **{name: getattr(overlay, name) for name in INDEX_COLUMNS}})
    index = pd.DataFrame(rows, columns=["file", *INDEX_COLUMNS])
    safe_cells(index).to_csv(folder / "index.csv", index=False)
    return index


def corner_evidence(
    classifier: Classifier,
    images: Sequence[str | Path],
    *,
    class_name: str | None = None,
    layer: str | None = None,
    on_progress: OnProgress | None = None,
    on_problem: OnProblem | None = None,
) -> pd.DataFrame:
    """Measure over a set of images how much of the evidence lies outside the lungs' usual region.

    Args:
        classifier: A trial or an ensemble.
        images: Image files.
        class_name: The class whose evidence it is; by default the predicted one of each image.
        layer: As for ``explain``.
        on_progress: Told (images done, images in all).
        on_problem: Told an image and the reason why it could not be read.

    Returns:
        One row a class, and one called "all"; see ``results.corners.sum_up``. ``corner_warnings`` says what is suspicious.

    Raises:
        UsageError: A name is unknown, or there is no readable image.
        TrialError: A model file is damaged.
    """
    how = Explaining(class_name=class_name, layer=layer)
    loaded = LoadedClassifier(classifier)
    heat_maps = ClassifierGradCam(loaded, layer)
    rows, n_done = [], 0
    for seen in _see(loaded, images, how, {}, on_problem):
        for heat, column in zip(_heat(heat_maps, seen), seen.columns, strict=True):
            rows.append({"class": classifier.classes[column], **evidence_by_region(heat.networks)})
        n_done += len(seen.images)
        if on_progress is not None:
            on_progress(n_done, len(images))
    if not rows:
        raise UsageError("Evidence is measured on images; received none that can be read. Name other images.")
    return sum_up(pd.DataFrame(rows))


def corner_warnings(table: pd.DataFrame) -> list[str]:
    """Say which classes have suspiciously much evidence in corners and borders; one sentence each."""
    return [
        f"Class '{row['class']}': {row[row['worst']]:.0%} of the evidence lies in {_PLACES[row['worst']]}, {row['times']:.1f} "
        "times its share of the area. Look for letters, markers or bars there that tell the classes apart."
        for row in table[table["class"] != ALL].to_dict(orient="records")
        if row["times"] > SUSPICIOUS
    ]


def _see(
    loaded: LoadedClassifier,
    images: Sequence[str | Path],
    how: Explaining,
    labels: Mapping[str, str],
    on_problem: OnProblem | None,
) -> Iterator[_Seen]:
    """Read and predict images, some at a time."""
    chosen = None if how.class_name is None else loaded.column(how.class_name)
    readable = _read(images, on_problem)
    at_once = _AT_ONCE if how.method == "gradcam" else 1
    while batch := list(itertools.islice(readable, at_once)):
        names, pictures = [name for name, _ in batch], [picture for _, picture in batch]
        squares = loaded.squares(pictures)
        probabilities = loaded.predict_squares(squares)
        columns = probabilities.argmax(axis=1) if chosen is None else np.full(len(names), chosen)
        yield _Seen(names, [labels.get(name) for name in names], pictures, squares, probabilities, columns)


def _read(images: Sequence[str | Path], on_problem: OnProblem | None) -> Iterator[tuple[str, np.ndarray]]:
    for image in images:
        try:
            yield str(image), decode_image(Path(image))
        except UnreadableImageError as error:
            if on_problem is not None:
                on_problem(str(image), str(error))


_ExplainBatch = Callable[[_Seen], Iterator[HeatmapOverlay]]


def _by_gradcam(
    loaded: LoadedClassifier, how: Explaining, _deadline: float | None, _n_images: int, _on_progress: OnProgress | None
) -> _ExplainBatch:
    heat_maps = ClassifierGradCam(loaded, how.layer)

    def explain_batch(seen: _Seen) -> Iterator[HeatmapOverlay]:
        for position, heat in enumerate(_heat(heat_maps, seen)):
            radiograph = shown(seen.pictures[position])

            def draw(heats: Sequence[Heatmap], radiograph: np.ndarray = radiograph) -> np.ndarray:
                return overlay_heatmap(radiograph, on_picture(heats, *radiograph.shape))

            single = heat.branches or (heat.networks if len(heat.networks) > 1 else ())
            heaviest = sorted(single, key=lambda one: -one.share)[:_MOST_PARTS]
            parts = {f"{one.name} (weight {one.share:.2f})" if not heat.branches else one.name: draw([one]) for one in heaviest}
            found = outside(evidence_by_region(heat.networks))
            yield _overlay(
                loaded, how, seen, position, draw(heat.networks), radiograph,
                detail=" + ".join(heat_maps.places), parts=parts, outside=None if np.isnan(found) else found,
            )  # fmt: skip

    return explain_batch


def _heat(heat_maps: ClassifierGradCam, seen: _Seen) -> list[ImageHeatmap]:
    shapes = [(picture.shape[0], picture.shape[1]) for picture in seen.pictures]
    return heat_maps.of(seen.squares, shapes, seen.columns)


def _by_activations(
    loaded: LoadedClassifier, how: Explaining, _deadline: float | None, _n_images: int, _on_progress: OnProgress | None
) -> _ExplainBatch:
    from automl_cxr.model.activations import Activations

    if len(loaded.models) > 1:
        raise UsageError(
            f"Feature maps are shown of one network; received an ensemble of {len(loaded.models)}. Name a study, with --trial."
        )
    activations = Activations(loaded.models[0])

    def explain_batch(seen: _Seen) -> Iterator[HeatmapOverlay]:
        for layer, maps in activations.of(seen.squares[0]):
            yield _overlay(loaded, how, seen, 0, draw_sheet(maps[0]), shown(seen.pictures[0]), detail=layer)

    return explain_batch


def _by_shap(
    loaded: LoadedClassifier, how: Explaining, deadline: float | None, n_images: int, on_progress: OnProgress | None
) -> _ExplainBatch:
    side = max(member.image_size for member in loaded.classifier.members)
    n_before = itertools.count(step=how.n_evaluations)

    def explain_batch(seen: _Seen) -> Iterator[HeatmapOverlay]:
        before = next(n_before)

        def tell(n_evaluations: int) -> None:
            if on_progress is not None:
                on_progress(before + n_evaluations, n_images * how.n_evaluations)

        picture = _at_most(seen.pictures[0], side)
        found = shap_values(
            loaded.predict,
            picture,
            int(seen.columns[0]),
            n_evaluations=how.n_evaluations,
            deadline=deadline,
            on_evaluations=tell,
        )
        radiograph = shown(seen.pictures[0])
        pixels = overlay_signed(radiograph, _smooth(found.values, radiograph.shape))
        yield _overlay(loaded, how, seen, 0, pixels, radiograph, detail=f"{found.n_evaluations} evaluations")

    return explain_batch


def _at_most(picture: np.ndarray, side: int) -> np.ndarray:
    """Shrink a picture to what the networks see of it, so that the halving ends at their pixels."""
    scale = side / max(picture.shape)
    if scale >= 1:
        return picture
    height, width = (max(1, round(length * scale)) for length in picture.shape)
    return np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.BILINEAR))


def _smooth(values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Bring values per pixel to another size and to -1 to 1."""
    resized = Image.fromarray(values).resize((shape[1], shape[0]), Image.Resampling.NEAREST)
    return np.asarray(resized) / (float(np.abs(values).max()) or 1.0)


_METHODS = {"gradcam": _by_gradcam, "activations": _by_activations, "shap": _by_shap}


def _overlay(
    loaded: LoadedClassifier,
    how: Explaining,
    seen: _Seen,
    position: int,
    pixels: np.ndarray,
    radiograph: np.ndarray,
    *,
    detail: str,
    parts: Mapping[str, np.ndarray] | None = None,
    outside: float | None = None,
) -> HeatmapOverlay:
    classes, probabilities = loaded.classifier.classes, seen.probabilities[position]
    best, explained = int(probabilities.argmax()), int(seen.columns[position])
    return HeatmapOverlay(
        image=seen.images[position],
        label=seen.labels[position],
        predicted=classes[best],
        probability=float(probabilities[best]),
        explained=classes[explained],
        explained_probability=float(probabilities[explained]),
        method=how.method,
        detail=detail,
        pixels=pixels,
        radiograph=radiograph,
        parts=parts or {},
        outside=outside,
    )
