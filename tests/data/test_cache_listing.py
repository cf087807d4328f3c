import hashlib

import numpy as np
from filelock import FileLock

from automl_cxr.data.cache import decode_dataset
from automl_cxr.data.cache_listing import clear_cache, list_cache_entries
from automl_cxr.data.feature_cache import FeatureCache, Features
from automl_cxr.file_copies import FileCopies


def fill_cache(folder, phantoms):
    ids = sorted(str(path.relative_to(phantoms)) for path in phantoms.rglob("*.png"))[:3]
    decoded = decode_dataset(phantoms, ids, 16, folder=folder)
    requested = Features({"network": "a"}, (3, 2), "float16", "squeezenet@vector")
    FeatureCache(folder).open([requested], lambda _missing: iter([(np.zeros((3, 2)),)]))
    return decoded


def test_images_and_features_are_listed_and_cleared(tmp_path, phantoms):
    decoded = fill_cache(tmp_path, phantoms)
    entries = {entry.kind: entry for entry in list_cache_entries(tmp_path)}
    assert (entries["images"].what, entries["images"].n_images) == ("decoded, 16 pixels, stretch", 3)
    assert entries["images"].n_bytes > 3 * 16 * 16
    assert (entries["features"].what, entries["features"].n_bytes) == ("squeezenet@vector, float16", 12)
    assert clear_cache(tmp_path) == sum(entry.n_bytes for entry in entries.values())
    assert list_cache_entries(tmp_path) == []
    assert not decoded.path.exists()
    assert fill_cache(tmp_path, phantoms).path.exists()


def test_copies_from_other_machines_are_listed_and_cleared(tmp_path):
    np.save(tmp_path / "images.npy", np.zeros((5, 16, 16), np.uint8))
    content = (tmp_path / "images.npy").read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    copy = FileCopies(tmp_path / "cache").open(digest, suffix=".npy", n_bytes=len(content), read=lambda: iter([content]))
    (entry,) = list_cache_entries(tmp_path / "cache")
    assert (entry.kind, entry.what) == ("copies", "copied from another machine, 16 pixels")
    assert (entry.n_images, entry.n_bytes) == (5, len(content))
    assert clear_cache(tmp_path / "cache") == len(content)
    assert not copy.exists()


def test_folders_of_the_user_in_the_cache_folder_are_not_removed(tmp_path):
    kept = [tmp_path / "decoded" / name / "1.png" for name in ("mine", "16-stretch")]
    for file in kept:
        file.parent.mkdir(parents=True)
        file.touch()
    clear_cache(tmp_path)
    assert all(file.exists() for file in kept)


def test_entries_that_are_being_written_are_not_removed(tmp_path, phantoms):
    decoded = fill_cache(tmp_path, phantoms)
    with FileLock(tmp_path / "decoded" / "locks" / f"{decoded.path.parent.parent.name}.lock"):
        clear_cache(tmp_path)
    assert decoded.path.exists()


def test_images_that_are_in_use_are_not_removed(tmp_path, phantoms):
    decoded = fill_cache(tmp_path, phantoms)
    images = decoded.open()
    clear_cache(tmp_path)
    assert decoded.path.exists()
    del images
    clear_cache(tmp_path)
    assert not decoded.path.exists()


def test_an_empty_cache_has_no_entries(tmp_path):
    assert list_cache_entries(tmp_path) == []
    assert clear_cache(tmp_path) == 0
