"""One image, in a file of whatever kind, to one grey picture; and how a picture meets the square that a network takes.

Every picture becomes uint8 grey; whatever cannot be shown is refused with a reason in plain words.
"""

from __future__ import annotations

import errno
import os
import stat
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from automl_cxr.data.arrays import decode_array, is_array, read_row, split_row
from automl_cxr.data.dicom import decode_dicom, is_dicom
from automl_cxr.data.grayscale import LARGEST_FILE, LARGEST_PICTURE
from automl_cxr.data.pillow_decode import decode_picture
from automl_cxr.errors import UnknownNameError, UnreadableImageError

DECODER_VERSION = "4"  # part of every cache key: raise it when a decoded pixel may differ
FITS = ("stretch", "pad", "crop")
DEFAULT_FIT = "stretch"

READ_FAILURES = {
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.ENOENT: "missing",
    errno.ENOTDIR: "missing",
    errno.EISDIR: "a folder, not a file",
    errno.ELOOP: "circular link",
}


def decode_image(path: Path, *, max_pixels: int = LARGEST_PICTURE) -> np.ndarray:
    """Read one image as the grey picture that a viewer would show.

    Args:
        path: A picture file, a DICOM file, or a row of an array such as ``images.npy#00012``.
        max_pixels: Larger pictures are refused by their header, before any pixel is decoded.

    Returns:
        uint8 (height, width), upright according to EXIF, the first frame where there are several.

    Raises:
        UnreadableImageError: The file cannot be shown; the message is the reason alone, without the path.
    """
    with decoder_warnings_off():
        return decode_image_in_pool(path, max_pixels=max_pixels)


def decode_image_in_pool(path: Path, *, max_pixels: int = LARGEST_PICTURE) -> np.ndarray:
    """Do as ``decode_image``, within a ``decoder_warnings_off`` that encloses all threads."""
    try:
        content = read_image_file(path)
    except OSError as error:
        raise UnreadableImageError(describe_read_failure(error)) from error
    return decode_content(content, max_pixels=max_pixels)


def check_fit(fit: str) -> str:
    """Return the name of a fit that there is.

    Raises:
        UnknownNameError: There is none of the name.
    """
    if fit not in FITS:
        raise UnknownNameError("fit", fit, FITS)
    return fit


def fit_square(image: np.ndarray, size: int, fit: str = DEFAULT_FIT) -> np.ndarray:
    """Bring a grey picture to a square, averaging over the source pixels when it shrinks.

    Args:
        image: uint8 (height, width).
        size: Height and width wanted, in pixels.
        fit: "stretch" each side to the size; "pad" the short side with black, evenly at both ends; "crop" the long side,
            evenly at both ends.

    Returns:
        uint8 (size, size).

    Raises:
        UnknownNameError: No such fit.
    """
    check_fit(fit)
    height, width = image.shape
    if (height, width) == (size, size):
        return image
    if fit == "pad":
        return _pad(_resize(image, *(max(1, round(side * size / max(height, width))) for side in (height, width))), size)
    if fit == "crop":
        short = min(height, width)
        top, left = (height - short) / 2, (width - short) / 2
        return _resize(image, size, size, box=(left, top, left + short, top + short))
    return _resize(image, size, size)


@dataclass(frozen=True)
class Window:
    """Where the square that a network takes lies on a picture, whose own top, left, height and width are 0, 0, 1, 1."""

    top: float
    left: float
    height: float
    width: float


def square_on_picture(shape: tuple[int, int], fit: str = DEFAULT_FIT) -> Window:
    """Tell which part of a picture of some height and width ``fit_square`` shows, to within a pixel; padding lies outside.

    Raises:
        UnknownNameError: No such fit.
    """
    if check_fit(fit) == "stretch":
        return Window(0, 0, 1, 1)
    side = max(shape) if fit == "pad" else min(shape)
    height, width = side / shape[0], side / shape[1]
    return Window((1 - height) / 2, (1 - width) / 2, height, width)


def _resize(image: np.ndarray, height: int, width: int, *, box: tuple[float, float, float, float] | None = None) -> np.ndarray:
    # Pillow's BILINEAR widens its triangle with the reduction, so that thin ribs do not alias as they would in OpenCV.
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR, box=box))


def _pad(image: np.ndarray, size: int) -> np.ndarray:
    height, width = image.shape
    square = np.zeros((size, size), np.uint8)
    top, left = (size - height) // 2, (size - width) // 2
    square[top : top + height, left : left + width] = image
    return square


def read_image_file(path: Path) -> bytes:
    """Read a whole regular file, or a row of an array as if it were one.

    Raises:
        UnreadableImageError: It is empty, too large or no regular file, or there is no such row.
        OSError: The system refused; ``describe_read_failure`` words it.
    """
    file, row = split_row(os.fspath(path))
    if row is not None:
        return read_row(file, row)
    status = os.stat(path)
    if stat.S_ISDIR(status.st_mode):
        raise UnreadableImageError(READ_FAILURES[errno.EISDIR])
    if not stat.S_ISREG(status.st_mode):
        raise UnreadableImageError("not a regular file")  # opening a pipe would wait for ever
    if status.st_size > LARGEST_FILE:
        raise UnreadableImageError(f"file too large ({status.st_size:,} bytes; at most {LARGEST_FILE:,})")
    content = Path(path).read_bytes()
    if not content:
        raise UnreadableImageError("empty file (0 bytes)")
    return content


def describe_read_failure(error: OSError) -> str:
    """Word the reason why the system would not give a file's bytes."""
    known = READ_FAILURES.get(error.errno or 0)
    return known or f"cannot be read ({error.strerror or error})"


@contextmanager
def decoder_warnings_off() -> Iterator[None]:
    """Keep the remarks of Pillow and pydicom on metadata and size to themselves; the decoders check the size on their own.

    The interpreter's warning filters belong to all threads, so enter this once around a pool and never inside of it.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def decode_content(content: bytes, *, max_pixels: int = LARGEST_PICTURE) -> np.ndarray:
    """Decode the bytes of one image; see ``decode_image``. Call it within ``decoder_warnings_off``.

    Returns:
        uint8 (height, width).

    Raises:
        UnreadableImageError: The bytes cannot be shown; the message is the reason.
    """
    try:
        return _choose_decoder(content)(content, max_pixels)
    except UnreadableImageError:
        raise
    except MemoryError as error:
        raise UnreadableImageError("too large for this machine's memory") from error
    except Exception as error:  # a broken file makes the readers of formats raise nearly anything
        raise UnreadableImageError(_describe_broken(error)) from error


def _choose_decoder(content: bytes) -> Callable[[bytes, int], np.ndarray]:
    """Choose by what the file is and not by what it is called: downloaded DICOM files often have other suffixes."""
    if is_array(content):
        return decode_array
    return decode_dicom if is_dicom(content) else decode_picture


def _describe_broken(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    # The formats have their own words for a file that ends too early; "unrecognized data stream" is OpenJPEG's and
    # libtiff's catch-all, so it stays with the damaged ones.
    cut_off = ("truncated", "not enough", "unexpected end", "end of file", "buffer is not large enough", "buffer is smaller")
    is_truncated = isinstance(error, EOFError) or any(words in text.lower() for words in (*cut_off, "less than expected"))
    return f"{'truncated' if is_truncated else 'damaged'} ({text})"
