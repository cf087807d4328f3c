"""Every pixel format of PNG, TIFF, PPM and JPEG 2000: the right grey levels, or a refusal with a reason.

The numbers in a picture of more than 8 bits may use only some of them: a 12-bit radiograph in 16 bits must not be nearly
black.
"""

import io
import struct
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from automl_cxr.data.decode import decode_image
from automl_cxr.data.pillow_decode import FORMATS
from automl_cxr.errors import UnreadableImageError
from tests.data.picture_files import PNG_CHANNELS, png_bytes, ppm_bytes, tiff_bytes

RAMP = np.linspace(0, 1, 12 * 16).reshape(12, 16)  # brightness of the pictures
GREY = np.rint(255 * RAMP)
PNG_FORMATS = [(0, 1), (0, 2), (0, 4), (0, 8), (0, 16), (2, 8), (2, 16), (4, 8), (4, 16), (6, 8), (6, 16)]


def decode(tmp_path: Path, content: bytes) -> np.ndarray:
    (tmp_path / "x").write_bytes(content)
    return decode_image(tmp_path / "x").astype(int)


def reason_for(tmp_path: Path, content: bytes) -> str:
    with pytest.raises(UnreadableImageError) as caught:
        decode(tmp_path, content)
    return str(caught.value)


def bands(brightness: np.ndarray, n_colours: int, maximum: int, *, alpha: int | None = None) -> np.ndarray:
    """Return equal colours from 0 to a maximum, and a constant alpha."""
    numbers = np.rint(maximum * brightness).astype(np.uint32)
    layers = [numbers] * n_colours + ([] if alpha is None else [np.full_like(numbers, alpha)])
    return np.stack(layers, axis=2)


@pytest.mark.parametrize("filter_type", [0, 1])
@pytest.mark.parametrize(("colour_type", "depth"), PNG_FORMATS)
def test_every_colour_type_and_depth_of_png(tmp_path: Path, colour_type: int, depth: int, filter_type: int) -> None:
    maximum = 2**depth - 1
    has_alpha = colour_type in (4, 6)
    numbers = bands(RAMP, PNG_CHANNELS[colour_type] - has_alpha, maximum, alpha=maximum if has_alpha else None)
    decoded = decode(tmp_path, png_bytes(numbers, colour_type, depth, filter_type=filter_type))
    np.testing.assert_allclose(decoded, np.rint(255 * np.rint(maximum * RAMP) / maximum), atol=1)


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_every_palette_of_png(tmp_path: Path, depth: int) -> None:
    maximum = 2**depth - 1
    palette = bytes(int(level) for number in range(maximum + 1) for level in [round(255 * (1 - number / maximum))] * 3)
    decoded = decode(tmp_path, png_bytes(bands(RAMP, 1, maximum), 3, depth, extra={b"PLTE": palette}))
    np.testing.assert_allclose(decoded, 255 - np.rint(255 * np.rint(maximum * RAMP) / maximum), atol=1)


@pytest.mark.parametrize("opacity", [4095, 65535])
@pytest.mark.parametrize("colour_type", [0, 2, 4, 6])
def test_12_bits_in_16_bits_of_png_are_not_dark(tmp_path: Path, colour_type: int, opacity: int) -> None:
    has_alpha = colour_type in (4, 6)
    numbers = bands(RAMP, PNG_CHANNELS[colour_type] - has_alpha, 4095, alpha=opacity if has_alpha else None)
    np.testing.assert_allclose(decode(tmp_path, png_bytes(numbers, colour_type, 16)), GREY, atol=1)


@pytest.mark.parametrize(("colour_type", "depth"), [(4, 8), (4, 16), (6, 8), (6, 16)])
def test_transparent_pixels_are_black_and_do_not_count_in_the_scale(tmp_path: Path, colour_type: int, depth: int) -> None:
    numbers = bands(RAMP, PNG_CHANNELS[colour_type] - 1, 200, alpha=2**depth - 1)
    numbers[:2] = 2**depth - 1
    numbers[:2, :, -1] = 0
    decoded = decode(tmp_path, png_bytes(numbers, colour_type, depth))
    assert not decoded[:2].any()
    shown = numbers[2:, :, 0].astype(float)
    scaled = 255 * (shown - shown.min()) / (200 - shown.min())
    np.testing.assert_allclose(decoded[2:], np.rint(scaled) if depth == 16 else shown, atol=1)
    numbers[..., -1] = 0
    assert reason_for(tmp_path, png_bytes(numbers, colour_type, depth)).startswith("every pixel is transparent")


