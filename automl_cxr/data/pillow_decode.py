"""Decoding of picture files with Pillow to upright uint8 grey pictures."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, UnidentifiedImageError

from automl_cxr.data.grayscale import check_size, finite_range, rgb_to_grey, window
from automl_cxr.errors import UnreadableImageError

# Pillow has more decoders, and one of them (EPS) would start Ghostscript.
FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP", "GIF", "JPEG2000", "PPM")

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


def decode_picture(content: bytes, max_pixels: int) -> np.ndarray:
    """Decode the bytes of a picture file.

    Returns:
        uint8 (height, width), upright according to EXIF; the first frame of several.

    Raises:
        UnreadableImageError: The format is unknown, or the picture is too large or too small.
        Exception: Any type, for a broken file.
    """
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            check_size(image.size, max_pixels)
            image.load()
            return np.ascontiguousarray(_to_grey(_make_upright(image)))
    except UnidentifiedImageError as error:
        raise UnreadableImageError(f"not an image in a known format ({', '.join(FORMATS)}, DICOM)") from error
    except Image.DecompressionBombError as error:
        raise UnreadableImageError(f"too large (more than twice Pillow's {Image.MAX_IMAGE_PIXELS:,} pixels)") from error


def _make_upright(image: Image.Image) -> Image.Image:
    try:
        orientation = image.getexif().get(_ORIENTATION_TAG)
    except Exception:  # noqa: BLE001 - pixels are readable without EXIF
        return image
    method = _UPRIGHT.get(orientation) if isinstance(orientation, int) else None
    return image if method is None else image.transpose(method)


def _to_grey(image: Image.Image) -> np.ndarray:
    if image.mode.startswith(("I", "F")):
        values = np.asarray(image)
        return window(values, *finite_range(values), inverted=_is_white_zero(image))
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        return _on_black(image)
    if image.mode in ("L", "1"):
        return np.asarray(image.convert("L"))
    return rgb_to_grey(np.asarray(image.convert("RGB")))


def _is_white_zero(image: Image.Image) -> bool:
    """Return whether 0 is white in a TIFF. Pillow inverts such pictures of 1 and 8 bits, but not deeper ones."""
    tags = getattr(image, "tag_v2", {})
    return bool(tags.get(_PHOTOMETRIC_TAG, 1) == _WHITE_IS_ZERO)


def _on_black(image: Image.Image) -> np.ndarray:
    """Blend a transparent picture with black, the usual background of a radiograph."""
    coloured = image.convert("RGBA")
    black = Image.new("RGBA", coloured.size, (0, 0, 0, 255))
    return np.asarray(Image.alpha_composite(black, coloured).convert("L"))
