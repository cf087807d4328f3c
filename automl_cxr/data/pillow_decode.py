"""Decoding of picture files with Pillow to upright uint8 grey pictures."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError

from automl_cxr.data.deep_colours import CONVERT, decode_deep_colours, visible_range
from automl_cxr.data.file_format import HEAD_BYTES, detect_format
from automl_cxr.data.grayscale import check_size, rgb_to_grey, window
from automl_cxr.errors import UnreadableImageError

# Pillow has more decoders, and one of them (EPS) would start Ghostscript.
FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP", "GIF", "JPEG2000", "PPM")

_ORIENTATION_TAG = 0x0112
_PHOTOMETRIC_TAG = 262
_BITS_TAG = 258
_PLANAR_TAG = 284
_SAMPLE_FORMAT_TAG = 339
_UNSIGNED, _SIGNED = 1, 2  # sample formats
_WHITE_IS_ZERO = 0
_PLANAR = 2  # the channels are stored one after another
# libtiff decompresses numbers to this machine's byte order, but Pillow reads them in the byte order of the file.
_NATIVE_RAW_MODES = {"I;16BS": "I;16NS", "I;32BS": "I;32NS", "F;32BF": "F;32NF"}
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ALPHA_MODES = ("LA", "La", "PA", "RGBA", "RGBa")
_COLOUR_MODES = ("P", "RGB", "CMYK", "YCbCr")


def decode_picture(content: bytes, max_pixels: int) -> np.ndarray:
    """Decode the bytes of a picture file.

    Pictures of 8 bits are unchanged. Grey pictures and colours of more bits, and signed numbers, are scaled linearly from
    their smallest to their largest value. Transparent pixels are blended with black.

    Returns:
        uint8 (height, width), upright according to EXIF; the first frame of several.

    Raises:
        UnreadableImageError: The format is unknown or not supported, the picture is too large or too small, or all of it is
            transparent.
        Exception: Any type, for a broken file.
    """
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            check_size(image.size, max_pixels)
            return np.ascontiguousarray(_make_upright(_decode(image, content), image))
    except UnidentifiedImageError as error:
        raise UnreadableImageError(_explain_unidentified(content)) from error
    except Image.DecompressionBombError as error:
        raise UnreadableImageError(f"too large (more than twice Pillow's {Image.MAX_IMAGE_PIXELS:,} pixels)") from error


def _explain_unidentified(content: bytes) -> str:
    name = detect_format(content[:HEAD_BYTES])
    if name in FORMATS:
        return f"a {name} file with a damaged header, or of a kind that Pillow does not decode; {CONVERT}"
    return f"not an image in a known format ({', '.join(FORMATS)}, DICOM)"


def _make_upright(grey: np.ndarray, image: Image.Image) -> np.ndarray:
    try:
        orientation = image.getexif().get(_ORIENTATION_TAG)
    except Exception:  # noqa: BLE001 - pixels are readable without EXIF
        return grey
    method = _UPRIGHT.get(orientation) if isinstance(orientation, int) else None
    return grey if method is None else np.asarray(Image.fromarray(grey).transpose(method))


def _decode(image: ImageFile.ImageFile, content: bytes) -> np.ndarray:
    deep_colours = decode_deep_colours(image, content)
    if deep_colours is not None:
        return deep_colours
    _read_tiff_in_its_byte_order(image)
    image.load()
    if image.mode.startswith(("I", "F")) or (image.mode == "L" and _sample_format(image) == _SIGNED):
        values = _as_stored(np.asarray(image), image)
        key = image.info.get("transparency")  # the number of the transparent pixels in a PNG
        transparent = values == key if isinstance(key, int) else None
        shown = window(values, *visible_range(values, transparent), inverted=_is_white_zero(image))
        return shown if transparent is None else np.where(transparent, np.uint8(0), shown)
    if image.mode in _ALPHA_MODES or "transparency" in image.info:
        return _on_black(image)
    if image.mode in ("L", "1"):
        return np.asarray(image.convert("L"))
    if image.mode not in _COLOUR_MODES:
        raise UnreadableImageError(f"a picture in the colours {image.mode}, which are not supported; {CONVERT}")
    return rgb_to_grey(np.asarray(image.convert("RGB")))


def _read_tiff_in_its_byte_order(image: ImageFile.ImageFile) -> None:
    """Correct how Pillow reads compressed big-endian TIFF, and refuse a kind of TIFF whose channels it confuses.

    Raises:
        UnreadableImageError: Grey levels and opacity are stored one after another.
    """
    if getattr(image, "tag_v2", {}).get(_PLANAR_TAG) == _PLANAR and image.mode in _ALPHA_MODES and image.mode != "RGBA":
        raise UnreadableImageError(
            f"a TIFF with grey levels and opacity in separate planes, which are not supported; {CONVERT}"
        )
    image.tile = [
        tile._replace(args=(_NATIVE_RAW_MODES[tile.args[0]], *tile.args[1:]))
        if tile.codec_name == "libtiff" and isinstance(tile.args, tuple) and tile.args[0] in _NATIVE_RAW_MODES
        else tile
        for tile in image.tile
    ]


def _as_stored(values: np.ndarray, image: Image.Image) -> np.ndarray:
    """Return the numbers of a TIFF as they are stored: unsigned with 32 bits, or signed with 8, which Pillow confuses."""
    if image.mode == "L":
        return values.view(np.int8)
    has_32_bits = image.mode == "I" and getattr(image, "tag_v2", {}).get(_BITS_TAG) == (32,)
    return values.view(np.uint32) if has_32_bits and _sample_format(image) == _UNSIGNED else values


def _sample_format(image: Image.Image) -> int:
    value = getattr(image, "tag_v2", {}).get(_SAMPLE_FORMAT_TAG, _UNSIGNED)
    return int(value[0] if isinstance(value, tuple) else value)


def _is_white_zero(image: Image.Image) -> bool:
    """Return whether 0 is white in a TIFF. Pillow inverts such pictures of 1 and 8 bits, but not deeper ones."""
    tags = getattr(image, "tag_v2", {})
    return bool(tags.get(_PHOTOMETRIC_TAG, 1) == _WHITE_IS_ZERO)


def _on_black(image: Image.Image) -> np.ndarray:
    """Blend a transparent picture with black, the usual background of a radiograph."""
    # Pillow converts pictures with premultiplied opacity to others only in one step.
    plain = image.convert({"La": "LA", "RGBa": "RGBA"}.get(image.mode, image.mode))
    coloured = plain.convert("RGBA")
    if not np.asarray(coloured)[:, :, 3].any():
        raise UnreadableImageError("every pixel is transparent; save the picture without its alpha channel")
    black = Image.new("RGBA", coloured.size, (0, 0, 0, 255))
    return np.asarray(Image.alpha_composite(black, coloured).convert("L"))