@pytest.mark.parametrize(("colour_type", "channels"), [(0, 1), (2, 3)])
def test_a_transparent_colour_of_16_bits_is_black_and_does_not_count_in_the_scale(
    tmp_path: Path, colour_type: int, channels: int
) -> None:
    numbers = bands(RAMP, channels, 4000)
    numbers[0] = 65535
    decoded = decode(tmp_path, png_bytes(numbers, colour_type, 16, extra={b"tRNS": b"\xff\xff" * channels}))
    assert not decoded[0].any()
    assert (decoded[1, 0], decoded[-1, -1]) == (0, 255)


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("byte_order", ["<", ">"])
@pytest.mark.parametrize("photometric", [0, 1])
@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "f2", "f4", "f8"])
def test_every_number_type_of_grey_tiff_is_right_or_refused(
    tmp_path: Path, dtype: str, photometric: int, byte_order: str, compressed: bool
) -> None:
    """The numbers cover the complete range of the type, so that confusing signed with unsigned numbers changes the order."""
    kind = np.dtype(dtype)
    if kind.kind == "f":
        numbers = (RAMP * 3 - 1).astype(kind)
    else:
        limits = np.iinfo(kind)
        numbers = (float(limits.min) + RAMP * (float(limits.max) - float(limits.min)) * (1 - 1e-9)).astype(kind)
    content = tiff_bytes(numbers[..., None], photometric=photometric, byte_order=byte_order, compressed=compressed)
    try:
        decoded = decode(tmp_path, content)
    except UnreadableImageError as error:
        assert "of a kind that Pillow does not decode; save it as a grey picture of 8 or 16 bits" in str(error)  # noqa: PT017
        assert (dtype, photometric) not in {("u1", 0), ("u1", 1), ("i1", 1), ("u2", 1), ("i2", 1), ("i4", 1), ("f4", 1)}
    else:
        np.testing.assert_allclose(decoded, GREY if photometric else 255 - GREY, atol=1)


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("planar", [False, True])
@pytest.mark.parametrize("byte_order", ["<", ">"])
@pytest.mark.parametrize(
    ("photometric", "n_colours", "alpha"),
    [(*kind, alpha) for kind, alpha in product([(1, 1), (2, 3), (5, 4)], [None, 0, 1, 2]) if (kind, alpha) != ((1, 1), None)],
)
@pytest.mark.parametrize(("dtype", "maximum"), [("u1", 255), ("u2", 65535), ("u2", 4095)])
def test_every_colour_type_of_tiff_is_right_or_refused(
    tmp_path: Path,
    dtype: str,
    maximum: int,
    photometric: int,
    n_colours: int,
    alpha: int | None,
    byte_order: str,
    planar: bool,
    compressed: bool,
) -> None:
    ink = np.zeros((*RAMP.shape, 4), np.uint32)
    ink[..., 3] = maximum - np.rint(maximum * RAMP)
    opacity = [] if alpha is None else [np.full((*RAMP.shape, 1), maximum, np.uint32)]
    colours = ink if photometric == 5 else bands(RAMP, n_colours, maximum)
    numbers = np.concatenate([colours, *opacity], axis=2).astype(dtype)
    content = tiff_bytes(
        numbers, photometric=photometric, byte_order=byte_order, alpha=alpha, planar=planar, compressed=compressed
    )
    try:
        decoded = decode(tmp_path, content)
    except UnreadableImageError as error:
        assert "save it as a grey picture of 8 or 16 bits" in str(error) or "damaged" in str(error)  # noqa: PT017
        assert not (photometric == 2 and alpha in (None, 0, 2) and not planar)
    else:
        np.testing.assert_allclose(decoded, GREY, atol=2)


@pytest.mark.parametrize("as_text", [False, True])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("declared", "maximum"), [(100, 100), (255, 255), (4095, 4095), (65535, 65535), (65535, 4095)])
def test_every_depth_of_ppm_is_right_or_refused(
    tmp_path: Path, declared: int, maximum: int, channels: int, as_text: bool
) -> None:
    content = ppm_bytes(bands(RAMP, channels, maximum), declared, as_text=as_text)
    if channels == 3 and as_text and declared > 255:
        assert "colours of more than 8 bits" in reason_for(tmp_path, content)
    else:
        np.testing.assert_allclose(decode(tmp_path, content), GREY, atol=2)


