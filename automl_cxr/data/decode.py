"""Decoding of an image file of any format to a uint8 grey picture, and fitting of a picture to a square.

A file that cannot be decoded raises an error whose message is the reason.
"""

from __future__ import annotations

import errno
import os
import stat
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
from PIL import Image, features

from automl_cxr.data.arrays import decode_array, is_array, read_row, split_row
from automl_cxr.data.dicom import decode_dicom, is_dicom
from automl_cxr.data.grayscale import MAX_FILE_BYTES, MAX_PIXELS, check_not_uniform
from automl_cxr.data.pillow_decode import decode_picture
from automl_cxr.errors import ImageMemoryError, UnknownNameError, UnreadableImageError

# Part of every cache key: increase it after a change that affects decoded pixels.
# 5: DICOM padding, HighBit, lookup tables and rescale of 8 bits; colours of 16 bits; uint32, int8 and big-endian TIFF; uniform
# pictures are refused.
DECODER_VERSION = "5"
_DECODER_PACKAGES = (
    *("Pillow", "numpy", "pydicom", "pylibjpeg", "pylibjpeg-libjpeg", "pylibjpeg-openjpeg", "pylibjpeg-rle"),
    *("python-gdcm", "pyjpegls", "jpeg-ls"),
)
FITS = ("stretch", "pad", "crop")
DEFAULT_FIT = "stretch"

READ_FAILURES = {
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.ENOENT: "missing",
    errno.ENOTDIR: "missing",
    errno.EISDIR: "a folder, not a file",
    errno.ELOOP: "circular symbolic link",
}


def decode_image(path: Path, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Read one image as the grey picture that a viewer shows.

    Args:
        path: A picture file, a DICOM file, or a row of an array such as ``images.npy#00012``.
        max_pixels: Largest number of pixels; larger pictures are refused before their pixels are decoded.

    Returns:
        uint8 (height, width), upright according to EXIF; the first frame if the file has several.

    Raises:
        UnreadableImageError: The file cannot be decoded; the message is the reason, without the path.
    """
    with decoder_warnings_off():
        return decode_image_in_pool(path, max_pixels=max_pixels)


def decode_image_in_pool(path: Path, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Decode like ``decode_image``, in a thread inside a ``decoder_warnings_off`` block that encloses all threads."""
    try:
        content = read_image_file(path)
    except OSError as error:
        raise UnreadableImageError(describe_read_failure(error)) from error
    return decode_content(content, max_pixels=max_pixels)


def check_fit(fit: str) -> str:
    """Return the name of a fit after validation.

    Raises:
        UnknownNameError: There is no fit with this name.
    """
    if fit not in FITS:
        raise UnknownNameError("fit", fit, FITS)
    return fit


def fit_square(image: np.ndarray, size: int, fit: str = DEFAULT_FIT) -> np.ndarray:
    """Fit a grey picture to a square. If it is reduced, each pixel is an average of source pixels.

    Args:
        image: uint8 (height, width).
        size: Height and width of the square in pixels.
        fit: "stretch" scales each side to the size; "pad" adds black to both ends of the short side; "crop" cuts both ends of
            the long side.

    Returns:
        uint8 (size, size).

    Raises:
        UnknownNameError: There is no such fit.
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
    """The location of the network's square input on a picture, whose top, left, height and width are 0, 0, 1, 1."""

    top: float
    left: float
    height: float
    width: float


def square_on_picture(shape: tuple[int, int], fit: str = DEFAULT_FIT) -> Window:
    """Return the part of a picture of the given height and width that ``fit_square`` shows, to within a pixel.

    With padding the square extends beyond the picture.

    Raises:
        UnknownNameError: There is no such fit.
    """
    if check_fit(fit) == "stretch":
        return Window(0, 0, 1, 1)
    side = max(shape) if fit == "pad" else min(shape)
    height, width = side / shape[0], side / shape[1]
    return Window((1 - height) / 2, (1 - width) / 2, height, width)


def _resize(image: np.ndarray, height: int, width: int, *, box: tuple[float, float, float, float] | None = None) -> np.ndarray:
    # The width of Pillow's BILINEAR filter grows with the reduction factor, which avoids aliasing. OpenCV's does not grow.
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR, box=box))


