"""Conversion of numbers to uint8 grey and limits on picture sizes, for all file formats."""

from __future__ import annotations

import numpy as np
from PIL import Image

from automl_cxr.errors import UnreadableImageError

MIN_SIDE = 8
MAX_PIXELS = 100_000_000  # pixels
MAX_FILE_BYTES = 2**30  # bytes


def check_size(size: tuple[int, int], max_pixels: int) -> None:
    """Refuse a picture of invalid width and height before its pixels are decoded.

    Raises:
        UnreadableImageError: The picture is too large or too small.
    """
    width, height = size
    if width * height > max_pixels:
        raise UnreadableImageError(f"too large ({width} x {height} pixels; at most {max_pixels:,} in all)")
    if min(width, height) < MIN_SIDE:
        raise UnreadableImageError(f"too small ({width} x {height} pixels; at least {MIN_SIDE} on each side)")


def window(values: np.ndarray, low: float, high: float, *, inverted: bool = False) -> np.ndarray:
    """Map low..high linearly to 0..255 and clip other values. If high is not above low, all values become 0.

    Returns:
        uint8 in the shape of the values; NaN is mapped like low.
    """
    if not high > low:
        return np.zeros(values.shape, np.uint8)
    share = (values.astype(np.float64) - low) / (high - low)
    share = np.clip(np.nan_to_num(share, nan=0.0, posinf=1.0, neginf=0.0), 0, 1)
    return np.rint(255 * (1 - share if inverted else share)).astype(np.uint8)


def finite_range(values: np.ndarray, *, excluded: np.ndarray | None = None) -> tuple[float, float]:
    """Return the smallest and the largest finite value of a picture with more than 8 bits.

    Radiographs of 10, 12 or 14 bits are stored in 16 bits, mostly without the actual depth: on the scale 0..65535 a 12-bit
    radiograph would be black. Viewers therefore start with the range from the smallest to the largest value.

    Args:
        values: Numbers of any shape.
        excluded: Pixels that do not count, such as padding, bool; its shape is that of the values or of their first axes.

    Raises:
        UnreadableImageError: No value that counts is finite.
    """
    counted = values if excluded is None else values[~excluded]
    finite = counted[np.isfinite(counted)] if values.dtype.kind == "f" else counted
    if not finite.size:
        raise UnreadableImageError("no finite pixel value")
    return float(finite.min()), float(finite.max())


def check_not_uniform(grey: np.ndarray) -> None:
    """Refuse a picture without any structure, such as one whose window is outside of its numbers.

    Raises:
        UnreadableImageError: All pixels are equal.
    """
    level = grey.min()
    if level == grey.max():
        raise UnreadableImageError(
            f"uniform: every pixel has the grey level {level}; check the picture, and in a DICOM file its window and rescale"
        )


def rgb_to_grey(colours: np.ndarray) -> np.ndarray:
    """Convert colours to grey by ITU-R 601: uint8 (height, width, 3) to uint8 (height, width)."""
    return np.asarray(Image.fromarray(np.ascontiguousarray(colours)).convert("L"))
