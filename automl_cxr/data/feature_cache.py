"""What frozen layers say of every image of a decoded array: computed once, kept on disk, mapped by every process.

    <cache folder>/features/entries/<key>/values.npy    float32 or float16 (n, ...), a row for each image
                                          entry.json    what they are, their digest; its modification time is their last use
    <cache folder>/features/partial-<key>/              being written; never read
    <cache folder>/features/locks/<key>.lock            held by whoever writes, opens or removes an entry

The key is a digest of everything that decides the values, so that nothing is ever stale under its name. An entry whose length,
type or digest is not what it should be is computed again. The folder is kept within a limit: what was not used for longest
goes first. A process that dies lets go of its locks, and what it left half written is removed by the next that needs room.
This file knows no networks: whoever asks brings the function that computes what is missing.
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

from automl_cxr.data.cache import cache_folder
from automl_cxr.data.npy_io import is_whole_array, sync
from automl_cxr.errors import FeatureCacheError, UsageError
from automl_cxr.hardware import parse_bytes

LIMIT_VARIABLE = "AUTOML_CXR_CACHE_LIMIT"
_VERSION = 1
_SHARE_OF_FREE_DISK = 0.25

Rows = tuple[np.ndarray, ...]
"""Some consecutive rows of several features."""


@dataclass(frozen=True)
class Features:
    """Features that are asked for.

    Attributes:
        origin: Everything that decides the values, as JSON can say it: digests of the images, of the network and its weights,
            pooling, view, backend.
        shape: (n, ...), n the number of images.
        dtype: "float32" or "float16".
        label: What they are, for people.
    """

    origin: Mapping[str, str | int]
    shape: tuple[int, ...]
    dtype: str
    label: str

    @cached_property
    def key(self) -> str:
        """SHA-256 over all of it but the label, in hex."""
        told = [_VERSION, dict(self.origin), list(self.shape), self.dtype]
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()

    @property
    def n_bytes(self) -> int:
        """Bytes of the values."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True, kw_only=True)
class CacheEntry:
    """Features that are kept.

    Attributes:
        key: Names its folder.
        label: What they are, for people.
        shape: (n, ...), n the number of images.
        dtype: Type of the values.
        n_bytes: Bytes of the values.
        last_used: Seconds since 1970.
    """

    key: str
    label: str
    shape: tuple[int, ...]
    dtype: str
    n_bytes: int
    last_used: float


