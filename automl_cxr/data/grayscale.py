"""From numbers of any kind to uint8 grey, and the sizes that a picture may have: what all kinds of files share."""

from __future__ import annotations

import numpy as np
from PIL import Image

from automl_cxr.errors import UnreadableImageError

SMALLEST_SIDE = 8
LARGEST_PICTURE = 100_000_000  # pixels
LARGEST_FILE = 2**30  # bytes


def check_size(size: tuple[int, int], max_pixels: int) -> None:
    """Refuse a picture by its width and height, before any pixel of it is decoded.

    Raises:
        UnreadableImageError: It is too large or too small.
    """
    width, height = size
    if width * height > max_pixels:
        raise UnreadableImageError(f"too large ({width} x {height} pixels; at most {max_pixels:,} in all)")
    if min(width, height) < SMALLEST_SIDE:
        raise UnreadableImageError(f"too small ({width} x {height} pixels; at least {SMALLEST_SIDE} on each side)")


def window(values: np.ndarray, low: float, high: float, *, inverted: bool = False) -> np.ndarray:
    """Map low..high to 0..255 and what lies beyond to its ends; all black where the window has no width.

    Returns:
        uint8 in the shape of the values; what is not a number is as low.
    """
    if not high > low:
        return np.zeros(values.shape, np.uint8)
    share = (values.astype(np.float64) - low) / (high - low)
    share = np.clip(np.nan_to_num(share, nan=0.0, posinf=1.0, neginf=0.0), 0, 1)
    return np.rint(255 * (1 - share if inverted else share)).astype(np.uint8)


def used_range(values: np.ndarray) -> tuple[float, float]:
    """Find the darkest and the brightest value of a deep picture.

    Radiographs of 10, 12 or 14 bits are stored in 16, and the file seldom says which: over the full 0..65535 a 12-bit
    chest would be black. The darkest to the brightest pixel is what a viewer opens with, and needs no guess.

    Raises:
        UnreadableImageError: No value is finite.
    """
    finite = values[np.isfinite(values)] if values.dtype.kind == "f" else values
    if not finite.size:
        raise UnreadableImageError("no finite pixel value")
    return float(finite.min()), float(finite.max())


def grey_of_colours(colours: np.ndarray) -> np.ndarray:
    """Weigh red, green and blue as ITU-R 601 does: uint8 (height, width, 3) to uint8 (height, width)."""
    return np.asarray(Image.fromarray(np.ascontiguousarray(colours)).convert("L"))
