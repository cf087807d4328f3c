"""Explanation by SHAP values: red regions increase the probability of a class, blue regions decrease it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from PIL import Image

from automl_cxr.results.classifier import LoadedClassifier
from automl_cxr.results.explain.image_batches import BatchExplainer, ImageBatch, OnProgress
from automl_cxr.results.explain.overlays import HeatmapOverlay, overlay_signed, resize_for_display
from automl_cxr.results.explain.shap_values import shap_values


def shap_explainer(
    loaded: LoadedClassifier, *, n_evaluations: int, n_images: int, deadline: float | None, on_progress: OnProgress | None
) -> BatchExplainer:
    """Return a function that explains one image by SHAP values.

    Args:
        loaded: The classifier.
        n_evaluations: Number of predictions of masked copies of each image.
        n_images: Number of all images, for the progress display.
        deadline: ``time.monotonic()`` after which no further evaluation starts.
        on_progress: Called with (finished evaluations, all evaluations).
    """
    max_side = max(member.image_size for member in loaded.classifier.members)

    def explain_batch(batch: ImageBatch) -> Iterator[HeatmapOverlay]:
        before = (batch.n_finished - 1) * n_evaluations

        def report_progress(n_done: int) -> None:
            if on_progress is not None:
                on_progress(before + n_done, n_images * n_evaluations)

        result = shap_values(
            loaded.predict,
            _shrink(batch.pixels[0], max_side),
            int(batch.columns[0]),
            n_evaluations=n_evaluations,
            deadline=deadline,
            on_evaluations=report_progress,
        )
        radiograph = resize_for_display(batch.pixels[0])
        pixels = overlay_signed(radiograph, _normalise(result.values, radiograph.shape))
        yield batch.overlay(0, pixels, radiograph, method="shap", detail=f"{result.n_evaluations} evaluations")

    return explain_batch


def _shrink(image: np.ndarray, max_side: int) -> np.ndarray:
    """Shrink an image to the resolution of the networks, so that the smallest regions are single pixels of their input."""
    scale = max_side / max(image.shape)
    if scale >= 1:
        return image
    height, width = (max(1, round(length * scale)) for length in image.shape)
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))


def _normalise(values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Resize values per pixel to another shape, and scale them to the range -1 to 1."""
    resized = Image.fromarray(values).resize((shape[1], shape[0]), Image.Resampling.NEAREST)
    return np.asarray(resized) / (float(np.abs(values).max()) or 1.0)
