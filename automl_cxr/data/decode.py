"""One image file to one grey picture, the way a person at a viewer would see it.

Every mode that Pillow can open becomes uint8 grey; whatever cannot be shown is refused with a reason in plain words.
"""

from __future__ import annotations

import errno
import io
import os
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from automl_cxr.errors import UnreadableImageError

DECODER_VERSION = "1"  # part of every cache key: raise it when a decoded pixel may differ
SMALLEST_SIDE = 8
LARGEST_FILE = 2**30

# Only these decoders are offered the bytes. Pillow knows more, and one of them (EPS) would start Ghostscript.
FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP", "GIF", "JPEG2000", "PPM")

READ_FAILURES = {
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.ENOENT: "missing",
    errno.ENOTDIR: "missing",
    errno.EISDIR: "a folder, not a file",
    errno.ELOOP: "circular link",
}
_ORIENTATION_TAG = 0x0112
_PHOTOMETRIC_TAG = 262
_WHITE_IS_ZERO = 0
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode_image(path: Path, *, max_pixels: int = 100_000_000) -> np.ndarray:
    """Read one file as the grey picture that a viewer would show.

    Args:
        path: An image file.
        max_pixels: Larger pictures are refused by their header, before any pixel is decoded.

    Returns:
        uint8 (height, width), upright according to EXIF, the first frame where there are several.

    Raises:
        UnreadableImageError: The file cannot be shown; the message is the reason alone, without the path.
    """
    try:
        content = read_image_file(path)
    except OSError as error:
        raise UnreadableImageError(describe_read_failure(error)) from error
    with pillow_warnings_off():
        return decode_content(content, max_pixels=max_pixels)


def fit_square(image: np.ndarray, size: int) -> np.ndarray:
    """Stretch a grey picture to a square, averaging over the source pixels when it shrinks.

    Args:
        image: uint8 (height, width).
        size: Height and width wanted, in pixels.

    Returns:
        uint8 (size, size).
    """
    if image.shape == (size, size):
        return image
    # Pillow's BILINEAR widens its triangle with the reduction, so that thin ribs do not alias as they would in OpenCV.
    return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR))


def read_image_file(path: Path) -> bytes:
    """Read a whole regular file.

    Raises:
        UnreadableImageError: It is empty, too large or no regular file.
        OSError: The system refused; ``describe_read_failure`` words it.
    """
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
def pillow_warnings_off() -> Iterator[None]:
    """Keep Pillow's remarks on metadata and size to itself; ``decode_content`` checks the size on its own.

    The interpreter's warning filters belong to all threads, so enter this once around a pool and never inside of it.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def decode_content(content: bytes, *, max_pixels: int = 100_000_000) -> np.ndarray:
    """Decode the bytes of one image file; see ``decode_image``. Call it within ``pillow_warnings_off``.

    Returns:
        uint8 (height, width).

    Raises:
        UnreadableImageError: The bytes cannot be shown; the message is the reason.
    """
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            _check_size(image.size, max_pixels)
            image.load()
            return np.ascontiguousarray(_to_grey(_turn_upright(image)))
    except UnreadableImageError:
        raise
    except UnidentifiedImageError as error:
        raise UnreadableImageError(f"not an image in a known format ({', '.join(FORMATS)})") from error
    except Image.DecompressionBombError as error:
        raise UnreadableImageError(f"too large (more than twice Pillow's {Image.MAX_IMAGE_PIXELS:,} pixels)") from error
    except MemoryError as error:
        raise UnreadableImageError("too large for this machine's memory") from error
    except Exception as error:  # a broken file makes Pillow's format readers raise nearly anything
        raise UnreadableImageError(_describe_broken(error)) from error


def _check_size(size: tuple[int, int], max_pixels: int) -> None:
    width, height = size
    if width * height > max_pixels:
        raise UnreadableImageError(f"too large ({width} x {height} pixels; at most {max_pixels:,} in all)")
    if min(width, height) < SMALLEST_SIDE:
        raise UnreadableImageError(f"too small ({width} x {height} pixels; at least {SMALLEST_SIDE} on each side)")


def _describe_broken(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    # The formats have their own words for a file that ends too early; "unrecognized data stream" is OpenJPEG's and
    # libtiff's catch-all, so it stays with the damaged ones.
    cut_off = ("truncated", "not enough", "unexpected end", "end of file", "buffer is not large enough")
    is_truncated = isinstance(error, EOFError) or any(words in text.lower() for words in cut_off)
    return f"{'truncated' if is_truncated else 'damaged'} ({text})"


def _turn_upright(image: Image.Image) -> Image.Image:
    try:
        orientation = image.getexif().get(_ORIENTATION_TAG)
    except Exception:  # noqa: BLE001 - unreadable EXIF says nothing about the pixels, which are fine
        return image
    method = _UPRIGHT.get(orientation) if isinstance(orientation, int) else None
    return image if method is None else image.transpose(method)


def _to_grey(image: Image.Image) -> np.ndarray:
    if image.mode.startswith(("I", "F")):
        return _window(np.asarray(image), inverted=_is_white_zero(image))
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        return _on_black(image)
    if image.mode in ("L", "1"):
        return np.asarray(image.convert("L"))
    return np.asarray(image.convert("RGB").convert("L"))


def _is_white_zero(image: Image.Image) -> bool:
    """Tell whether a TIFF counts from white: Pillow turns such pictures of 1 and 8 bits itself, deeper ones not."""
    tags = getattr(image, "tag_v2", {})
    return bool(tags.get(_PHOTOMETRIC_TAG, 1) == _WHITE_IS_ZERO)


def _window(values: np.ndarray, *, inverted: bool) -> np.ndarray:
    """Map the used range of a deep picture to 0..255.

    Radiographs of 10, 12 or 14 bits are stored in 16, and the file seldom says which: over the full 0..65535 a 12-bit
    chest would be black. The darkest to the brightest pixel is what a viewer opens with, and needs no guess.
    """
    finite = values[np.isfinite(values)] if values.dtype.kind == "f" else values
    if not finite.size:
        raise UnreadableImageError("no finite pixel value")
    low, high = float(finite.min()), float(finite.max())
    if high == low:
        return np.zeros(values.shape, np.uint8)
    share = (values.astype(np.float64) - low) / (high - low)
    share = np.nan_to_num(share, nan=0.0, posinf=1.0, neginf=0.0)
    return np.rint(255 * (1 - share if inverted else share)).astype(np.uint8)


def _on_black(image: Image.Image) -> np.ndarray:
    """Lay a transparent picture on black, the colour around a radiograph."""
    coloured = image.convert("RGBA")
    black = Image.new("RGBA", coloured.size, (0, 0, 0, 255))
    return np.asarray(Image.alpha_composite(black, coloured).convert("L"))
