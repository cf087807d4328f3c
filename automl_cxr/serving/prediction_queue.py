"""One thread that computes all predictions and heat maps of a server, in batches of the requests that wait."""

from __future__ import annotations

import queue
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np

from automl_cxr.results.classifier import LoadedClassifier
from automl_cxr.results.explain.image_batches import predicted_columns
from automl_cxr.serving.heatmaps import HeatmapRenderer, RenderedHeatmap

BATCH_SIZES = (1, 2, 4, 8)  # a network is compiled once for each size


@dataclass(frozen=True, eq=False)
class Computed:
    """The results for one image.

    Attributes:
        probabilities: float32 (n_classes,).
        heatmap: The heat map, if it was requested.
    """

    probabilities: np.ndarray
    heatmap: RenderedHeatmap | None = None


@dataclass(frozen=True, eq=False)
class PreparedImage:
    """A resized image that waits for its prediction. The decoded image, which may be large, is not kept.

    Attributes:
        squares: The image resized for each member, uint8 (1, size, size).
        radiograph: The image resized for display, uint8 (height, width), if a heat map is requested.
        column: Class that the heat map explains; None for the predicted one.
    """

    squares: Sequence[np.ndarray]
    radiograph: np.ndarray | None = None
    column: int | None = None


@dataclass(frozen=True, eq=False)
class _Request:
    image: PreparedImage
    result: Future[Computed] = field(default_factory=Future)


class PredictionQueue:
    """Computes predictions in one thread, because the networks occupy all cores anyway. Close it after use.

    Images that wait at the same time are predicted together. The number of waiting images is not limited here; the server
    limits its open requests.

    Args:
        loaded: The classifier with its networks.
        renderer: Draws heat maps; None if the networks have no feature maps.
    """

    def __init__(self, loaded: LoadedClassifier, renderer: HeatmapRenderer | None) -> None:
        self._loaded = loaded
        self._renderer = renderer
        self._requests: queue.SimpleQueue[_Request | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="predictions", daemon=True)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether the thread accepts images."""
        return self._thread.is_alive()

    def submit(self, image: PreparedImage) -> Future[Computed]:
        """Queue an image."""
        request = _Request(image)
        self._requests.put(request)
        return request.result

    def close(self) -> None:
        """Finish the queued images and end the thread."""
        self._requests.put(None)
        self._thread.join()

    def _run(self) -> None:
        is_open = True
        while is_open:
            batch, is_open = self._next_batch()
            running = [request for request in batch if request.result.set_running_or_notify_cancel()]
            if running:
                self._compute(running)

    def _next_batch(self) -> tuple[list[_Request], bool]:
        """Return the images that wait, up to the largest batch size, at least one; and False after the last ones."""
        batch: list[_Request] = []
        request = self._requests.get()
        while request is not None:
            batch.append(request)
            if len(batch) == BATCH_SIZES[-1]:
                return batch, True
            try:
                request = self._requests.get_nowait()
            except queue.Empty:
                return batch, True
        return batch, False

    def _compute(self, batch: Sequence[_Request]) -> None:
        try:
            of_images = [request.image.squares for request in batch]
            squares = [np.concatenate(of_member) for of_member in zip(*of_images, strict=True)]
            probabilities = predict_padded(self._loaded, squares)
        except Exception as error:  # noqa: BLE001 - the waiting requests get the error, and the thread continues
            for request in batch:
                request.result.set_exception(error)
            return
        for request, row in zip(batch, probabilities, strict=True):
            try:
                request.result.set_result(Computed(row, self._render(request.image, row)))
            except Exception as error:  # noqa: BLE001 - as above
                request.result.set_exception(error)

    def _render(self, image: PreparedImage, probabilities: np.ndarray) -> RenderedHeatmap | None:
        if image.radiograph is None or self._renderer is None:
            return None
        column = image.column
        if column is None:
            column = predicted_columns(probabilities, self._loaded.classifier.thresholds)[0]
        return self._renderer.render(image.radiograph, image.squares, column)


def predict_padded(loaded: LoadedClassifier, squares: Sequence[np.ndarray]) -> np.ndarray:
    """Predict a few resized images in a batch that is filled with copies of the first one, to a size of ``BATCH_SIZES``.

    Args:
        loaded: The classifier with its networks.
        squares: Images resized for each member, uint8 (n, size, size) with at most ``BATCH_SIZES[-1]`` images.

    Returns:
        float32 (n, n_classes).
    """
    n_images = len(squares[0])
    size = next(size for size in BATCH_SIZES if size >= n_images)
    rows = np.arange(size) % n_images
    return loaded.predict_squares([square[rows] for square in squares])[:n_images]


def warm_up(loaded: LoadedClassifier, renderer: HeatmapRenderer | None) -> None:
    """Compile the networks for all batch sizes, and the heat maps, so that no request waits for it."""
    image = np.tile(np.arange(64, dtype=np.uint8), (64, 1))
    for size in BATCH_SIZES:
        predict_padded(loaded, loaded.squares([image] * size))
    if renderer is not None:
        renderer.render(image, loaded.squares([image]), 0)
