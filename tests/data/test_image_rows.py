import numpy as np
import pytest

from automl_cxr.data.image_rows import ImageRows, as_one_file, open_images, save_selection
from automl_cxr.errors import DataError

PIXELS = np.random.default_rng(0).integers(0, 256, (12, 4, 4), np.uint8)
ROWS = np.array([7, 2, 9, 2, 11])
IMAGES = ImageRows(PIXELS, ROWS, "digest")


@pytest.mark.parametrize(
    "key",
    [
        *(2, -1, slice(None), slice(1, 4), slice(None, None, -1), [3, 0, 0], np.array([4, 1]), np.array([], int)),
        np.array([True, False, False, True, True]),
        *((slice(1, 3), 2), (1, slice(None), 0), (slice(None), slice(None), slice(None, None, -1)), (..., np.newaxis)),
    ],
)
def test_indexing_is_that_of_an_array_of_the_rows(key):
    expected = PIXELS[ROWS][key]
    found = IMAGES[key]
    assert found.shape == expected.shape
    np.testing.assert_array_equal(np.asarray(found), expected)


def test_attributes_are_those_of_an_array_of_the_rows():
    expected = PIXELS[ROWS]
    for name in ("shape", "ndim", "dtype", "size", "nbytes"):
        assert getattr(IMAGES, name) == getattr(expected, name)
    np.testing.assert_array_equal(list(IMAGES), list(expected))


def test_views_of_all_rows_copy_no_pixels_and_have_another_digest():
    mirrored = IMAGES[:, :, ::-1]
    assert isinstance(mirrored, ImageRows)
    assert np.shares_memory(mirrored.array, PIXELS)
    assert mirrored.digest != IMAGES.digest
    assert mirrored.digest == IMAGES[:, :, ::-1].digest


def test_one_file_has_the_images_of_a_selection(tmp_path):
    (tmp_path / "pixels.bin").write_bytes(PIXELS.tobytes())
    path = save_selection(tmp_path, ROWS, np.zeros((5, 16), np.uint8), 4)
    copy = as_one_file(path)
    np.testing.assert_array_equal(np.load(copy), PIXELS[ROWS])
    np.testing.assert_array_equal(open_images(copy), open_images(path)[:])
    assert as_one_file(copy) == copy


def test_selections_of_other_rows_or_pixels_have_other_names(tmp_path):
    hashes = np.zeros((5, 16), np.uint8)
    paths = [save_selection(tmp_path, ROWS, hashes, 4), save_selection(tmp_path, ROWS[::-1].copy(), hashes, 4)]
    paths.append(save_selection(tmp_path, ROWS, hashes + np.uint8(1), 4))
    assert len(set(paths)) == 3


def test_removed_images_are_reported(tmp_path):
    path = save_selection(tmp_path, ROWS, np.zeros((5, 16), np.uint8), 4)
    with pytest.raises(DataError, match=r"pixels\.bin' was removed"):
        open_images(path)
