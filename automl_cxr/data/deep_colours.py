"""Colours, and grey levels with transparency, of more than 8 bits.

Pillow keeps only the high byte of such numbers, so that a 12-bit radiograph would be nearly black. Where a second pass over the
file can read the low bytes, the complete numbers are used. Other files are refused.
"""

from __future__ import annotations

import io
import sys

import numpy as np
from PIL import Image, ImageFile

from automl_cxr.data.grayscale import finite_range, rgb_to_grey, window
from automl_cxr.errors import UnreadableImageError

CONVERT = "save it as a grey picture of 8 or 16 bits"

_BITS_TAG, _PLANAR_TAG = 258, 284
_PLANAR = 2
_NATIVE = "L" if sys.byteorder == "little" else "B"
# Pillow's raw mode ";16B" keeps the first byte of two, and ";16L" the second. The other one is read by the other raw mode.
_OTHER_BYTE = {"B": "L", "L": "B"}
_TWO_BYTE_MODES = ("RGB;16", "RGBA;16", "RGBX;16")
_GREY_ALPHA = "LA;16B"
_FOUR_BYTES = "RGBA"  # raw mode that reads the four bytes of a pixel of grey and alpha
_SIZ_MARKER = b"\xff\x4f\xff\x51"  # start of a JPEG 2000 code stream, with the sizes of its components
_SIZ_COUNT = 40  # position of the number of components after the marker's start; each has 3 bytes, the first with its depth


def decode_deep_colours(image: ImageFile.ImageFile, content: bytes) -> np.ndarray | None:
    """Decode a picture with several numbers of more than 8 bits in each pixel.

    All numbers share one scale, from the smallest to the largest value of a pixel that is not transparent. Opacity is relative
    to its largest value, because it may have the depth of the numbers.

    Args:
        image: A picture that is opened and not loaded. It is loaded if it is of such a kind.
        content: The bytes of its file.

    Returns:
        uint8 (height, width); None for pictures of other kinds.

    Raises:
        UnreadableImageError: The numbers cannot be read completely, or every pixel is transparent.
    """
    if image.mode.startswith(("I", "F")) or not _has_deep_numbers(image, content):
        return None
    bands = _read_bands(image, content)
    if bands is None:
        raise UnreadableImageError(
            f"{image.format} colours of more than 8 bits of a kind that Pillow reduces to 8 bits; {CONVERT}"
        )
    has_alpha = bands.shape[2] in (2, 4)
    colours, alpha = (bands[:, :, :-1], bands[:, :, -1]) if has_alpha else (bands, None)
    transparent = None if alpha is None else alpha == 0
    key = image.info.get("transparency")  # the colour of the transparent pixels in a PNG
    if alpha is None and isinstance(key, tuple):
        transparent = (colours == key).all(axis=2)
    shown = window(colours, *visible_range(colours, transparent))
    grey = rgb_to_grey(shown) if shown.shape[2] == 3 else shown[:, :, 0]
    if alpha is not None:
        return np.rint(grey * (alpha / alpha.max())).astype(np.uint8)
    return grey if transparent is None else np.where(transparent, np.uint8(0), grey)


def visible_range(values: np.ndarray, transparent: np.ndarray | None) -> tuple[float, float]:
    """Return the smallest and the largest finite value of the pixels that are not transparent.

    Raises:
        UnreadableImageError: There is no such value.
    """
    if transparent is not None and transparent.all():
        raise UnreadableImageError("every pixel is transparent; save the picture without its alpha channel")
    return finite_range(values, excluded=transparent)


def _has_deep_numbers(image: ImageFile.ImageFile, content: bytes) -> bool:
    if image.format == "PPM":
        return _ppm_maximum(image) > 255
    if image.format == "JPEG2000":
        return image.mode != "L" and _jpeg2000_depth(content) > 8
    if image.format == "TIFF":
        return max(getattr(image, "tag_v2", {}).get(_BITS_TAG, (1,))) > 8
    return image.format == "PNG" and any(";16" in _raw_mode(tile) for tile in image.tile)


def _read_bands(image: ImageFile.ImageFile, content: bytes) -> np.ndarray | None:
    """Read the numbers of 16 bits, uint16 (height, width, bands); None if Pillow offers no way to read them."""
    if image.format == "PPM":
        return _read_ppm(image, content)
    raw_modes = {_raw_mode(tile) for tile in image.tile}
    is_planar = getattr(image, "tag_v2", {}).get(_PLANAR_TAG) == _PLANAR
    if len(raw_modes) != 1 or is_planar or image.format == "JPEG2000":
        return None
    raw_mode = raw_modes.pop()
    if raw_mode == _GREY_ALPHA:
        levels_and_alpha = _load(image, _FOUR_BYTES).astype(np.uint16)
        return levels_and_alpha[:, :, 0::2] << 8 | levels_and_alpha[:, :, 1::2]
    if raw_mode[:-1] not in _TWO_BYTE_MODES:
        return None
    order = _NATIVE if raw_mode.endswith("N") else raw_mode[-1]
    with Image.open(io.BytesIO(content), formats=(image.format or "",)) as again:
        low = _load(again, raw_mode[:-1] + _OTHER_BYTE[order])
    return _load(image, raw_mode).astype(np.uint16) << 8 | low


def _load(image: ImageFile.ImageFile, raw_mode: str) -> np.ndarray:
    """Load a picture with another raw mode, and return its bands, uint8 (height, width, bands)."""
    image.tile = [
        tile._replace(args=raw_mode if isinstance(tile.args, str) else (raw_mode, *(tile.args or ())[1:]))
        for tile in image.tile
    ]
    image.load()
    return np.asarray(image)


def _raw_mode(tile: ImageFile._Tile) -> str:
    args = tile.args
    return args if isinstance(args, str) else str(args[0]) if args else ""


def _ppm_maximum(image: ImageFile.ImageFile) -> int:
    """Return the declared maximum of a colour picture in the format PPM, 255 for other pictures."""
    args = image.tile[0].args if image.mode == "RGB" and image.tile else None
    return int(args[1]) if isinstance(args, tuple) and len(args) == 2 else 255


def _read_ppm(image: ImageFile.ImageFile, content: bytes) -> np.ndarray | None:
    tile = image.tile[0]
    if tile.codec_name != "ppm":  # the numbers are text
        return None
    image.load()
    shape = (image.height, image.width, 3)
    numbers = np.frombuffer(content, ">u2", int(np.prod(shape)), tile.offset)
    return numbers.reshape(shape).astype(np.uint16)


def _jpeg2000_depth(content: bytes) -> int:
    """Return the largest number of bits of a component."""
    start = content.find(_SIZ_MARKER)
    n_components = int.from_bytes(content[start + _SIZ_COUNT : start + _SIZ_COUNT + 2], "big")
    depths = content[start + _SIZ_COUNT + 2 :][: 3 * n_components : 3]
    return max(((depth & 0x7F) + 1 for depth in depths), default=0)
