"""Grad-CAM of a classifier: the heat maps of its networks, weighted by the combination rule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from automl_cxr.data.decode import Window, square_on_picture
from automl_cxr.results.classifier import LoadedClassifier, Member


@dataclass(frozen=True, eq=False)
class Heatmap:
    """The evidence of one network, or of one of its branches, for one class in one image.

    Attributes:
        name: Name of the network or branch, for display.
        share: Its weight in the classifier, 0 to 1.
        density: float32 (side, side) over the network's square input, non-negative with mean 1; all 0 without evidence.
        window: Position of the square on the image.
    """

    name: str
    share: float
    density: np.ndarray
    window: Window


@dataclass(frozen=True)
class ImageHeatmap:
    """The heat maps of one image for one class: of each network, and of its branches if there is only one network."""

    networks: tuple[Heatmap, ...]
    branches: tuple[Heatmap, ...]


class ClassifierGradCam:
    """Grad-CAM of a whole classifier.

    The logits of different networks have no common scale. Therefore the heat map of each network is divided by its mean before
    the heat maps are combined. The weight of a member is divided equally among the networks of its folds.

    Args:
        loaded: The classifier.
        layer: Name of a layer with feature maps in each network; by default their last feature maps.

    Raises:
        UnknownNameError: A network has no such layer with feature maps.
        UsageError: Several layers have the name.
    """

    def __init__(self, loaded: LoadedClassifier, layer: str | None = None) -> None:
        from automl_cxr.model.fold_average import networks_within
        from automl_cxr.model.gradcam import GradCam

        self._loaded = loaded
        self._networks: list[tuple[int, Member, float, Any]] = []
        for position, (member, model) in enumerate(zip(loaded.classifier.members, loaded.models, strict=True)):
            folds = networks_within(model)
            self._networks += [(position, member, 1 / len(folds), GradCam(network, layer)) for network in folds]

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the layers whose feature maps are used, without duplicates."""
        return tuple(dict.fromkeys(layer for _, _, _, gradcam in self._networks for layer in gradcam.places))

    def compute(self, squares: Sequence[np.ndarray], images: Sequence[np.ndarray], columns: np.ndarray) -> list[ImageHeatmap]:
        """Compute the heat maps of some images.

        Args:
            squares: The images resized for each member, uint8 (n, size, size).
            images: The original images, each (height, width).
            columns: The class to explain of each image, int (n,).
        """
        from automl_cxr.model.gradcam import heat_map

        shares = np.array([self._loaded.classifier.rule.shares_for(column) for column in columns])
        networks: list[list[Heatmap]] = [[] for _ in columns]
        branches: list[list[Heatmap]] = [[] for _ in columns]
        for number, (position, member, share_of_fold, gradcam) in enumerate(self._networks, start=1):
            evidence = gradcam.evidence(squares[position], columns)
            windows = [square_on_picture((image.shape[0], image.shape[1]), member.fit) for image in images]
            weights = share_of_fold * shares[:, position]
            name = f"{number}: {member.network or member.file.stem}"
            _append(networks, name, weights, heat_map(evidence), windows)
            if len(self._networks) == 1 and len(evidence) > 1:
                for layer, one in zip(gradcam.places, evidence, strict=True):
                    _append(branches, layer, weights, heat_map([one]), windows)
        return [ImageHeatmap(tuple(maps), tuple(parts)) for maps, parts in zip(networks, branches, strict=True)]


def _append(heatmaps: list[list[Heatmap]], name: str, shares: np.ndarray, maps: np.ndarray, windows: Sequence[Window]) -> None:
    """Append one heat map, normalised to mean 1, to the heat maps of each image."""
    means = maps.mean(axis=(1, 2), keepdims=True)
    densities = np.divide(maps, means, out=np.zeros_like(maps), where=means > 0)
    for image_heatmaps, density, share, window in zip(heatmaps, densities, shares, windows, strict=True):
        image_heatmaps.append(Heatmap(name, float(share), density, window))


def heatmap_on_image(heatmaps: Sequence[Heatmap], height: int, width: int) -> np.ndarray:
    """Combine heat maps, weighted by their shares, on the pixels of an image.

    Returns:
        float32 (height, width), scaled to a maximum of 1; all 0 without evidence.
    """
    from automl_cxr.model.gradcam import resample

    down, across = (np.arange(height) + 0.5) / height, (np.arange(width) + 0.5) / width
    combined = np.zeros((height, width))
    for heatmap in heatmaps:
        window = heatmap.window
        resampled = resample(heatmap.density, (down - window.top) / window.height, (across - window.left) / window.width)
        combined += heatmap.share * resampled / (window.height * window.width)
    return (combined / (combined.max() or 1)).astype(np.float32)
