"""Where a classifier finds its evidence: the Grad-CAM maps of its networks, weighted as their votes are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from automl_cxr.data.decode import Window, square_on_picture
from automl_cxr.results.classifier import LoadedClassifier, Member


@dataclass(frozen=True, eq=False)
class Heatmap:
    """The evidence of one network, or of one branch of it, for one class in one picture.

    Attributes:
        name: Which network or branch, for people.
        share: How much it counts in the classifier, from 0 to 1.
        density: float32 (side, side) over the square that the network takes, at least 0, mean 1; all 0 where nothing speaks
            for the class.
        window: Where that square lies on the picture.
    """

    name: str
    share: float
    density: np.ndarray
    window: Window


@dataclass(frozen=True)
class ImageHeatmap:
    """The evidence for one class in one picture: of each network, and of the branches of the network if it is one alone."""

    networks: tuple[Heatmap, ...]
    branches: tuple[Heatmap, ...]


class ClassifierGradCam:
    """Grad-CAM of a whole classifier.

    A network's map is divided by its mean before maps are joined, because scores before a softmax have no common scale: each
    network spreads its share of the evidence. Networks of folds share what their member has.

    Args:
        loaded: The classifier.
        layer: Name of a layer with feature maps, in each of its networks; by default their last ones.

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
    def places(self) -> tuple[str, ...]:
        """The layers that the maps come from, each once."""
        return tuple(dict.fromkeys(place for _, _, _, gradcam in self._networks for place in gradcam.places))

    def of(self, squares: Sequence[np.ndarray], shapes: Sequence[tuple[int, int]], columns: np.ndarray) -> list[ImageHeatmap]:
        """Find the evidence in some pictures.

        Args:
            squares: What each member sees of them.
            shapes: Height and width of each picture.
            columns: The class of each picture whose evidence is wanted, int (n,).
        """
        from automl_cxr.model.gradcam import heat_map

        shares = np.array([self._loaded.classifier.rule.shares_for(column) for column in columns])
        networks: list[list[Heatmap]] = [[] for _ in columns]
        branches: list[list[Heatmap]] = [[] for _ in columns]
        for number, (position, member, part, gradcam) in enumerate(self._networks, start=1):
            evidence = gradcam.evidence(squares[position], columns)
            windows = [square_on_picture(shape, member.fit) for shape in shapes]
            weights = part * shares[:, position]
            name = f"{number}: {member.network or member.file.stem}"
            _append(networks, name, weights, heat_map(evidence), windows)
            if len(self._networks) == 1 and len(evidence) > 1:
                for place, one in zip(gradcam.places, evidence, strict=True):
                    _append(branches, place, weights, heat_map([one]), windows)
        return [ImageHeatmap(tuple(of_one), tuple(of_parts)) for of_one, of_parts in zip(networks, branches, strict=True)]


def _append(heats: list[list[Heatmap]], name: str, shares: np.ndarray, maps: np.ndarray, windows: Sequence[Window]) -> None:
    means = maps.mean(axis=(1, 2), keepdims=True)
    densities = np.divide(maps, means, out=np.zeros_like(maps), where=means > 0)
    for picture, density, share, window in zip(heats, densities, shares, windows, strict=True):
        picture.append(Heatmap(name, float(share), density, window))


def on_picture(heats: Sequence[Heatmap], height: int, width: int) -> np.ndarray:
    """Lay heat on a picture, each network's by its share.

    Returns:
        float32 (height, width), from 0 to 1 at the hottest pixel; all 0 where there is no evidence.
    """
    from automl_cxr.model.gradcam import resample

    down, across = (np.arange(height) + 0.5) / height, (np.arange(width) + 0.5) / width
    joined = np.zeros((height, width))
    for heat in heats:
        window = heat.window
        seen = resample(heat.density, (down - window.top) / window.height, (across - window.left) / window.width)
        joined += heat.share * seen / (window.height * window.width)
    return (joined / (joined.max() or 1)).astype(np.float32)
