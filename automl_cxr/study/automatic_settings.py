"""The settings that a search chooses from the data and the space if the user does not: folds and image size."""

from __future__ import annotations

from collections.abc import Collection

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


def choose_image_size(families: Collection[str]) -> int:
    """Return the image size in pixels for families of networks: larger if some of them are pretrained."""
    return PRETRAINED_IMAGE_SIZE if _PRETRAINED_FAMILIES & set(families) else DEFAULT_IMAGE_SIZE
