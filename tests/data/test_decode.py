"""Decoding of all image formats, and refusal of files that are not images."""

import io
import os
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from automl_cxr.data.decode import FITS, decode_image, fit_square
from automl_cxr.data.pillow_decode import FORMATS
from automl_cxr.errors import UnknownNameError, UnreadableImageError

RAMP = np.add.outer(np.arange(12) * 4, np.arange(16) * 10).astype(np.uint8)  # uint8 (12, 16), 0 to 194


def save(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)
    return path


def encode(image: Image.Image, image_format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def write_png_header(path: Path, width: int, height: int) -> Path:
    """Write a PNG with a large size in its header and almost no pixels."""
    parts = {b"IHDR": struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0), b"IDAT": zlib.compress(b"\0")}
    chunks = [struct.pack(">I", len(body)) + name + body for name, body in parts.items()]
    checksums = [struct.pack(">I", zlib.crc32(chunk[4:])) for chunk in chunks]
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + b"".join(chunk + checksum for chunk, checksum in zip(chunks, checksums, strict=True))
    )
    return path


def reason_for(path: Path, **options: int) -> str:
    with pytest.raises(UnreadableImageError) as caught:
        decode_image(path, **options)
    assert "\n" not in str(caught.value)
    assert str(path) not in str(caught.value)
    return str(caught.value)


# Decoded files


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "gif", "pgm"])
def test_grey_files_are_decoded_exactly(tmp_path: Path, suffix: str) -> None:
    decoded = decode_image(save(tmp_path / f"x.{suffix}", Image.fromarray(RAMP)))
    assert decoded.dtype == np.uint8
    np.testing.assert_array_equal(decoded, RAMP)


@pytest.mark.parametrize(("suffix", "options"), [("jpg", {"quality": 95}), ("webp", {"lossless": True}), ("jp2", {})])
def test_compressed_grey_files_are_decoded_approximately(tmp_path: Path, suffix: str, options: dict[str, object]) -> None:
    decoded = decode_image(save(tmp_path / f"x.{suffix}", Image.fromarray(RAMP), **options))
    assert np.abs(decoded.astype(int) - RAMP).max() <= 4


