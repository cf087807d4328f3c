"""The cache of frozen features: computed once for each decoded array, stored on disk, memory-mapped by every process.

    <cache folder>/features/entries/<key>/values.npy    float32 or float16 (n, ...), one row for each image
                                          entry.json    description and digest; its modification time is the last use
    <cache folder>/features/partial-<key>/              being written; never read
    <cache folder>/features/locks/<key>.lock            held while an entry is written, opened or removed

The key is a digest of everything that determines the values, so entries never become stale. An entry with a wrong length, type
or digest is computed again. If the folder would exceed its limit, the least recently used entries are removed. The operating
system releases the locks of a killed process, and its incomplete files are removed when space is needed. This module does not
depend on networks: the caller passes the function that computes missing features.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

import numpy as np
from filelock import BaseFileLock, FileLock, Timeout

from automl_cxr.cache_folder import cache_folder
from automl_cxr.data.cache_limits import cache_limit, limit_from_environment
from automl_cxr.data.image_rows import ImageArray, ImageRows
from automl_cxr.data.npy_io import is_complete_array, sync, write_header
from automl_cxr.errors import FeatureCacheError
from automl_cxr.io import sha256_of_file
from automl_cxr.text_records import build_record, parse_json_object

LIMIT_VARIABLE = "AUTOML_CXR_CACHE_LIMIT"
_VERSION = 1
_SHARE_OF_FREE_DISK = 0.25

Rows = tuple[np.ndarray, ...]
"""A block of consecutive rows, one array for each of the requested features."""


@dataclass(frozen=True)
class Features:
    """A request for features.

    Attributes:
        origin: Everything that determines the values, as JSON values: digests of the images, the network and its weights;
            pooling, view, backend.
        shape: (n, ...), n the number of images.
        dtype: "float32" or "float16".
        label: Description for users.
    """

    origin: Mapping[str, str | int]
    shape: tuple[int, ...]
    dtype: str
    label: str

    @cached_property
    def key(self) -> str:
        """SHA-256 in hex of all attributes except the label."""
        identity = [_VERSION, dict(self.origin), list(self.shape), self.dtype]
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()

    @property
    def n_bytes(self) -> int:
        """Size of the values in bytes."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True, kw_only=True)
class CacheEntry:
    """Features in the cache.

    Attributes:
        key: Name of the entry's folder.
        label: Description for users.
        shape: (n, ...), n the number of images.
        dtype: Type of the values.
        n_bytes: Size of the values in bytes.
        last_used: Seconds since 1970.
    """

    key: str
    label: str
    shape: tuple[int, ...]
    dtype: str
    n_bytes: int
    last_used: float


