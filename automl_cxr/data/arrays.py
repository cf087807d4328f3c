"""Images in one NumPy file. ``images.npy#00012`` is the thirteenth image.

No code from a file is executed: an array of Python objects is refused before it is read.
"""

from __future__ import annotations

import io
import math
import os
import re
import stat
import threading
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

import numpy as np

from automl_cxr.data.grayscale import MAX_FILE_BYTES, MAX_PIXELS, check_size, finite_range, rgb_to_grey, window
from automl_cxr.errors import UnreadableImageError

ARRAY_SUFFIX = ".npy"
_ROW_OF_ARRAY = re.compile(r"(?P<file>.+\.npy)#(?P<row>\d+)", re.IGNORECASE | re.DOTALL)
_MAGIC = np.lib.format.MAGIC_PREFIX
_NUMBERS = "buif"  # dtype kinds: bool, unsigned and signed integers, floats
_MAX_OPEN_ARRAYS = 4
_BLOCK_BYTES = 2**26  # bytes of an array that are read at once
_OVERSHOOT = 0.05  # interpolated floats may exceed their scale by this fraction
_MIN_MAXIMUM = 2  # floats with a smaller maximum are not taken as grey levels 0..255, which would look black
# Python 3.11 may fail to parse a header while another thread parses one ("AST constructor recursion depth mismatch").
_HEADER_LOCK = threading.Lock()
_RANGE_LOCK = threading.Lock()  # without it every decoding thread would read the whole array


def split_row(path: str) -> tuple[str, int | None]:
    """Split a path into the file of an array and the row; the row is None for any other file."""
    match = _ROW_OF_ARRAY.fullmatch(path)
    return (match["file"], int(match["row"])) if match else (path, None)


def name_rows(file: str, n_images: int) -> list[str]:
    """Return a name for each image of an array. The names have equal length, so that sorting keeps the order of the rows."""
    width = len(str(n_images - 1))
    return [f"{file}#{row:0{width}}" for row in range(n_images)]


