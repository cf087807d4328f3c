"""The settings that a search chooses if the user does not: folds and image size."""

from __future__ import annotations

AUTO_FOLDS = 5
_FEWER_FOLDS = (3, 2)  # for classes with fewer patients
MAX_FOLDED_IMAGES = 6000
"""Number of images from which one validation part is used: the standard error of a score on 15 % of them is about 1 point."""

DEFAULT_IMAGE_SIZE = 112

LARGE_IMAGE_SIZE = 320
"""Image size in the space auto, in pixels, for images that are not smaller, in sets that are divided into folds.

Pretrained networks recognise small details better in images that are somewhat larger than those of their training (Touvron et
al. 2019, Fixing the train-test resolution discrepancy). Probes of EfficientNet-Lite0 on radiographs: ``benchmarks/README.md``.
"""

AUTO_IMAGE_SIZE = 224
"""Image size in the space auto for other images: most pretrained networks were trained with it."""

_MOST_ENLARGED = 4  # times the size of the original images


def choose_folds(n_images: int) -> tuple[int, ...]:
    """Return numbers of folds for a number of training and validation images, in order of preference.

    The first one is used with which every class has a patient in every fold. None stands for one validation part.
    """
    return (AUTO_FOLDS, *_FEWER_FOLDS) if n_images < MAX_FOLDED_IMAGES else ()


def choose_image_size(n_images: int, side: int) -> int:
    """Return the image size in the space auto for a number of images and the shorter side of the original images, in pixels."""
    return LARGE_IMAGE_SIZE if side >= LARGE_IMAGE_SIZE and n_images < MAX_FOLDED_IMAGES else AUTO_IMAGE_SIZE


def limit_enlargement(image_size: int, side: int) -> int:
    """Return the image size, or four times the side of the original images if that is smaller."""
    return min(image_size, _MOST_ENLARGED * side)