class FeatureCache:
    """The features in one cache folder. The object contains no values, and holds no locks between calls.

    Args:
        folder: The cache folder; by default ``cache_folder()``.
        limit: Largest size of all features together, in bytes; by default the value of AUTOML_CXR_CACHE_LIMIT (such as
            "20GB"), else a quarter of the space that is free on the disk or used by features.

    Raises:
        UsageError: The environment variable is not a size.
    """

    def __init__(self, folder: Path | None = None, *, limit: int | None = None) -> None:
        self._root = Path(folder or cache_folder()).absolute() / "features"
        self._limit = limit_from_environment(LIMIT_VARIABLE) if limit is None else limit

    @property
    def limit(self) -> int:
        """Largest size of all features together, in bytes."""
        if self._limit is not None:
            return self._limit
        used = sum(entry.n_bytes for entry in self.entries())
        return cache_limit(self._root, variable=LIMIT_VARIABLE, share=_SHARE_OF_FREE_DISK, used=used)

    def holds(self, features: Features) -> bool:
        """Return whether features are in the cache, without reading their values."""
        return is_complete_array(self._folder(features.key) / "values.npy", features.shape, features.dtype)

    def open(self, requested: Sequence[Features], compute: Callable[[Sequence[Features]], Iterator[Rows]]) -> list[np.ndarray]:
        """Map features into memory, read-only. All missing features are computed in one pass.

        If several processes request the same features at once, one computes them and the others wait.

        Args:
            requested: The features to open.
            compute: Called with the missing features; yields consecutive rows of all features at a time, in order.

        Raises:
            FeatureCacheError: The features exceed the limit, or cannot be written.
        """
        try:
            for name in ("entries", "locks"):
                (self._root / name).mkdir(parents=True, exist_ok=True)
            # Two cuts may have the same features, such as a backbone and its last layer.
            by_key = {features.key: features for features in requested}
            with ExitStack() as locks:
                for key in sorted(by_key):  # the same order in all processes, to avoid a deadlock
                    locks.enter_context(self._lock(key))
                missing = [features for features in by_key.values() if not self._is_valid(features)]
                if missing:
                    self._fill(missing, compute, protected=set(by_key))
                return [self._map(features) for features in requested]
        except OSError as error:
            raise FeatureCacheError(
                f"Features need a writable cache folder with free space; '{self._root}' cannot be written "
                f"({error.strerror or error}). Free some space, or set AUTOML_CXR_CACHE to another folder."
            ) from error

    def entries(self) -> list[CacheEntry]:
        """List the entries, the most recently used first."""
        found = (_read_entry(folder) for folder in self._folders("entries/*"))
        return sorted((entry for entry in found if entry is not None), key=lambda entry: entry.last_used, reverse=True)

    def clear(self) -> int:
        """Remove all features except those that are being written or opened. Return the number of bytes removed."""
        removed = sum(entry.n_bytes for entry in self.entries() if self._remove(entry.key))
        self._remove_incomplete()
        return removed

    # Reading

    def _folder(self, key: str) -> Path:
        return self._root / "entries" / key

    def _folders(self, pattern: str) -> list[Path]:
        return sorted(self._root.glob(pattern))

    def _lock(self, key: str) -> BaseFileLock:
        return FileLock(self._root / "locks" / f"{key}.lock")

    def _is_valid(self, features: Features) -> bool:
        """Return whether an entry is undamaged. All of its values are read at its first use in a process."""
        folder = self._folder(features.key)
        if not self.holds(features):
            return False
        try:
            digest = parse_json_object((folder / "entry.json").read_bytes())["sha256"]
        except (OSError, ValueError, KeyError, TypeError):
            return False
        return digest == digest_file(folder / "values.npy")

    def _map(self, features: Features) -> np.ndarray:
        folder = self._folder(features.key)
        with contextlib.suppress(OSError):  # the cache may be read-only
            os.utime(folder / "entry.json")
        values: np.ndarray = np.load(folder / "values.npy", mmap_mode="r", allow_pickle=False)
        return values

    # Writing

    def _fill(
        self, missing: Sequence[Features], compute: Callable[[Sequence[Features]], Iterator[Rows]], *, protected: set[str]
    ) -> None:
        """Write the missing features row by row to partial folders, and rename these when they are complete."""
        partials = [self._root / f"partial-{features.key}" for features in missing]
        try:
            with FileLock(self._root / "room.lock"):  # one process at a time measures the used space and reserves its share
                self._free_space(sum(features.n_bytes for features in missing), protected)
                for features, partial in zip(missing, partials, strict=True):
                    shutil.rmtree(partial, ignore_errors=True)  # left by a killed process, because this process holds the lock
                    partial.mkdir()
                    _write_entry(partial, features, sha256="")
            digests = self._write_values(missing, partials, compute)
            for features, partial, digest in zip(missing, partials, digests, strict=True):
                _write_entry(partial, features, sha256=digest)
                shutil.rmtree(self._folder(features.key), ignore_errors=True)
                partial.replace(self._folder(features.key))
        finally:
            for partial in partials:
                shutil.rmtree(partial, ignore_errors=True)

    def _write_values(
        self, missing: Sequence[Features], partials: Sequence[Path], compute: Callable[[Sequence[Features]], Iterator[Rows]]
    ) -> list[str]:
        """Write the values of all features in the order of ``compute``. Return the digests of the files."""
        with ExitStack() as files:
            writers = [
                _ValuesWriter(features, files.enter_context((partial / "values.npy").open("wb")))
                for features, partial in zip(missing, partials, strict=True)
            ]
            for rows in compute(missing):
                for writer, values in zip(writers, rows, strict=True):
                    writer.append(values)
            return [writer.finish() for writer in writers]

    # Space

    def _free_space(self, n_bytes: int, protected: set[str]) -> None:
        """Remove the least recently used entries until ``n_bytes`` fit into the limit, except those in ``protected``.

        Raises:
            FeatureCacheError: They do not fit.
        """
        limit = self.limit
        used = self._remove_incomplete() + sum(entry.n_bytes for entry in self.entries())
        if n_bytes <= limit:
            for entry in reversed(self.entries()):
                if used + n_bytes <= limit:
                    return
                if entry.key not in protected and self._remove(entry.key):
                    used -= entry.n_bytes
        if used + n_bytes > limit:
            raise FeatureCacheError(
                f"Features must fit into the cache's limit of {limit / 1e9:.1f} GB; these take {n_bytes / 1e9:.1f} GB. "
                f"Set {LIMIT_VARIABLE} to a larger size."
            )

    def _remove(self, key: str) -> bool:
        """Remove an entry that no process is writing or opening. Return whether it was removed."""
        partial = self._root / f"partial-{key}"
        with self._try_lock(key) as is_locked:
            if is_locked:
                with contextlib.suppress(FileNotFoundError):
                    self._folder(key).replace(partial)  # atomic, so that no process finds an incomplete entry
                shutil.rmtree(partial, ignore_errors=True)
            return is_locked

    def _remove_incomplete(self) -> int:
        """Remove incomplete entries of killed processes. Return the size of the entries that are being written, in bytes."""
        n_bytes = 0
        for partial in self._folders("partial-*"):
            with self._try_lock(partial.name.removeprefix("partial-")) as is_locked:
                if is_locked:
                    shutil.rmtree(partial, ignore_errors=True)
                elif (entry := _read_entry(partial)) is not None:
                    n_bytes += entry.n_bytes
        return n_bytes

    @contextlib.contextmanager
    def _try_lock(self, key: str) -> Iterator[bool]:
        """Lock an entry during the block if no other process holds its lock, and yield whether it is locked."""
        lock = self._lock(key)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            yield False
            return
        try:
            yield True
        finally:
            lock.release()


