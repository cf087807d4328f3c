"""Damaged entries of the caches: they are computed again, so that the values are always right."""

import json
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from automl_cxr.data.cache import decode_dataset
from automl_cxr.data.cache_listing import list_cache_entries
from automl_cxr.data.feature_cache import FeatureCache, Features
from automl_cxr.data.npy_io import is_complete_array, map_array
from automl_cxr.data.phantoms import draw_phantoms
from automl_cxr.study.image_hashes import ImageHashes
from tests.fuzzing.damage import damaged_bytes, damaged_json, result_or_error

FEATURES = Features({"network": "a"}, (6, 4), "float32", "features")
VALUES = np.arange(24, dtype=np.float32).reshape(6, 4)


def damage(data, file):
    """Damage a file as text or as JSON."""
    content = file.read_bytes()
    file.unlink()  # a cached file may be mapped into memory
    if file.suffix == ".json" and data.draw(st.booleans()):
        file.write_text(json.dumps(data.draw(damaged_json(json.loads(content)))))
    else:
        file.write_bytes(data.draw(damaged_bytes(content)))


@settings(max_examples=settings.default.max_examples // 3)
@given(st.sampled_from(["values.npy", "entry.json"]), st.data())
def test_damaged_features_are_computed_again(tmp_path, name, data):
    shutil.rmtree(tmp_path)
    cache = FeatureCache(tmp_path, limit=2**20)
    cache.open([FEATURES], lambda _missing: iter([(VALUES,)]))
    damage(data, tmp_path / "features" / "entries" / FEATURES.key / name)
    list_cache_entries(tmp_path)
    assert cache.limit
    (values,) = cache.open([FEATURES], lambda _missing: iter([(VALUES,)]))
    assert np.array_equal(values, VALUES)


def test_a_header_that_numpy_cannot_parse_is_damage(tmp_path):
    """NumPy raises tokenize.TokenError for this header."""
    (tmp_path / "values.npy").write_bytes(b"\x93NUMPY\x01\x00v\x00{" + b" " * 117)
    assert not is_complete_array(tmp_path / "values.npy", (6, 4), "float32")
    with pytest.raises(ValueError, match="is damaged"):
        map_array(tmp_path / "values.npy")


@pytest.fixture(scope="module")
def few_phantoms(tmp_path_factory):
    return draw_phantoms(tmp_path_factory.mktemp("few") / "data", n_images=6, image_size=32, seed=1)


@settings(max_examples=settings.default.max_examples // 3)
@given(st.sampled_from(["files.index", "unreadable.lines", "selections/*.npz"]), st.data())
def test_damaged_indexes_of_decoded_images_are_written_again(tmp_path, few_phantoms, pattern, data):
    ids = sorted(path.relative_to(few_phantoms).as_posix() for path in few_phantoms.rglob("*.png"))
    shutil.rmtree(tmp_path)
    pixels = decode_dataset(few_phantoms, [*ids, "missing.png"], 16, folder=tmp_path).open()[:]
    (file,) = tmp_path.glob(f"decoded/*/{pattern}")
    damage(data, file)
    list_cache_entries(tmp_path)
    again = decode_dataset(few_phantoms, [*ids, "missing.png"], 16, folder=tmp_path)
    assert (again.ids, again.unreadable) == (tuple(ids), {"missing.png": "missing"})
    assert np.array_equal(again.open()[:], pixels)


@given(st.data())
def test_damaged_hashes_of_images_are_refused(tmp_path, data):
    hashes = ImageHashes(train=frozenset({b"a" * 16}), valid=frozenset({b"b" * 16}), test=frozenset())
    hashes.save(tmp_path / "hashes.npz")
    damage(data, tmp_path / "hashes.npz")
    loaded = result_or_error(ImageHashes.load, tmp_path / "hashes.npz")
    assert loaded is None or isinstance(loaded.used, frozenset)
