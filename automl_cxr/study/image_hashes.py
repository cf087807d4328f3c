"""Content hashes of a study's images, by which they are recognised under other names, in other folders and in other studies.

    <study>/image_hashes.npz                          written once, when the study is created
    <study>/trials/00007/model.image_hashes.npz       the same file (a hard link), so that a copied trial folder contains it
    <ensemble>/members/00007.image_hashes.npz         the same

Each file contains uint8 arrays (n, 16): the first 16 bytes of the SHA-256 hashes, sorted. 400,000 images need 6.4 MB.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from automl_cxr.errors import StudyError
from automl_cxr.io import atomic_write

HASHES_FILE = "image_hashes.npz"
HASHES_SUFFIX = ".image_hashes.npz"
_BYTES = 16
_Hashes = frozenset[bytes]


@dataclass(frozen=True, kw_only=True)
class ImageHashes:
    """Content hashes of images by their use in a study. An image whose file could not be read has no hash.

    Attributes:
        train: Images on which networks are trained; with cross-validation, those of all folds.
        valid: Images that select epochs and trials; empty with cross-validation.
        test: Images of the sealed test part.
        earlier: Images that other studies used for models or configurations which this study takes over.
    """

    train: _Hashes
    valid: _Hashes
    test: _Hashes
    earlier: _Hashes = frozenset()

    @property
    def used(self) -> _Hashes:
        """All images that affect the models of the study."""
        return self.train | self.valid | self.earlier

    def with_earlier(self, others: Iterable[ImageHashes]) -> ImageHashes:
        """Add the images that affect the models of other studies."""
        return dataclasses.replace(self, earlier=self.earlier.union(*(other.used for other in others)))

    def save(self, path: Path) -> None:
        """Write the hashes atomically.

        Raises:
            OSError: The file cannot be written.
        """
        arrays = {
            part.name: np.frombuffer(b"".join(sorted(getattr(self, part.name))), np.uint8).reshape(-1, _BYTES)
            for part in dataclasses.fields(self)
        }
        with atomic_write(path) as file:
            np.savez(file, allow_pickle=False, **arrays)

    @classmethod
    def load(cls, path: Path) -> ImageHashes:
        """Read the hashes of a file.

        Raises:
            StudyError: The file is missing or damaged.
        """
        try:
            return cls(**_read_sets(path, [part.name for part in dataclasses.fields(cls)]))
        except Exception as error:  # NumPy raises many types of exceptions for a damaged file
            raise StudyError(f"The study's file {path} is damaged ({error}). Restore it, or delete it.") from error


def _read_sets(path: Path, names: Iterable[str]) -> dict[str, _Hashes]:
    with path.open("rb") as file:
        if not zipfile.is_zipfile(file):  # NumPy would advise to load it as a pickle
            raise ValueError("it is not a complete npz archive")
        file.seek(0)
        with np.load(file, allow_pickle=False) as arrays:
            return {name: _as_set(arrays[name]) for name in names}


def short_hashes(hashes: np.ndarray) -> _Hashes:
    """Return the set of shortened hashes, without zeros, which mark images that could not be read.

    Args:
        hashes: uint8 (n, 32), as ``data.content_hashes.hash_files`` returns them.
    """
    return _as_set(np.ascontiguousarray(hashes[hashes.any(axis=1), :_BYTES]))


def short_hash(digest: np.ndarray) -> bytes:
    """Return the shortened hash of one image, from uint8 (32,)."""
    return digest[:_BYTES].tobytes()


def shortened(digest: bytes) -> bytes:
    """Return the shortened hash of one image, from its SHA-256."""
    return digest[:_BYTES]


def _as_set(hashes: np.ndarray) -> _Hashes:
    if hashes.dtype != np.uint8 or hashes.ndim != 2 or hashes.shape[1] != _BYTES:
        raise ValueError(f"hashes must be uint8 (n, {_BYTES}); received {hashes.dtype} {hashes.shape}")
    content = hashes.tobytes()
    return frozenset(content[start : start + _BYTES] for start in range(0, len(content), _BYTES))


def hashes_file_of(model: Path) -> Path:
    """Return the path of the file beside a model that contains the hashes of the images of its study."""
    return model.with_name(f"{model.stem}{HASHES_SUFFIX}")


def link_hashes(study_folder: Path, model: Path) -> None:
    """Put the hashes of a study beside one of its models. A study of an earlier version may have none.

    Raises:
        OSError: The file cannot be written.
    """
    source, target = study_folder / HASHES_FILE, hashes_file_of(model)
    if not source.is_file():
        return
    target.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # a file system without hard links
        os.link(source, target)
        return
    shutil.copyfile(source, target)
