"""Explanation by activation maps: an image grid of the feature maps of every convolution and pooling layer."""

from __future__ import annotations

from collections.abc import Iterator

from automl_cxr.errors import UsageError
from automl_cxr.results.classifier import LoadedClassifier
from automl_cxr.results.explain.image_batches import BatchExplainer, ImageBatch
from automl_cxr.results.explain.overlays import HeatmapOverlay, draw_sheet, resize_for_display


def activations_explainer(loaded: LoadedClassifier) -> BatchExplainer:
    """Return a function that draws the feature maps of one image, with one overlay for each layer.

    Raises:
        UsageError: The classifier has several networks.
    """
    from automl_cxr.model.activations import Activations  # imports Keras

    if len(loaded.models) > 1:
        raise UsageError(
            f"Activation maps need a single network; received an ensemble of {len(loaded.models)}. Select a --trial of a study."
        )
    activations = Activations(loaded.models[0])

    def explain_batch(batch: ImageBatch) -> Iterator[HeatmapOverlay]:
        for layer, maps in activations.of(batch.squares[0]):
            yield batch.overlay(0, draw_sheet(maps[0]), resize_for_display(batch.pixels[0]), method="activations", detail=layer)

    return explain_batch
