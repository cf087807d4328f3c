"""Heat maps of single images as PNG files."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from automl_cxr.results.classifier import LoadedClassifier
from automl_cxr.results.explain.classifier_gradcam import ClassifierGradCam, heatmap_on_image
from automl_cxr.results.explain.off_lung_evidence import evidence_by_region, off_lung_share
from automl_cxr.results.explain.overlays import overlay_heatmap


@dataclass(frozen=True)
class RenderedHeatmap:
    """A heat map over a radiograph.

    Attributes:
        explained: The class or finding that it explains.
        overlay: PNG file of the heat map over the radiograph.
        outside: Share of the evidence in the corners and along the borders; None without evidence.
        layers: Layers whose feature maps are used.
    """

    explained: str
    overlay: bytes
    outside: float | None
    layers: tuple[str, ...]


class HeatmapRenderer:
    """Draws Grad-CAM heat maps with the networks of a classifier.

    Args:
        loaded: The classifier with its networks.
    """

    def __init__(self, loaded: LoadedClassifier) -> None:
        self._classes = loaded.classifier.classes
        self._gradcam = ClassifierGradCam(loaded)

    def render(self, radiograph: np.ndarray, squares: Sequence[np.ndarray], column: int) -> RenderedHeatmap:
        """Draw the heat map of an image for one class.

        Args:
            radiograph: The image, resized for display with the same aspect ratio, uint8 (height, width).
            squares: The image resized for each member, uint8 (1, size, size).
            column: The class.
        """
        heatmaps = self._gradcam.compute(squares, [radiograph], np.array([column]))[0].networks
        overlay = overlay_heatmap(radiograph, heatmap_on_image(heatmaps, *radiograph.shape))
        share = off_lung_share(evidence_by_region(heatmaps))
        return RenderedHeatmap(
            self._classes[column],
            to_png(overlay),
            None if np.isnan(share) else float(share),
            self._gradcam.layers,
        )


def to_png(pixels: np.ndarray) -> bytes:
    """Encode uint8 (height, width) or (height, width, 3) as a PNG file."""
    with io.BytesIO() as file:
        Image.fromarray(pixels).save(file, "PNG")
        return file.getvalue()
