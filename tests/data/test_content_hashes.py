"""Hashes of the contents of image files."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from automl_cxr.data.content_hashes import hash_files
from automl_cxr.data.decode import read_image_file

WriteFolders = Callable[..., Path]


def test_the_hash_is_that_of_the_content_under_every_name(write_folders: WriteFolders) -> None:
    root = write_folders(["a/0.png", "b/1.png"])
    (root / "copy.dat").write_bytes((root / "a/0.png").read_bytes())
    first, second, copy = hash_files(root, ["a/0.png", "b/1.png", str(root / "copy.dat")])
    assert first.tobytes() == hashlib.sha256((root / "a/0.png").read_bytes()).digest()
    assert first.tobytes() == copy.tobytes() != second.tobytes()


def test_a_row_of_an_array_is_hashed_like_a_file_and_does_not_depend_on_its_number(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 16, 20), dtype=np.uint8)
    np.save(tmp_path / "images.npy", images)
    np.save(tmp_path / "reversed.npy", images[::-1])
    hashes = hash_files(tmp_path, ["images.npy#0", "images.npy#1", "images.npy#2"])
    assert hashes[1].tobytes() == hashlib.sha256(read_image_file(tmp_path / "images.npy#1")).digest()
    assert np.array_equal(hash_files(tmp_path, ["reversed.npy#0", "reversed.npy#1", "reversed.npy#2"]), hashes[::-1])


def test_an_image_that_cannot_be_read_has_no_hash(write_folders: WriteFolders) -> None:
    root = write_folders(["a/0.png"])
    (root / "empty.png").touch()
    hashes = hash_files(root, ["missing.png", "a/0.png", "empty.png", "a"])
    assert hashes.shape == (4, 32)
    assert hashes.any(axis=1).tolist() == [False, True, False, False]
    assert hash_files(root, []).shape == (0, 32)
