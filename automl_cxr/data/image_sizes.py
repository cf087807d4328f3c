"""The size of the images of a data set, from a sample."""

from __future__ import annotations

from statistics import median_low

from automl_cxr.data.dataset import Dataset
from automl_cxr.data.decode import decode_image
from automl_cxr.errors import UnreadableImageError

_N_SAMPLED = 9


def typical_side(dataset: Dataset) -> int | None:
    """Return the median of the shorter sides of some images in pixels; None if none of them can be read."""
    images = list(dataset.table["image"])
    step = max(1, len(images) // _N_SAMPLED)
    sides = []
    for image in images[::step][:_N_SAMPLED]:
        try:
            sides.append(min(decode_image(dataset.root / image).shape))
        except UnreadableImageError:
            continue
    return median_low(sides) if sides else None