def open_images(file: Path | str) -> np.ndarray:
    """Map an array of images into memory without reading it.

    Returns:
        Numbers (n, height, width), (n, height, width, 1) or (n, height, width, 3), read-only.

    Raises:
        UnreadableImageError: The file contains no such array; the message is the reason.
        OSError: The file cannot be opened.
    """
    status = os.stat(file)
    if not stat.S_ISREG(status.st_mode):
        raise UnreadableImageError("not a regular file")
    return _map_images(os.fspath(file), status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


@lru_cache(_MAX_OPEN_ARRAYS)  # rows are read one at a time
def _map_images(file: str, *_status: int) -> np.ndarray:
    with open(file, "rb") as opened:
        if opened.read(len(_MAGIC)) != _MAGIC:
            raise UnreadableImageError("not a NumPy array file")
    try:
        with _HEADER_LOCK:
            images: np.ndarray = np.load(file, mmap_mode="r", allow_pickle=False)
    except OSError:
        raise
    except Exception as error:  # NumPy raises many types of exceptions for a broken header
        raise UnreadableImageError(_explain_unmapped(error)) from error
    _check_numbers(images.dtype)
    if not (images.ndim == 3 or (images.ndim == 4 and images.shape[3] in (1, 3))) or not images.size:
        raise UnreadableImageError(
            f"an array of shape {images.shape}, not (n, height, width), (n, height, width, 1) or (n, height, width, 3)"
        )
    return images


def _explain_unmapped(error: Exception) -> str:
    text = " ".join(str(error).split())
    if "Python objects" in text:
        return "an array of Python objects, not of numbers"
    return f"{'truncated' if 'greater than file size' in text else 'damaged'} ({text})"


def _check_numbers(dtype: np.dtype) -> None:
    if dtype.hasobject or dtype.kind not in _NUMBERS:
        raise UnreadableImageError(f"an array of {'Python objects' if dtype.hasobject else dtype}, not of numbers")


def read_row(file: str, row: int) -> bytes:
    """Read one image of an array as the content of a NumPy file, uint8 on the grey scale of the whole array.

    Raises:
        UnreadableImageError: The file contains no array of images, the row does not exist, or the images are too large or
            too small.
        OSError: The file cannot be read.
    """
    images = open_images(file)
    if row >= len(images):
        raise UnreadableImageError(f"there is no image {row} in an array of {len(images)} images, counted from 0")
    check_size((images.shape[2], images.shape[1]), MAX_PIXELS)  # the header of a sparse file may contain any size
    numbers = np.asarray(images[row])  # mapped, not read yet
    if numbers.nbytes > MAX_FILE_BYTES:
        raise UnreadableImageError(f"too large ({numbers.nbytes:,} bytes; at most {MAX_FILE_BYTES:,})")
    if numbers.dtype.kind == "f" and not np.isfinite(numbers).any():  # it would be black on the array's scale
        raise UnreadableImageError("no finite pixel value")
    status = os.stat(file)
    with _RANGE_LOCK:
        low, high = _range_of_array(file, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    content = io.BytesIO()
    np.lib.format.write_array(content, to_grey_levels(numbers, low, high), version=(1, 0), allow_pickle=False)
    return content.getvalue()


@lru_cache(_MAX_OPEN_ARRAYS)
def _range_of_array(file: str, *_status: int) -> tuple[float, float]:
    """Find the smallest and the largest finite value of an array, one block at a time.

    All images share one scale, because a single image does not determine it: the maximum of a dark image may be 0.9.
    """
    images = open_images(file)
    if images.dtype.kind == "b" or images.dtype == np.uint8:
        return 0.0, 1.0  # their scale is known
    step = max(1, _BLOCK_BYTES // max(1, images[0].nbytes))
    ranges = []
    for first in range(0, len(images), step):
        with suppress(UnreadableImageError):  # a block without a finite number does not count
            ranges.append(finite_range(images[first : first + step]))
    if not ranges:
        raise UnreadableImageError("no finite pixel value")
    return min(low for low, _ in ranges), max(high for _, high in ranges)


def is_array(content: bytes) -> bool:
    """Return whether the first bytes are those of a NumPy file."""
    return content.startswith(_MAGIC)


def decode_array(content: bytes, max_pixels: int) -> np.ndarray:
    """Decode the content of a NumPy file with one image.

    Returns:
        uint8 (height, width). Numbers from 0 to 255 are unchanged, and floats from 0 to 1, up to 5 % overshoot, are multiplied
        by 255. Other numbers, such as floats from 0 to 1.2, are scaled linearly from their smallest to their largest value.

    Raises:
        UnreadableImageError: The array is not a single image of numbers, or is too large or too small.
        ValueError: The file is broken.
    """
    opened = io.BytesIO(content)
    is_first_version = np.lib.format.read_magic(opened) == (1, 0)
    read_header = np.lib.format.read_array_header_1_0 if is_first_version else np.lib.format.read_array_header_2_0
    with _HEADER_LOCK:
        shape, is_fortran, dtype = read_header(opened)
    _check_numbers(dtype)
    if len(shape) < 2 or shape[2:] not in ((), (1,), (3,)):
        raise UnreadableImageError(f"an array of shape {shape}, not one image; name a row of it, such as images.npy#0")
    check_size((shape[1], shape[0]), max_pixels)
    numbers = np.frombuffer(content, dtype, math.prod(shape), opened.tell())
    low, high = (0.0, 1.0) if dtype == np.uint8 else finite_range(numbers)
    grey = to_grey_levels(numbers.reshape(shape, order="F" if is_fortran else "C"), low, high)
    return rgb_to_grey(grey) if shape[2:] == (3,) else np.ascontiguousarray(grey.reshape(shape[:2]))


def to_grey_levels(numbers: np.ndarray, low: float, high: float) -> np.ndarray:
    """Convert numbers to grey levels, with the scale that fits the range from ``low`` to ``high``.

    Args:
        numbers: Pixels of any shape and type.
        low: Smallest value of all images of the array.
        high: Largest value of all images of the array.

    Returns:
        uint8 in the same shape; see ``decode_array`` for the scales.
    """
    if numbers.dtype == np.uint8:
        return np.ascontiguousarray(numbers)
    kind = numbers.dtype.kind
    overshoot = _OVERSHOOT if kind == "f" else 0
    starts_at_black = low >= -overshoot * abs(high)
    if kind == "b" or (kind == "f" and starts_at_black and high <= 1 + overshoot):
        return window(numbers, 0, 1)
    if starts_at_black and high <= 255 * (1 + overshoot) and (kind != "f" or high > _MIN_MAXIMUM):
        return window(numbers, 0, 255)
    return window(numbers, low, high)
