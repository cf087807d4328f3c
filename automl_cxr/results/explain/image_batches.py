"""Batches of images with the predictions of a classifier, for all explanation methods."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from automl_cxr.data.decode import decode_image
from automl_cxr.errors import UnreadableImageError
from automl_cxr.results.classifier import LoadedClassifier
from automl_cxr.results.explain.overlays import HeatmapOverlay

OnProgress = Callable[[int, int], None]
OnProblem = Callable[[str, str], None]


@dataclass(frozen=True, eq=False)
class ImageBatch:
    """Some images and the classifier's predictions for them.

    Attributes:
        images: Paths of the images.
        labels: True classes, None if unknown.
        pixels: The decoded images, each uint8 (height, width).
        squares: The images resized for each member, uint8 (n, size, size).
        probabilities: float32 (n, n_classes).
        columns: The class to explain of each image, int (n,).
        classes: Class names in the order of the columns.
    """

    images: list[str]
    labels: list[str | None]
    pixels: list[np.ndarray]
    squares: list[np.ndarray]
    probabilities: np.ndarray
    columns: np.ndarray
    classes: tuple[str, ...]

    def overlay(
        self,
        position: int,
        pixels: np.ndarray,
        radiograph: np.ndarray,
        *,
        method: str,
        detail: str,
        parts: Mapping[str, np.ndarray] | None = None,
        outside: float | None = None,
    ) -> HeatmapOverlay:
        """Return the overlay of the image at a position, with its prediction."""
        probabilities = self.probabilities[position]
        best, explained = int(probabilities.argmax()), int(self.columns[position])
        return HeatmapOverlay(
            image=self.images[position],
            label=self.labels[position],
            predicted=self.classes[best],
            probability=float(probabilities[best]),
            explained=self.classes[explained],
            explained_probability=float(probabilities[explained]),
            method=method,
            detail=detail,
            pixels=pixels,
            radiograph=radiograph,
            parts=parts or {},
            outside=outside,
        )


BatchExplainer = Callable[[ImageBatch], Iterator[HeatmapOverlay]]


def read_batches(
    loaded: LoadedClassifier,
    images: Sequence[str | Path],
    *,
    class_name: str | None,
    labels: Mapping[str, str] | None = None,
    batch_size: int,
    on_problem: OnProblem | None,
) -> Iterator[ImageBatch]:
    """Read and predict images in batches.

    Args:
        loaded: The classifier.
        images: Image files.
        class_name: The class to explain; None for the predicted class of each image.
        labels: True class by image, if known.
        batch_size: Images in a batch.
        on_problem: Called with an image and the reason why it cannot be read; the image is skipped.

    Raises:
        UnknownNameError: The classifier has no such class.
    """
    column = None if class_name is None else loaded.column(class_name)
    readable = _read(images, on_problem)
    while batch := list(itertools.islice(readable, batch_size)):
        names, pixels = [name for name, _ in batch], [image for _, image in batch]
        squares = loaded.squares(pixels)
        probabilities = loaded.predict_squares(squares)
        columns = probabilities.argmax(axis=1) if column is None else np.full(len(names), column)
        known_labels = [(labels or {}).get(name) for name in names]
        yield ImageBatch(names, known_labels, pixels, squares, probabilities, columns, loaded.classifier.classes)


def _read(images: Sequence[str | Path], on_problem: OnProblem | None) -> Iterator[tuple[str, np.ndarray]]:
    for image in images:
        try:
            yield str(image), decode_image(Path(image))
        except UnreadableImageError as error:
            if on_problem is not None:
                on_problem(str(image), str(error))