class FeatureCache:
    """The features under one cache folder. Holds no values and no locks between calls.

    Args:
        folder: The cache folder; by default ``cache_folder()``.
        limit: Bytes that all features together may take; by default what AUTOML_CXR_CACHE_LIMIT says (such as "20GB"), else a
            quarter of what is free on the disk or taken by features.

    Raises:
        UsageError: The variable holds no size.
    """

    def __init__(self, folder: Path | None = None, *, limit: int | None = None) -> None:
        self._place = Path(folder or cache_folder()).absolute() / "features"
        self._limit = _said_limit() if limit is None else limit

    @property
    def limit(self) -> int:
        """Bytes that all features together may take."""
        if self._limit is not None:
            return self._limit
        there = next(parent for parent in (self._place, *self._place.parents) if parent.is_dir())
        taken = sum(entry.n_bytes for entry in self.entries())
        return int(_SHARE_OF_FREE_DISK * (shutil.disk_usage(there).free + taken))

    def holds(self, wanted: Features) -> bool:
        """Tell whether features are there, without reading them."""
        return is_whole_array(self._folder(wanted.key) / "values.npy", wanted.shape, wanted.dtype)

    def open(self, wanted: Sequence[Features], compute: Callable[[Sequence[Features]], Iterator[Rows]]) -> list[np.ndarray]:
        """Map features, read-only, after computing those that are missing in one go.

        Of several processes that ask for the same at once one computes; the others wait for it.

        Args:
            wanted: The features.
            compute: Given those that are missing, yields their rows in order, some for all of them at a time.

        Raises:
            FeatureCacheError: They are larger than the limit, or cannot be written.
        """
        try:
            for name in ("entries", "locks"):
                (self._place / name).mkdir(parents=True, exist_ok=True)
            named = {
                features.key: features for features in wanted
            }  # two cuts may be one, such as a backbone and its last layer
            with ExitStack() as locks:
                for key in sorted(named):  # in one order, or two processes would wait for each other
                    locks.enter_context(self._lock(key))
                missing = [features for features in named.values() if not self._is_sound(features)]
                if missing:
                    self._fill(missing, compute, keep=set(named))
                return [self._map(features) for features in wanted]
        except OSError as error:
            raise FeatureCacheError(
                f"Features need a cache folder with room; '{self._place}' cannot be written ({error.strerror or error})."
            ) from error

    def entries(self) -> list[CacheEntry]:
        """List what is kept, the last used first."""
        found = (_read_entry(folder) for folder in self._folders("entries/*"))
        return sorted((entry for entry in found if entry is not None), key=lambda entry: entry.last_used, reverse=True)

    def clear(self) -> int:
        """Remove all features but those that are being written or opened; give the bytes of what went."""
        gone = sum(entry.n_bytes for entry in self.entries() if self._remove(entry.key))
        self._remove_remains()
        return gone

    # Reading

    def _folder(self, key: str) -> Path:
        return self._place / "entries" / key

    def _folders(self, pattern: str) -> list[Path]:
        return sorted(self._place.glob(pattern))

    def _lock(self, key: str) -> BaseFileLock:
        return FileLock(self._place / "locks" / f"{key}.lock")

    def _is_sound(self, wanted: Features) -> bool:
        """Tell whether an entry is what was once written, reading all of it the first time that this process meets it."""
        folder = self._folder(wanted.key)
        if not self.holds(wanted):
            return False
        try:
            digest = json.loads((folder / "entry.json").read_bytes())["sha256"]
        except (OSError, ValueError, KeyError, TypeError):
            return False
        return digest == digest_file(folder / "values.npy")

    def _map(self, wanted: Features) -> np.ndarray:
        folder = self._folder(wanted.key)
        with contextlib.suppress(OSError):  # a cache that may only be read is used all the same
            os.utime(folder / "entry.json")
        values: np.ndarray = np.load(folder / "values.npy", mmap_mode="r", allow_pickle=False)
        return values

    # Writing

    def _fill(
        self, missing: Sequence[Features], compute: Callable[[Sequence[Features]], Iterator[Rows]], *, keep: set[str]
    ) -> None:
        """Write the missing features row by row, each under a partial name, and move them into place."""
        partials = [self._place / f"partial-{features.key}" for features in missing]
        try:
            with FileLock(self._place / "room.lock"):  # one at a time counts what there is and takes its share of it
                self._make_room(sum(features.n_bytes for features in missing), keep)
                for features, partial in zip(missing, partials, strict=True):
                    shutil.rmtree(partial, ignore_errors=True)  # we hold the lock: whoever left it is dead
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
        """Write the values of each file as they come; give the digests of the files."""
        with ExitStack() as files:
            opened = [
                _Values(features, files.enter_context((partial / "values.npy").open("wb")))
                for features, partial in zip(missing, partials, strict=True)
            ]
            for rows in compute(missing):
                for values, one in zip(opened, rows, strict=True):
                    values.append(one)
            return [values.finish() for values in opened]

    # Room

    def _make_room(self, n_bytes: int, keep: set[str]) -> None:
        """Remove what was not used for longest until so many bytes fit.

        Raises:
            FeatureCacheError: They cannot.
        """
        limit = self.limit
        taken = self._remove_remains() + sum(entry.n_bytes for entry in self.entries())
        if n_bytes <= limit:
            for entry in reversed(self.entries()):
                if taken + n_bytes <= limit:
                    return
                if entry.key not in keep and self._remove(entry.key):
                    taken -= entry.n_bytes
        if taken + n_bytes > limit:
            raise FeatureCacheError(
                f"Features must fit into the cache's limit of {limit / 1e9:.1f} GB; these take {n_bytes / 1e9:.1f} GB. "
                f"Set {LIMIT_VARIABLE} to more."
            )

    def _remove(self, key: str) -> bool:
        """Remove an entry unless somebody writes or opens it; tell whether it is gone."""
        remains = self._place / f"partial-{key}"
        with self._held_if_free(key) as is_held:
            if is_held:
                with contextlib.suppress(FileNotFoundError):
                    self._folder(key).replace(remains)  # at once, so that nobody finds half of it
                shutil.rmtree(remains, ignore_errors=True)
            return is_held

    def _remove_remains(self) -> int:
        """Remove what dead processes left half written; give the bytes of what the living are writing."""
        in_writing = 0
        for partial in self._folders("partial-*"):
            with self._held_if_free(partial.name.removeprefix("partial-")) as is_held:
                if is_held:
                    shutil.rmtree(partial, ignore_errors=True)
                elif (entry := _read_entry(partial)) is not None:
                    in_writing += entry.n_bytes
        return in_writing

    @contextlib.contextmanager
    def _held_if_free(self, key: str) -> Iterator[bool]:
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


