"""Decoding of rows of an array, and refusal of files that are not arrays of images."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from automl_cxr.data import arrays
from automl_cxr.data.arrays import name_rows, read_row, split_row
from automl_cxr.data.decode import decode_image
from automl_cxr.errors import UnreadableImageError

RAMP = np.add.outer(np.arange(12) * 4, np.arange(16) * 10).astype(np.uint8)  # uint8 (12, 16), 0 to 194


def save(path: Path, *images: np.ndarray) -> Path:
    np.save(path, np.stack(images))
    return path


def decode_row(path: Path, row: int = 0) -> np.ndarray:
    return decode_image(Path(f"{path}#{row:05d}"))


def reason_for(path: Path | str, **options: int) -> str:
    with pytest.raises(UnreadableImageError) as caught:
        decode_image(Path(path), **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_rows_are_named_so_that_they_sort() -> None:
    assert name_rows("x.npy", 11) == [f"x.npy#{row:02d}" for row in range(11)]
    assert name_rows("x.npy", 1) == ["x.npy#0"]
    assert split_row("a b/x.NPY#00012") == ("a b/x.NPY", 12)
    for path in ("x.npy", "x.npy#", "x.npy#1/y.png", "x.png#1", "#1"):
        assert split_row(path) == (path, None)


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        (RAMP, RAMP),
        (RAMP[..., None], RAMP),
        (np.stack([RAMP] * 3, axis=-1), RAMP),
        (RAMP // 100, RAMP // 100),  # integers 0 and 1 are nearly black; they are not scaled to 0..255
        (RAMP / 255, RAMP),
        ((RAMP / 255).astype(np.float32)[..., None], RAMP),
        (RAMP + 0.25, RAMP),
        (RAMP.astype(">i4"), RAMP),
        (RAMP > 90, np.where(RAMP > 90, 255, 0)),
        (RAMP.astype(np.uint16) * 20, np.rint(RAMP / 194 * 255)),
        (RAMP / 97 - 1, np.rint(RAMP / 194 * 255)),  # -1..1
        (np.where(RAMP == 0, np.nan, RAMP / 255), RAMP),
    ],
)
def test_numbers_of_all_dtypes_are_converted_to_grey(tmp_path: Path, numbers: np.ndarray, expected: np.ndarray) -> None:
    other = np.full_like(numbers, 0 if np.isnan(numbers.astype(float)).any() else numbers.min())
    other[-1, -1] = numbers[-1, -1]
    for order in ("C", "F"):
        np.save(tmp_path / "x.npy", np.asarray(np.stack([other, numbers]), order=order))
        decoded = decode_row(tmp_path / "x.npy", 1)
        assert (decoded.dtype, decoded.shape) == (np.uint8, (12, 16))
        np.testing.assert_allclose(decoded, expected, atol=1 if numbers.dtype.kind != "u" else 0)
        np.testing.assert_allclose(decode_row(tmp_path / "x.npy", 0)[:-1], 0, atol=1)


def test_all_images_of_an_array_share_one_grey_scale(tmp_path: Path) -> None:
    dark, bright = RAMP / 510, RAMP / 194 * 1.002  # interpolation may exceed 1.0
    path = save(tmp_path / "x.npy", dark - 0.0005, bright)
    np.testing.assert_allclose(decode_row(path, 0), np.rint(RAMP / 2), atol=1)
    np.testing.assert_allclose(decode_row(path, 1), np.minimum(255, np.rint(255 * bright)), atol=1)
    deep = save(tmp_path / "y.npy", RAMP.astype(np.uint16), RAMP.astype(np.uint16) * 21)
    np.testing.assert_allclose(decode_row(deep, 0), np.rint(RAMP.astype(float) * 255 / (194 * 21)), atol=1)
    single = save(tmp_path / "z.npy", RAMP.astype(np.uint16))
    assert read_row(str(single), 0) != read_row(str(deep), 0)  # the key of an image depends on its grey scale


def test_floats_far_above_one_are_not_black(tmp_path: Path) -> None:
    path = save(tmp_path / "x.npy", RAMP / 194 * 1.2, RAMP / 194 * 0.6)  # cubic interpolation exceeds 1 at sharp edges
    np.testing.assert_allclose(decode_row(path, 0), np.rint(RAMP / 194 * 255), atol=1)
    np.testing.assert_allclose(decode_row(path, 1), np.rint(RAMP / 388 * 255), atol=1)


def test_an_image_without_finite_numbers_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "x.npy", RAMP / 255, np.full_like(RAMP, np.nan, float))
    assert reason_for(f"{tmp_path}/x.npy#1") == "no finite pixel value"
    np.testing.assert_allclose(decode_row(tmp_path / "x.npy", 0), RAMP, atol=1)


def test_threads_read_the_range_of_an_array_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, calls, finite_range = save(tmp_path / "x.npy", *[RAMP / 255] * 4), [], arrays.finite_range

    def count_calls(values: np.ndarray) -> tuple[float, float]:
        calls.append(values.shape)
        time.sleep(0.05)  # long enough for other threads to call it
        return finite_range(values)

    monkeypatch.setattr(arrays, "finite_range", count_calls)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda row: read_row(str(path), row), range(4)))
    assert calls == [(4, 12, 16)]


def test_an_image_too_large_is_refused_before_it_is_read(tmp_path: Path) -> None:
    with (tmp_path / "x.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": (1, 60_000, 60_000)})
        file.truncate(file.tell() + 60_000 * 60_000)  # a sparse file
    assert reason_for(f"{tmp_path}/x.npy#0").startswith("too large (60000 x 60000 pixels")
    with (tmp_path / "y.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f8", "fortran_order": False, "shape": (1, 9_000, 9_000, 3)})
        file.truncate(file.tell() + 9_000 * 9_000 * 24)
    assert reason_for(f"{tmp_path}/y.npy#0") == "too large (1,944,000,000 bytes; at most 1,073,741,824)"


def test_a_rewritten_array_is_read_again(tmp_path: Path) -> None:
    path = save(tmp_path / "x.npy", RAMP)
    np.testing.assert_array_equal(decode_row(path), RAMP)
    (tmp_path / "x.npy").unlink()
    save(path, RAMP[::-1])
    np.testing.assert_array_equal(decode_row(path), RAMP[::-1])


def test_colours_are_converted_to_grey(tmp_path: Path) -> None:
    red = np.zeros((12, 16, 3), np.uint8)
    red[1:, :, 0] = 255
    assert set(decode_row(save(tmp_path / "x.npy", red)).flat) == {0, 76}  # ITU-R 601 luma


def test_an_array_file_of_a_single_image_is_an_image(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", RAMP)
    np.testing.assert_array_equal(decode_image(tmp_path / "x.npy"), RAMP)
    path = save(tmp_path / "y.npy", RAMP[..., None])
    assert reason_for(path) == "an array of shape (1, 12, 16, 1), not one image; name a row of it, such as images.npy#0"


def test_files_without_images_are_refused_with_a_reason(tmp_path: Path) -> None:
    intact = save(tmp_path / "x.npy", RAMP, RAMP).read_bytes()
    assert reason_for(f"{tmp_path}/x.npy#2") == "there is no image 2 in an array of 2 images, counted from 0"
    assert reason_for(f"{tmp_path}/none.npy#0") == "missing"
    (tmp_path / "half.npy").write_bytes(intact[:-100])
    assert reason_for(f"{tmp_path}/half.npy#0").startswith("truncated (")
    (tmp_path / "head.npy").write_bytes(intact[:40])
    assert reason_for(f"{tmp_path}/head.npy#0").startswith("damaged (")
    for name, content in (("text", b"0,1\n"), ("empty", b""), ("zip", b"PK\3\4")):
        (tmp_path / f"{name}.npy").write_bytes(content)
        assert reason_for(f"{tmp_path}/{name}.npy#0") == "not a NumPy array file"
    for name, numbers in (("flat", np.zeros((3, 512))), ("none", np.zeros((0, 8, 8))), ("alpha", np.zeros((2, 8, 8, 4)))):
        np.save(tmp_path / f"{name}.npy", numbers)
        assert reason_for(f"{tmp_path}/{name}.npy#0").startswith(f"an array of shape {numbers.shape}, not (n, height, width)")
    np.save(tmp_path / "words.npy", np.full((2, 8, 8), "x"))
    assert reason_for(f"{tmp_path}/words.npy#0") == "an array of <U1, not of numbers"
    save(tmp_path / "nan.npy", np.full((12, 16), np.nan))
    assert reason_for(f"{tmp_path}/nan.npy#0") == "no finite pixel value"
    save(tmp_path / "tiny.npy", RAMP[:4])
    assert reason_for(f"{tmp_path}/tiny.npy#0").startswith("too small (16 x 4 pixels")
    assert reason_for(f"{tmp_path}/x.npy#0", max_pixels=100).startswith("too large (16 x 12 pixels")


class _Malicious:
    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (Path("exploded"),)


def test_no_code_in_a_file_is_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    objects = np.empty((2, 8, 8), object)
    objects[:] = _Malicious()
    np.save(tmp_path / "x.npy", objects, allow_pickle=True)
    assert reason_for("x.npy#0") == "an array of Python objects, not of numbers"
    assert reason_for("x.npy") == "an array of Python objects, not of numbers"
    assert not (tmp_path / "exploded").exists()


def test_a_header_with_a_huge_shape_allocates_nothing(tmp_path: Path) -> None:
    with (tmp_path / "x.npy").open("wb") as file:
        header = {"descr": "<f8", "fortran_order": False, "shape": (9_000, 9_000)}
        np.lib.format.write_array_header_1_0(file, header)
        file.write(b"\0" * 64)
    assert reason_for(tmp_path / "x.npy").startswith("truncated (")
    assert reason_for(tmp_path / "x.npy", max_pixels=10**6).startswith("too large (9000 x 9000 pixels")
