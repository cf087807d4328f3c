"""Decoded images as rows of a memory-mapped store, opened by path in any process.

The path is a selection, which lists the rows of a data set in an image store (``image_store.py``), or one array of images in a
.npy file, such as a copy on another machine.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from automl_cxr.data.npy_io import map_array, write_header
from automl_cxr.errors import DataError
from automl_cxr.io import atomic_write

if sys.platform != "win32":
    import fcntl

PIXELS_NAME = "pixels.bin"
SELECTIONS_NAME = "selections"
_SUFFIX = ".npz"


@dataclass(frozen=True, eq=False)
class ImageRows:
    """Rows of a mapped array. Indexing copies only the requested rows, as with an array of these rows.

    Attributes:
        array: The images of all data sets, uint8 (n_stored, ...), read-only.
        rows: int64 (n,), row of each image.
        digest: SHA-256 in hex of the images in their order.
    """

    array: np.ndarray
    rows: np.ndarray
    digest: str

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the images, (n, ...)."""
        return (len(self.rows), *self.array.shape[1:])

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return self.array.ndim

    @property
    def dtype(self) -> np.dtype:
        """Type of a pixel."""
        return self.array.dtype

    @property
    def size(self) -> int:
        """Number of pixels of all images."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Size of the images in bytes."""
        return self.size * self.dtype.itemsize

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self.array[row] for row in self.rows)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[:], dtype=dtype)

    def __getitem__(self, key: Any) -> Any:
        """Copy rows; for a key that selects all rows, such as ``[:, :, ::-1]``, return other ``ImageRows`` without reading."""
        if isinstance(key, tuple):
            if key[0] is Ellipsis or (isinstance(key[0], slice) and key[0] == slice(None)):
                digest = hashlib.sha256(f"{self.digest} {key!r}".encode()).hexdigest()
                return ImageRows(self.array[key], self.rows, digest)
            chosen = self[key[0]]
            return chosen[key[1:]] if np.ndim(self.rows[key[0]]) == 0 else chosen[(slice(None), *key[1:])]
        rows = self.rows[key]
        if np.ndim(rows) == 0:
            return self.array[rows]
        images = np.empty((len(rows), *self.array.shape[1:]), self.dtype)
        for position in np.argsort(rows).tolist():  # a disk is read faster in ascending order
            images[position] = self.array[rows[position]]
        return images


ImageArray = np.ndarray | ImageRows
"""Decoded images, uint8 (n, size, size), in memory or mapped."""


def open_images(path: Path) -> ImageArray:
    """Open the decoded images of a selection or of a .npy file, read-only and shared by all processes.

    Images of a selection are not removed from the cache until the result is deleted.

    Raises:
        DataError: The images were removed from the cache.
        OSError: The file cannot be opened.
        ValueError: The file is damaged.
    """
    if path.suffix != _SUFFIX:
        return map_array(path)
    try:
        with np.load(path, allow_pickle=False) as selection:
            rows, size = selection["rows"], int(selection["image_size"])
        with (path.parent.parent / PIXELS_NAME).open("rb") as file:
            protect(file.fileno())  # the map has a duplicate of the file descriptor, which keeps the lock
            pixels = np.asarray(np.memmap(file, np.uint8, "r", shape=(int(rows.max()) + 1, size, size)))
    except FileNotFoundError as error:
        raise DataError(
            f"Decoded images must stay in the cache during a command; '{error.filename}' was removed. Start the command again."
        ) from error
    return ImageRows(pixels, rows, path.stem)


@contextlib.contextmanager
def kept_in_cache(path: Path) -> Iterator[None]:
    """Protect the images of a selection against removal from the cache during a block. Errors as in ``open_images``."""
    images = open_images(path)
    yield
    del images


def protect(descriptor: int) -> None:
    """Protect the open file of an image store against removal from the cache. Windows does not remove mapped files."""
    if sys.platform != "win32":
        fcntl.flock(descriptor, fcntl.LOCK_SH)


def is_protected(descriptor: int) -> bool:
    """Return whether a process protects the file. If not, no process can protect it until this descriptor is closed."""
    if sys.platform == "win32":
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    return False


def save_selection(store: Path, rows: np.ndarray, pixel_hashes: np.ndarray, image_size: int) -> Path:
    """Write the rows of a data set to a selection, which is named by its content. Return its path.

    Args:
        store: Folder of the image store.
        rows: int64 (n,), row of each image.
        pixel_hashes: uint8 (n, 16), hash of the pixels of each image.
        image_size: Height and width of an image in pixels.

    Raises:
        OSError: The file cannot be written.
    """
    content = f"{image_size} {len(rows)} ".encode() + rows.tobytes() + pixel_hashes.tobytes()
    path = store / SELECTIONS_NAME / f"{hashlib.sha256(content).hexdigest()}{_SUFFIX}"
    if not _is_saved(path, rows, image_size):
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as file:
            np.savez(file, allow_pickle=False, rows=rows, image_size=np.array(image_size))
    return path


def _is_saved(path: Path, rows: np.ndarray, image_size: int) -> bool:
    try:
        with np.load(path, allow_pickle=False) as saved:
            return np.array_equal(saved["rows"], rows) and int(saved["image_size"]) == image_size
    except Exception:  # noqa: BLE001 - NumPy raises many types of exceptions for a damaged file
        return False


def as_one_file(path: Path) -> Path:
    """Return a .npy file with the images of a selection, which can be copied to another machine; ``path`` if it is one.

    The file is written beside the selection at the first call; other processes wait for it.

    Raises:
        OSError: The file cannot be written.
        DataError: As in ``open_images``.
    """
    if path.suffix != _SUFFIX:
        return path
    target = path.with_suffix(".npy")
    with FileLock(path.with_suffix(".lock")):
        if not target.exists():
            images = open_images(path)
            with atomic_write(target) as file:
                write_header(file, images.shape, np.uint8)
                for image in images:
                    file.write(image.tobytes())
    return target