def _said_limit() -> int | None:
    text = os.environ.get(LIMIT_VARIABLE)
    if text is None:
        return None
    try:
        return parse_bytes(text)
    except ValueError as error:
        raise UsageError(f"{LIMIT_VARIABLE}: {error}") from error


class _Values:
    """A .npy file in writing, plain and no memory map: on a full disk a write raises, whereas a map kills the process."""

    def __init__(self, features: Features, file: BinaryIO) -> None:
        self._features = features
        self._file = file
        self._hasher = hashlib.sha256()
        self._n_rows = 0
        header = io.BytesIO()
        told = {"descr": np.dtype(features.dtype).str, "fortran_order": False, "shape": features.shape}
        np.lib.format.write_array_header_1_0(header, told)
        self._write(header.getvalue())

    def append(self, rows: np.ndarray) -> None:
        self._write(np.ascontiguousarray(rows, self._features.dtype).data)
        self._n_rows += len(rows)
        self._check((self._n_rows, *rows.shape[1:]), self._n_rows <= self._features.shape[0])

    def finish(self) -> str:
        """Flush the file to disk and give its digest."""
        self._check((self._n_rows, *self._features.shape[1:]), self._n_rows == self._features.shape[0])
        sync(self._file)
        return self._hasher.hexdigest()

    def _write(self, content: bytes | memoryview) -> None:
        self._file.write(content)
        self._hasher.update(content)

    def _check(self, shape: tuple[int, ...], has_rows: bool) -> None:
        if not has_rows or shape[1:] != self._features.shape[1:]:
            raise FeatureCacheError(f"Features must have shape {self._features.shape}; {shape} was computed.")


def _write_entry(folder: Path, features: Features, *, sha256: str) -> None:
    told = {
        "key": features.key,
        "label": features.label,
        "shape": features.shape,
        "dtype": features.dtype,
        "origin": dict(features.origin),
        "sha256": sha256,
    }
    with (folder / "entry.json").open("wb") as file:
        file.write(json.dumps(told, indent=1).encode())
        sync(file)


def _read_entry(folder: Path) -> CacheEntry | None:
    """Read what an entry says of itself; None where it says nothing that can be understood."""
    try:
        path = folder / "entry.json"
        told = json.loads(path.read_bytes())
        shape, dtype = tuple(int(side) for side in told["shape"]), str(np.dtype(told["dtype"]))
        return CacheEntry(
            key=str(told["key"]),
            label=str(told["label"]),
            shape=shape,
            dtype=dtype,
            n_bytes=math.prod(shape) * np.dtype(dtype).itemsize,
            last_used=path.stat().st_mtime,
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


# Digests


def digest_array(array: np.ndarray) -> str:
    """Give the SHA-256 of an array's contents, shape and type; that of a whole mapped file once a process and no more."""
    told = f"{array.dtype.str} {array.shape}".encode()
    if isinstance(array, np.memmap) and not isinstance(array.base, np.ndarray):  # the map itself and no slice of it
        path = Path(str(array.filename))
        if is_whole_array(path, array.shape, array.dtype):
            return hashlib.sha256(told + digest_file(path).encode()).hexdigest()
    return hashlib.sha256(told + hashlib.sha256(np.ascontiguousarray(array).data).digest()).hexdigest()


def digest_file(path: Path) -> str:
    """Give the SHA-256 of a file, read again only when its status has changed."""
    status = path.stat()
    return _digest_unchanged(path, status.st_ino, status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=1024)
def _digest_unchanged(path: Path, _inode: int, _size: int, _changed: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
