"""Listing and clearing of the cache folder: decoded images, features, copies and compiled functions."""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from automl_cxr.cache_folder import cache_folder
from automl_cxr.data.feature_cache import FeatureCache
from automl_cxr.data.npy_io import map_array
from automl_cxr.file_copies import FileCopies


@dataclass(frozen=True)
class CacheListing:
    """One entry of the cache.

    Attributes:
        kind: "images", "features", "copies" (of images of another machine of a Ray cluster) or "compiled" (functions).
        what: Description for users.
        n_images: Number of images; 0 for compiled functions.
        n_bytes: Size on disk in bytes.
        last_used: Seconds since 1970.
    """

    kind: str
    what: str
    n_images: int
    n_bytes: int
    last_used: float


def list_cache_entries(folder: Path | None = None) -> list[CacheListing]:
    """List the entries of a cache folder, by default ``cache_folder()``, the most recently used first."""
    features = [
        CacheListing("features", f"{entry.label}, {entry.dtype}", entry.shape[0], entry.n_bytes, entry.last_used)
        for entry in FeatureCache(folder).entries()
    ]
    folder = folder or cache_folder()
    entries = [*_decoded_entries(folder), *features, *_copies(folder), *_compiled_entries(folder)]
    return sorted(entries, key=lambda entry: entry.last_used, reverse=True)


def clear_cache(folder: Path | None = None) -> int:
    """Remove all entries except those that are being written. Return the number of bytes removed."""
    folder = folder or cache_folder()
    before = sum(entry.n_bytes for entry in list_cache_entries(folder))
    FeatureCache(folder).clear()
    FileCopies(folder).clear()
    for entry in (folder / "compiled").glob("*"):
        shutil.rmtree(entry, ignore_errors=True)
    decoded = folder / "decoded"
    for index in decoded.glob("indexes/*.json"):
        if _is_digest(index.stem):
            index.unlink(missing_ok=True)
    for entry in (*decoded.glob("arrays/*"), *decoded.glob("partial-*")):
        digest = entry.name.removeprefix("partial-")
        if _is_digest(digest):
            _remove_unless_locked(entry, decoded / "locks" / f"{digest}.lock")
    return before - sum(entry.n_bytes for entry in list_cache_entries(folder))


def _decoded_entries(folder: Path) -> Iterator[CacheListing]:
    for entry in (folder / "decoded" / "arrays").glob("*"):
        try:
            n_images, size, _ = map_array(entry / "images.npy").shape
            n_bytes = sum(file.stat().st_size for file in entry.iterdir())
            yield CacheListing("images", f"decoded, {size} pixels", n_images, n_bytes, entry.stat().st_mtime)
        except (OSError, ValueError):
            continue  # it is damaged, another process is removing it, or it is not a cache entry


def _copies(folder: Path | None) -> Iterator[CacheListing]:
    for copy in FileCopies(folder).entries():
        try:
            n_images, size, _ = map_array(copy.path).shape
        except (OSError, ValueError):
            n_images, size = 0, 0  # damaged; it is written again before it is used
        yield CacheListing("copies", f"copied from another machine, {size} pixels", n_images, copy.n_bytes, copy.last_used)


def _compiled_entries(folder: Path) -> Iterator[CacheListing]:
    for entry in (folder / "compiled").glob("*"):
        with contextlib.suppress(OSError):  # another process is removing a file
            files = [file.stat() for file in entry.rglob("*") if file.is_file()]
            last_used = max((max(file.st_atime, file.st_mtime) for file in files), default=entry.stat().st_mtime)
            yield CacheListing("compiled", f"functions of {entry.name}", 0, sum(file.st_size for file in files), last_used)


def _is_digest(name: str) -> bool:
    """Return whether this program has given the name: everything in the cache of images is named by a SHA-256 digest."""
    return re.fullmatch(r"[0-9a-f]{64}", name) is not None


def _remove_unless_locked(entry: Path, lock: Path) -> None:
    try:
        with FileLock(lock, blocking=False):
            shutil.rmtree(entry, ignore_errors=True)
    except Timeout:
        return
