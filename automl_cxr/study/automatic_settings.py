"""The settings that a search chooses from the data and the space if the user does not: folds and image size."""

from __future__ import annotations

from automl_cxr.config import TrialConfig
from automl_cxr.engine.space import Choice, Space

AUTO_FOLDS = 5
MAX_FOLDED_IMAGES = 6000
"""Number of images from which one validation part is used: the standard error of a score on 15 % of them is about 1 point."""

DEFAULT_IMAGE_SIZE = 112
PRETRAINED_IMAGE_SIZE = 224
"""Image size for pretrained networks, in pixels: most of them were trained with it."""

_PRETRAINED_FAMILIES = frozenset({"probe", "transfer", "concat"})


def choose_folds(n_images: int) -> int:
    """Return the number of folds for a number of training and validation images; 0 for one validation part."""
    return AUTO_FOLDS if n_images < MAX_FOLDED_IMAGES else 0


def choose_image_size(space: Space) -> int:
    """Return the image size in pixels for a space: larger if it has families of pretrained networks."""
    return PRETRAINED_IMAGE_SIZE if _PRETRAINED_FAMILIES & set(families_of(space)) else DEFAULT_IMAGE_SIZE


def families_of(space: Space) -> tuple[str, ...]:
    """List the families of networks in a space."""
    searched = next((parameter for parameter in space.parameters if parameter.name == "family"), None)
    if isinstance(searched, Choice):
        return tuple(map(str, searched.values))
    return (str(space.constants.get("family", TrialConfig().family)),)
