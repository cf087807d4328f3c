import os

import numpy as np
import pytest
from PIL import Image

from automl_cxr.data.cache import decode_dataset
from automl_cxr.data.image_space import IMAGE_LIMIT_VARIABLE, image_limit, list_stores
from automl_cxr.errors import DataError, UsageError


@pytest.fixture
def images(tmp_path):
    """Write ten pictures. Return a function that decodes some of them and returns the decoded images."""
    rng = np.random.default_rng(0)
    (tmp_path / "data").mkdir()
    for number in range(10):
        Image.fromarray(rng.integers(0, 256, (32, 32), np.uint8)).save(tmp_path / "data" / f"{number}.png")

    def decode(size, n=10):
        return decode_dataset(tmp_path / "data", [f"{number}.png" for number in range(n)], size, folder=tmp_path / "cache")

    return decode


def sizes_in(tmp_path):
    return {usage.store.image_size for usage in list_stores(tmp_path / "cache" / "decoded")}


def test_the_least_recently_used_size_is_removed(tmp_path, images, monkeypatch):
    for last_used, size in enumerate((64, 32, 16)):
        os.utime(images(size).path.parent.parent, (last_used, last_used))
    os.utime(images(64).path.parent.parent, (9, 9))
    monkeypatch.setenv(IMAGE_LIMIT_VARIABLE, "60KB")  # 54 KB and the indexes are used, and 6 KB are needed
    images(24)
    assert sizes_in(tmp_path) == {64, 16, 24}


def test_a_size_that_is_in_use_is_not_removed(tmp_path, images, monkeypatch):
    opened = images(64).open()
    monkeypatch.setenv(IMAGE_LIMIT_VARIABLE, "50KB")
    with pytest.raises(DataError, match=r"limit of 0\.0 GB.*`automl-cxr cache clear`, set AUTOML_CXR_IMAGE_LIMIT"):
        images(32)
    assert sizes_in(tmp_path) == {64}
    del opened
    assert len(images(32).ids) == 10
    assert sizes_in(tmp_path) == {32}


def test_images_that_exceed_the_limit_remove_nothing(tmp_path, images, monkeypatch):
    images(16)
    monkeypatch.setenv(IMAGE_LIMIT_VARIABLE, "20KB")
    with pytest.raises(DataError, match="choose a smaller image size"):
        images(128)
    assert sizes_in(tmp_path) == {16}


def test_known_images_need_no_space(images, monkeypatch):
    first = images(64)
    monkeypatch.setenv(IMAGE_LIMIT_VARIABLE, "1KB")
    assert images(64, n=4).ids == first.ids[:4]


def test_the_limit_is_a_share_of_the_disk_or_the_value_of_the_variable(tmp_path, monkeypatch):
    assert image_limit(tmp_path / "missing") > 0
    monkeypatch.setenv(IMAGE_LIMIT_VARIABLE, "2GB")
    assert image_limit(tmp_path) == 2 * 10**9
    monkeypatch.setenv(IMAGE_LIMIT_VARIABLE, "much")
    with pytest.raises(UsageError, match="AUTOML_CXR_IMAGE_LIMIT"):
        image_limit(tmp_path)
