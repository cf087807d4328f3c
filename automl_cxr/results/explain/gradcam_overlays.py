"""Explanation by Grad-CAM: heat maps of the classifier, and of its networks or branches, as overlays on radiographs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from automl_cxr.results.classifier import LoadedClassifier
from automl_cxr.results.explain.classifier_gradcam import ClassifierGradCam, Heatmap, heatmap_on_image
from automl_cxr.results.explain.image_batches import BatchExplainer, ImageBatch
from automl_cxr.results.explain.off_lung_evidence import evidence_by_region, off_lung_share
from automl_cxr.results.explain.overlays import HeatmapOverlay, overlay_heatmap, resize_for_display

GRADCAM_BATCH_SIZE = 16  # images whose feature maps are in memory at the same time
_MAX_PARTS = 6  # heat maps of single networks


def gradcam_explainer(loaded: LoadedClassifier, *, layer: str | None) -> BatchExplainer:
    """Return a function that explains a batch by Grad-CAM.

    Args:
        loaded: The classifier.
        layer: A layer with feature maps; None for the last feature maps of each branch.

    Raises:
        UnknownNameError: A network has no such layer with feature maps.
    """
    gradcam = ClassifierGradCam(loaded, layer)

    def explain_batch(batch: ImageBatch) -> Iterator[HeatmapOverlay]:
        for position, heatmaps in enumerate(gradcam.compute(batch.squares, batch.pixels, batch.columns)):
            radiograph = resize_for_display(batch.pixels[position])

            def draw(some: Sequence[Heatmap], radiograph: np.ndarray = radiograph) -> np.ndarray:
                return overlay_heatmap(radiograph, heatmap_on_image(some, *radiograph.shape))

            single = heatmaps.branches or (heatmaps.networks if len(heatmaps.networks) > 1 else ())
            largest = sorted(single, key=lambda one: -one.share)[:_MAX_PARTS]
            parts = {one.name if heatmaps.branches else f"{one.name} (weight {one.share:.2f})": draw([one]) for one in largest}
            share = off_lung_share(evidence_by_region(heatmaps.networks))
            yield batch.overlay(
                position, draw(heatmaps.networks), radiograph, method="gradcam", detail=" + ".join(gradcam.layers), parts=parts,
                outside=None if np.isnan(share) else share,
            )  # fmt: skip

    return explain_batch