def _pad(image: np.ndarray, size: int) -> np.ndarray:
    height, width = image.shape
    square = np.zeros((size, size), np.uint8)
    top, left = (size - height) // 2, (size - width) // 2
    square[top : top + height, left : left + width] = image
    return square


def read_image_file(path: Path) -> bytes:
    """Read the content of a regular file, or of a row of an array as if it were a file.

    Raises:
        UnreadableImageError: The file is empty, too large or not a regular file, or the row does not exist.
        OSError: The file cannot be read; ``describe_read_failure`` returns the reason.
    """
    file, row = split_row(os.fspath(path))
    if row is not None:
        return read_row(file, row)
    status = os.stat(path)
    if stat.S_ISDIR(status.st_mode):
        raise UnreadableImageError(READ_FAILURES[errno.EISDIR])
    if not stat.S_ISREG(status.st_mode):
        raise UnreadableImageError("not a regular file")  # reading a pipe could block forever
    if status.st_size > MAX_FILE_BYTES:
        raise UnreadableImageError(f"file too large ({status.st_size:,} bytes; at most {MAX_FILE_BYTES:,})")
    content = Path(path).read_bytes()
    if not content:
        raise UnreadableImageError("empty file (0 bytes)")
    return content


def describe_read_failure(error: OSError) -> str:
    """Return the reason why the operating system could not read a file."""
    known = READ_FAILURES.get(error.errno or 0)
    return known or f"cannot be read ({error.strerror or error})"


@contextmanager
def decoder_warnings_off() -> Iterator[None]:
    """Suppress warnings of Pillow and pydicom about metadata and size. The decoders check the size themselves.

    The interpreter's warning filters apply to all threads, so this must be entered once around a pool and never inside it.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def decode_content(content: bytes, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Decode the content of one image file; see ``decode_image``. Call it inside ``decoder_warnings_off``.

    Returns:
        uint8 (height, width).

    Raises:
        UnreadableImageError: The content cannot be decoded, or all pixels are equal; the message is the reason.
        ImageMemoryError: There is not enough memory now.
    """
    try:
        grey = _choose_decoder(content)(content, max_pixels)
        check_not_uniform(grey)
        return grey
    except UnreadableImageError:
        raise
    except MemoryError as error:
        raise ImageMemoryError("too large for the free memory of this machine; close other programs") from error
    except Exception as error:  # decoders raise many types of exceptions for broken files
        raise UnreadableImageError(_describe_broken(error)) from error


@lru_cache(1)
def decoder_versions() -> dict[str, str]:
    """Return the versions of the packages, and of the libraries in Pillow, that determine which files are readable."""
    versions = {f"Pillow: {name}": str(features.version(name)) for name in (*features.get_supported_codecs(), "webp")}
    for name in _DECODER_PACKAGES:
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    return versions


def _choose_decoder(content: bytes) -> Callable[[bytes, int], np.ndarray]:
    """Choose the decoder by content, not by name: downloaded DICOM files often have other suffixes."""
    if is_array(content):
        return decode_array
    return decode_dicom if is_dicom(content) else decode_picture


def _describe_broken(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    # Each library has its own message for a truncated file. "unrecognized data stream" of OpenJPEG and libtiff covers other
    # damage too, so it is not in the list.
    truncated = ("truncated", "not enough", "unexpected end", "end of file", "buffer is not large enough", "buffer is smaller")
    is_truncated = isinstance(error, EOFError) or any(words in text.lower() for words in (*truncated, "less than expected"))
    return f"{'truncated' if is_truncated else 'damaged'} ({text})"
