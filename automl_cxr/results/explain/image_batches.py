"""Batches of images with the predictions of a classifier, for all explanation methods."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from pathlib import Path

import numpy as np

from automl_cxr.data.decode import decode_image
from automl_cxr.errors import UnreadableImageError
from automl_cxr.results.classifier import LoadedClassifier
from automl_cxr.results.explain.overlays import HeatmapOverlay
from automl_cxr.tasks import FINDING_SEPARATOR

OnProgress = Callable[[int, int], None]
OnProblem = Callable[[str, str], None]


@dataclass(frozen=True, eq=False)
class ImageBatch:
    """Some images, the classifier's predictions for them, and one class of each to explain.

    An image of which several findings are explained occurs once for each of them.

    Attributes:
        images: Paths of the images.
        labels: True classes, None if unknown; for findings those that are present, as "A|B".
        pixels: The decoded images, each uint8 (height, width).
        squares: The images resized for each member, uint8 (n, size, size).
        probabilities: float32 (n, n_classes).
        columns: The class to explain of each image, int (n,).
        classes: Class names in the order of the columns.
        thresholds: For findings, the probability from which each counts as present, (n_classes,); None for classes.
        n_finished: Number of images that are processed after this batch.
    """

    images: list[str]
    labels: list[str | None]
    pixels: list[np.ndarray]
    squares: list[np.ndarray]
    probabilities: np.ndarray
    columns: np.ndarray
    classes: tuple[str, ...]
    thresholds: np.ndarray | None
    n_finished: int

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
        explained = int(self.columns[position])
        best = int(probabilities.argmax()) if self.thresholds is None else explained
        return HeatmapOverlay(
            image=self.images[position],
            label=self.labels[position],
            predicted=self.classes[best] if self.thresholds is None else self._decided(probabilities),
            probability=float(probabilities[best]),
            explained=self.classes[explained],
            explained_probability=float(probabilities[explained]),
            method=method,
            detail=detail,
            pixels=pixels,
            radiograph=radiograph,
            parts=parts or {},
            outside=outside,
            threshold=None if self.thresholds is None else float(self.thresholds[explained]),
        )

    def _decided(self, probabilities: np.ndarray) -> str:
        return FINDING_SEPARATOR.join(compress(self.classes, probabilities >= self.thresholds))


BatchExplainer = Callable[[ImageBatch], Iterator[HeatmapOverlay]]


def read_batches(
    loaded: LoadedClassifier,
    images: Sequence[str | Path],
    *,
    class_name: str | None,
    labels: Mapping[str, str] | None = None,
    explained: Mapping[str, Sequence[str]] | None = None,
    batch_size: int,
    max_classes: int | None = None,
    on_problem: OnProblem | None,
) -> Iterator[ImageBatch]:
    """Read and predict images in batches.

    Args:
        loaded: The classifier.
        images: Image files.
        class_name: The class to explain; None for the predicted class of each image. For findings, None for those that count
            as present, or if there is none, for the finding whose probability is the largest relative to its threshold.
        labels: True class by image, if known.
        explained: The classes to explain by image, which take precedence over ``class_name``.
        batch_size: Largest number of images and classes to explain in a batch.
        max_classes: Largest number of classes to explain of each image; None for no limit.
        on_problem: Called with an image and the reason why it cannot be read; the image is skipped.

    Raises:
        UnknownNameError: The classifier has no such class.
    """
    column = None if class_name is None else loaded.column(class_name)
    columns_of = {image: [loaded.column(name) for name in names] for image, names in (explained or {}).items()}
    thresholds = loaded.classifier.thresholds
    readable = _read(images, on_problem)
    while batch := list(itertools.islice(readable, batch_size)):
        names, pixels = [name for name, _, _ in batch], [image for _, image, _ in batch]
        squares = loaded.squares(pixels)
        probabilities = loaded.predict_squares(squares)
        chosen = [
            (columns_of.get(name) or ([column] if column is not None else predicted_columns(row, thresholds)))[:max_classes]
            for name, row in zip(names, probabilities, strict=True)
        ]
        rows = np.repeat(np.arange(len(names)), list(map(len, chosen)))
        columns = np.array([column for columns in chosen for column in columns])
        known_labels = [(labels or {}).get(name) for name in names]
        for first in range(0, len(rows), batch_size):
            part = rows[first : first + batch_size]
            yield ImageBatch(
                [names[row] for row in part],
                [known_labels[row] for row in part],
                [pixels[row] for row in part],
                [of_member[part] for of_member in squares],
                probabilities[part],
                columns[first : first + batch_size],
                loaded.classifier.classes,
                None if thresholds is None else np.asarray(thresholds),
                batch[part[-1]][2],
            )


def predicted_columns(probabilities: np.ndarray, thresholds: Sequence[float] | None) -> list[int]:
    """Return the columns that a classifier predicts for an image.

    Args:
        probabilities: Of one image, (n_classes,).
        thresholds: For findings, the probability from which each counts as present; None for classes.

    Returns:
        The most probable class. For findings, those that count as present, or if there is none, the finding whose probability
        is the largest relative to its threshold.
    """
    if thresholds is None:
        return [int(probabilities.argmax())]
    limits = np.asarray(thresholds)
    return np.flatnonzero(probabilities >= limits).tolist() or [int((probabilities / limits).argmax())]


def _read(images: Sequence[str | Path], on_problem: OnProblem | None) -> Iterator[tuple[str, np.ndarray, int]]:
    """Yield the name, the pixels and the number (from 1) of each readable image."""
    number = 0
    for image in images:
        try:
            yield str(image), decode_image(Path(image)), (number := number + 1)
        except UnreadableImageError as error:
            if on_problem is not None:
                on_problem(str(image), str(error))