class _ValuesWriter:
    """Writes the rows of a .npy file and computes the digest of the file."""

    def __init__(self, features: Features, file: BinaryIO) -> None:
        self._features = features
        self._file = file
        self._hasher = hashlib.sha256()
        self._n_rows = 0
        header = io.BytesIO()
        write_header(header, features.shape, features.dtype)
        self._write(header.getvalue())

    def append(self, rows: np.ndarray) -> None:
        self._write(np.ascontiguousarray(rows, self._features.dtype).data)
        self._n_rows += len(rows)
        self._check((self._n_rows, *rows.shape[1:]), self._n_rows <= self._features.shape[0])

    def finish(self) -> str:
        """Flush the file to disk and return its digest."""
        self._check((self._n_rows, *self._features.shape[1:]), self._n_rows == self._features.shape[0])
        sync(self._file)
        return self._hasher.hexdigest()

    def _write(self, content: bytes | memoryview) -> None:
        self._file.write(content)
        self._hasher.update(content)

    def _check(self, shape: tuple[int, ...], is_valid_count: bool) -> None:
        if not is_valid_count or shape[1:] != self._features.shape[1:]:
            raise FeatureCacheError(f"Features must have shape {self._features.shape}; received {shape}.")


def _write_entry(folder: Path, features: Features, *, sha256: str) -> None:
    entry = {
        "key": features.key,
        "label": features.label,
        "shape": features.shape,
        "dtype": features.dtype,
        "origin": dict(features.origin),
        "sha256": sha256,
    }
    with (folder / "entry.json").open("wb") as file:
        file.write(json.dumps(entry, indent=1).encode())
        sync(file)


def _read_entry(folder: Path) -> CacheEntry | None:
    """Read the description of an entry; None if it is missing or damaged."""
    try:
        path = folder / "entry.json"
        entry = parse_json_object(path.read_bytes())
        shape, dtype = build_record(tuple[int, ...], entry["shape"]), str(np.dtype(entry["dtype"]))
        if not shape or min(shape) < 0:
            return None
        return CacheEntry(
            key=str(entry["key"]),
            label=str(entry["label"]),
            shape=shape,
            dtype=dtype,
            n_bytes=math.prod(shape) * np.dtype(dtype).itemsize,
            last_used=path.stat().st_mtime,
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


# Digests


def digest_array(array: ImageArray) -> str:
    """Return the SHA-256 digest of an array's contents, shape and type. A mapped file is read once in each process."""
    if isinstance(array, ImageRows):
        return array.digest
    header = f"{array.dtype.str} {array.shape}".encode()
    if isinstance(array, np.memmap) and not isinstance(array.base, np.ndarray):  # a whole map, not a slice of it
        path = Path(str(array.filename))
        if is_complete_array(path, array.shape, array.dtype):
            return hashlib.sha256(header + digest_file(path).encode()).hexdigest()
    contents = hashlib.sha256()
    for item in np.atleast_1d(array):  # one at a time, because a mirrored view of a large map is not contiguous
        contents.update(np.ascontiguousarray(item).data)
    return hashlib.sha256(header + contents.digest()).hexdigest()


def digest_file(path: Path) -> str:
    """Return the SHA-256 digest of a file, which is read again only after a change of its status."""
    status = path.stat()
    return _digest_unchanged(path, status.st_ino, status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=1024)
def _digest_unchanged(path: Path, _inode: int, _size: int, _changed: int) -> str:
    return sha256_of_file(path)