@pytest.mark.parametrize("masks", [(0xF800, 0x7E0, 0x1F), (0x7C00, 0x3E0, 0x1F)], ids=["565", "555"])
def test_bmp_of_16_bits_for_a_pixel(tmp_path: Path, masks: tuple[int, ...]) -> None:
    levels = np.zeros(RAMP.shape, np.uint32)
    for mask in masks:
        lowest = mask & -mask
        levels |= np.rint(RAMP * (mask // lowest)).astype(np.uint32) * lowest
    pixels = levels[::-1].astype("<u2").tobytes()
    header = struct.pack("<IiiHHIIiiII3I", 40, 16, 12, 1, 16, 3, len(pixels), 0, 0, 0, 0, *masks)
    content = b"BM" + struct.pack("<IHHI", 14 + len(header) + len(pixels), 0, 0, 14 + len(header)) + header + pixels
    np.testing.assert_allclose(decode(tmp_path, content), GREY, atol=9)


def draw(mode: str) -> Image.Image:
    """Draw the ramp in a mode of Pillow, with opaque pixels."""
    grey = Image.fromarray(GREY.astype(np.uint8))
    if mode == "I;16":
        return Image.fromarray(np.rint(4095 * RAMP).astype(np.uint16))
    if mode == "LAB":
        return Image.merge("LAB", (grey, Image.new("L", grey.size, 128), Image.new("L", grey.size, 128)))
    between = {"La": "LA", "RGBa": "RGBA", "PA": "P", "HSV": "RGB", "RGBX": "RGB"}.get(mode, "L")
    return grey.convert(between).convert(mode)


def encode(mode: str, image_format: str) -> bytes:
    """Encode the ramp in a mode of Pillow; b"" if Pillow cannot write it, or changes the pixels."""
    if image_format in ("GIF", "WEBP") and mode in ("I;16", "I", "F", "LAB"):
        return b""
    buffer = io.BytesIO()
    try:
        draw(mode).save(buffer, image_format, **({"lossless": True} if image_format == "WEBP" else {}))
    except (OSError, ValueError, KeyError):
        return b""
    return buffer.getvalue()


MODES = ("1", "L", "LA", "I;16", "I", "F", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "La", "RGBa", "RGBX")
WRITTEN = [(mode, name) for mode in MODES for name in FORMATS if encode(mode, name)]


@pytest.mark.parametrize(("mode", "image_format"), WRITTEN)
def test_every_mode_of_pillow_is_right_or_refused(tmp_path: Path, mode: str, image_format: str) -> None:
    (tmp_path / "x").write_bytes(encode(mode, image_format))
    try:
        decoded = decode_image(tmp_path / "x").astype(int)
    except UnreadableImageError as error:
        assert mode == "LAB"
        assert "the colours LAB, which are not supported" in str(error)  # noqa: PT017
        return
    if mode == "1":
        np.testing.assert_array_equal(decoded > 127, np.asarray(draw("1")))
    else:
        np.testing.assert_allclose(decoded, GREY, atol=10 if image_format in ("JPEG", "GIF") else 3)


def test_deep_colours_of_jpeg_2000_are_refused(tmp_path: Path) -> None:
    grey = Image.fromarray(GREY.astype(np.uint8)).convert("RGB")
    grey.save(tmp_path / "x", "JPEG2000")
    content = bytearray((tmp_path / "x").read_bytes())
    at = content.index(b"\xff\x4f\xff\x51") + 42
    for component in range(3):
        content[at + 3 * component] = 11  # the declared depth: 12 bits
    assert "JPEG2000 colours of more than 8 bits" in reason_for(tmp_path, bytes(content))


def test_pictures_that_pillow_cannot_open_are_named_by_their_format(tmp_path: Path) -> None:
    Image.fromarray(GREY.astype(np.uint8)).save(tmp_path / "x", "JPEG")
    content = bytearray((tmp_path / "x").read_bytes())
    content[content.index(b"\xff\xc0") + 4] = 12  # the precision: 12 bits
    assert reason_for(tmp_path, bytes(content)).startswith("a JPEG file with a damaged header, or of a kind that Pillow")
