"""Parts that all pages of errors share: grids of pictures, and texts on unreadable images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from automl_cxr.results.html_page import Picture, Pictures, Text


def picture_grid(images: Sequence[str], captions: Sequence[str], pictures: Mapping[str, np.ndarray]) -> list[Pictures]:
    """Return a grid of the images that have a picture; an empty list if none has one.

    Args:
        images: Ids of the images.
        captions: Caption of each image.
        pictures: Pixels by image id.
    """
    shown = [Picture(pictures[image], caption) for image, caption in zip(images, captions, strict=True) if image in pictures]
    return [Pictures(shown)] if shown else []


def unreadable_texts(unreadable: Mapping[str, str]) -> list[Text]:
    """Return a text for each image that cannot be read, with the reason."""
    return [Text(f"Excluded because it cannot be read: {image} ({reason}).") for image, reason in unreadable.items()]