def test_the_suffix_does_not_affect_decoding(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(encode(Image.fromarray(RAMP), "BMP"))
    np.testing.assert_array_equal(decode_image(tmp_path / "x.png"), RAMP)


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize(("low", "high"), [(0, 65535), (100, 4000), (3, 1000)])
def test_grey_above_8_bits_is_scaled_from_its_used_range(tmp_path: Path, suffix: str, low: int, high: int) -> None:
    deep = np.linspace(low, high, 12 * 16).reshape(12, 16).astype(np.uint16)
    decoded = decode_image(save(tmp_path / f"x.{suffix}", Image.fromarray(deep)))
    expected = np.rint((deep - deep.min()) / float(deep.max() - deep.min()) * 255)
    np.testing.assert_allclose(decoded, expected, atol=1)
    assert (decoded.min(), decoded.max()) == (0, 255)


def test_big_endian_and_32_bit_grey(tmp_path: Path) -> None:
    deep = RAMP.astype(np.uint16) * 20
    header = f"P5 {deep.shape[1]} {deep.shape[0]} 4095\n".encode()
    (tmp_path / "x.pgm").write_bytes(header + deep.astype(">u2").tobytes())
    save(tmp_path / "x.tif", Image.fromarray(deep.astype(np.int32) * 1000 - 5))
    expected = np.rint(RAMP / 194 * 255)
    for name in ("x.pgm", "x.tif"):
        np.testing.assert_allclose(decode_image(tmp_path / name), expected, atol=1)


def test_white_is_zero_is_inverted_at_any_depth(tmp_path: Path) -> None:
    deep = RAMP.astype(np.uint16) * 20
    # Pillow inverts 8-bit pixels when it writes this kind of file, but not 16-bit pixels.
    save(tmp_path / "8.tif", Image.fromarray(RAMP), tiffinfo={262: 0})
    save(tmp_path / "16.tif", Image.fromarray(deep.max() - deep), tiffinfo={262: 0})
    np.testing.assert_array_equal(decode_image(tmp_path / "8.tif"), RAMP)
    np.testing.assert_allclose(decode_image(tmp_path / "16.tif"), np.rint(RAMP / 194 * 255), atol=1)


def test_non_finite_values_of_a_float_tiff_are_ignored(tmp_path: Path) -> None:
    values = RAMP.astype(np.float32) / 194 - 3
    values[0, 1], values[0, 2], values[0, 3] = np.nan, np.inf, -np.inf
    decoded = decode_image(save(tmp_path / "x.tif", Image.fromarray(values)))
    np.testing.assert_array_equal(decoded[0, 1:4], [0, 255, 0])
    np.testing.assert_allclose(decoded[1:], np.rint(RAMP[1:] / 194 * 255), atol=1)
    save(tmp_path / "nan.tif", Image.fromarray(np.full((12, 16), np.nan, np.float32)))
    assert reason_for(tmp_path / "nan.tif") == "no finite pixel value"


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_uniform_picture_is_refused(tmp_path: Path, dtype: type) -> None:
    path = save(tmp_path / "x.png", Image.fromarray(np.full((12, 16), 70, dtype)))
    assert reason_for(path).startswith("uniform: every pixel has the grey level")


def test_colour_palette_and_1_bit_pictures_are_converted_to_grey(tmp_path: Path) -> None:
    grey = Image.fromarray(RAMP)
    for name, image in (("rgb", grey.convert("RGB")), ("palette", grey.convert("RGB").quantize(256))):
        np.testing.assert_allclose(decode_image(save(tmp_path / f"{name}.png", image)), RAMP, atol=3)
    bits = decode_image(save(tmp_path / "bits.png", Image.fromarray(RAMP > 90)))
    np.testing.assert_array_equal(bits, np.where(RAMP > 90, 255, 0))
    red = Image.new("RGB", (16, 12), (255, 0, 0))
    red.putpixel((0, 0), (0, 0, 0))
    assert set(decode_image(save(tmp_path / "red.png", red)).flat) == {0, 76}  # ITU-R 601 luma


def test_transparent_pixels_are_black(tmp_path: Path) -> None:
    alpha = np.full(RAMP.shape, 255, np.uint8)
    alpha[:6] = 0
    expected = np.where(alpha > 0, RAMP, 0)
    layers = (Image.fromarray(RAMP), Image.fromarray(alpha))
    save(tmp_path / "la.png", Image.merge("LA", layers))
    save(tmp_path / "rgba.png", Image.merge("RGBA", (*[layers[0]] * 3, layers[1])))
    for name in ("la.png", "rgba.png"):
        np.testing.assert_allclose(decode_image(tmp_path / name), expected, atol=1)
    palette = Image.new("P", (16, 12), 1)
    palette.putpalette([0, 0, 0, 200, 200, 200, 100, 100, 100])
    palette.putpixel((0, 0), 2)
    save(tmp_path / "p.png", palette, transparency=bytes([255, 0, 255]))
    decoded = decode_image(tmp_path / "p.png")
    assert (decoded[0, 0], decoded.sum()) == (100, 100)


def test_cmyk_is_not_inverted(tmp_path: Path) -> None:
    cmyk = Image.fromarray(RAMP).convert("RGB").convert("CMYK")
    decoded = decode_image(save(tmp_path / "x.jpg", cmyk, quality=95))
    np.testing.assert_allclose(decoded.astype(int), RAMP, atol=8)


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
def test_exif_orientation_is_applied(tmp_path: Path, suffix: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path = save(tmp_path / f"x.{suffix}", Image.fromarray(RAMP), exif=exif)
    np.testing.assert_allclose(decode_image(path).astype(int), np.rot90(RAMP, -1), atol=8)


def test_an_image_with_broken_exif_is_decoded(tmp_path: Path) -> None:
    path = save(tmp_path / "x.jpg", Image.fromarray(RAMP), exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12")
    assert decode_image(path).shape == RAMP.shape


@pytest.mark.parametrize("suffix", ["gif", "tif", "png"])
def test_the_first_of_several_frames_is_used(tmp_path: Path, suffix: str) -> None:
    frames = [Image.fromarray(RAMP), Image.fromarray(255 - RAMP)]
    path = save(tmp_path / f"x.{suffix}", frames[0], save_all=True, append_images=frames[1:])
    np.testing.assert_allclose(decode_image(path).astype(int), RAMP, atol=2)


# Refused files


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "BMP", "TIFF", "GIF", "PPM"])
def test_half_a_file_is_truncated(tmp_path: Path, image_format: str) -> None:
    content = encode(Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50), np.uint8)), image_format)
    (tmp_path / "x.png").write_bytes(content[: len(content) // 2])
    assert reason_for(tmp_path / "x.png").startswith("truncated (")


@pytest.mark.parametrize("image_format", ["WEBP", "JPEG2000"])
def test_half_a_wavelet_file_is_damaged(tmp_path: Path, image_format: str) -> None:
    content = encode(Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50), np.uint8)), image_format)
    (tmp_path / "x.png").write_bytes(content[: len(content) // 2])
    assert reason_for(tmp_path / "x.png").startswith("damaged (")


def test_files_that_are_not_images_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.png").write_text("patient,label\n")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "dead.png").symlink_to("nowhere")
    (tmp_path / "circle.png").symlink_to("circle.png")
    os.mkfifo(tmp_path / "pipe.png")
    assert {path.name: reason_for(path) for path in sorted(tmp_path.iterdir())} == {
        "circle.png": "circular symbolic link",
        "dead.png": "missing",
        "empty.png": "empty file (0 bytes)",
        "folder.png": "a folder, not a file",
        "pipe.png": "not a regular file",
        "text.png": f"not an image in a known format ({', '.join(FORMATS)}, DICOM)",
    }


def test_a_file_that_would_start_a_program_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(encode(Image.fromarray(RAMP).convert("RGB"), "EPS"))
    assert reason_for(tmp_path / "x.png").startswith("not an image")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_file_without_read_permission_is_reported(tmp_path: Path) -> None:
    save(tmp_path / "x.png", Image.fromarray(RAMP)).chmod(0)
    assert reason_for(tmp_path / "x.png") == "permission denied"


@pytest.mark.parametrize("size", [(1, 1), (7, 100), (100, 7)])
def test_tiny_images_are_refused(tmp_path: Path, size: tuple[int, int]) -> None:
    path = save(tmp_path / "x.png", Image.new("L", size))
    assert reason_for(path) == f"too small ({size[0]} x {size[1]} pixels; at least 8 on each side)"


def test_size_is_checked_before_pixels(tmp_path: Path) -> None:
    path = write_png_header(tmp_path / "x.png", 12_000, 9_000)
    assert reason_for(path) == "too large (12000 x 9000 pixels; at most 100,000,000 in all)"
    assert reason_for(path, max_pixels=200_000_000).startswith("truncated")
    assert reason_for(write_png_header(tmp_path / "y.png", 50_000, 50_000)).startswith("too large")


def test_pillow_limits_and_warning_filters_are_unchanged(tmp_path: Path) -> None:
    limit, filters = Image.MAX_IMAGE_PIXELS, list(warnings.filters)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        reason_for(write_png_header(tmp_path / "x.png", 9_900, 9_900))  # above the size at which Pillow warns
    assert limit == Image.MAX_IMAGE_PIXELS
    assert filters == list(warnings.filters)


def test_damaged_bytes_raise_no_other_exception(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    n_refused = 0
    for image_format in ("PNG", "JPEG", "BMP", "WEBP", "GIF", "PPM"):
        content = np.frombuffer(encode(Image.fromarray(RAMP), image_format), np.uint8)
        for _ in range(60):
            damaged = content.copy()
            damaged[rng.integers(0, len(content), 3)] = rng.integers(0, 256, 3)
            (tmp_path / "x").write_bytes(damaged.tobytes())
            try:
                decoded = decode_image(tmp_path / "x")
            except UnreadableImageError:
                n_refused += 1
            else:
                assert decoded.dtype == np.uint8
                assert decoded.ndim == 2
    assert n_refused > 60


# Fits to a square


def test_stretch_averages_over_source_pixels() -> None:
    stripes = np.tile(np.array([0, 255], np.uint8), (64, 64))  # uint8 (64, 128), thinner than a target pixel
    square = fit_square(stripes, 16)
    assert square.shape == (16, 16)
    assert square.dtype == np.uint8
    assert np.abs(square.astype(int) - 127).max() <= 6


def test_a_square_of_the_right_size_is_unchanged() -> None:
    image = np.random.default_rng(0).integers(0, 256, (16, 16), np.uint8)
    np.testing.assert_array_equal(fit_square(image, 16), image)
    np.testing.assert_allclose(fit_square(RAMP, 32)[0, [0, -1]], [0, 150], atol=1)


TALL = np.random.default_rng(1).integers(1, 256, (16, 8), np.uint8)


@pytest.mark.parametrize("transform", [lambda image: image, np.transpose])
def test_pad_keeps_the_shape_between_even_black_bars(transform: Callable[[np.ndarray], np.ndarray]) -> None:
    expected = np.zeros((16, 16), np.uint8)
    expected[:, 4:12] = TALL
    np.testing.assert_array_equal(fit_square(transform(TALL), 16, "pad"), transform(expected))


@pytest.mark.parametrize("transform", [lambda image: image, np.transpose])
def test_crop_keeps_the_centre(transform: Callable[[np.ndarray], np.ndarray]) -> None:
    np.testing.assert_array_equal(fit_square(transform(TALL), 8, "crop"), transform(TALL[4:12]))


def test_fits_are_symmetric_for_smaller_and_larger_sizes() -> None:
    white = np.full((40, 100), 255, np.uint8)
    for size in (20, 200):
        padded = fit_square(white, size, "pad")
        assert padded.shape == (size, size)
        rows = np.flatnonzero(padded.any(axis=1))
        assert (rows[0], rows[-1]) == (size * 3 // 10, size * 7 // 10 - 1)
        assert (fit_square(white, size, "crop") == 255).all()
    thin = np.full((8, 4000), 255, np.uint8)
    assert fit_square(thin, 32, "pad").any(axis=0).all()  # thinner than a pixel, but visible
    with_black_ends = np.hstack([np.zeros((10, 5), np.uint8), np.full((10, 10), 200, np.uint8), np.zeros((10, 5), np.uint8)])
    # The outermost pixels are averaged with their black neighbours.
    assert (fit_square(with_black_ends, 30, "crop")[:, 1:-1] == 200).all()


def test_square_pictures_are_equal_with_every_fit() -> None:
    square = np.random.default_rng(0).integers(0, 256, (40, 40), np.uint8)
    for fit in FITS:
        np.testing.assert_array_equal(fit_square(square, 16, fit), fit_square(square, 16))


def test_the_error_for_an_unknown_fit_suggests_a_name() -> None:
    with pytest.raises(UnknownNameError, match=r"Unknown fit 'padd'\. Did you mean 'pad'"):
        fit_square(RAMP, 16, "padd")
