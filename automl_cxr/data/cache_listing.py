"""Listing and clearing of the cache folder: decoded images and features, all of which can be recomputed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout

from automl_cxr.data.cache import cache_folder
from automl_cxr.data.feature_cache import FeatureCache


@dataclass(frozen=True)
class CacheListing:
    """One entry of the cache.

    Attributes:
        kind: "images" or "features".
        what: Description for users.
        n_images: Number of images.
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
    return sorted([*_decoded_entries(folder or cache_folder()), *features], key=lambda entry: entry.last_used, reverse=True)


def clear_cache(folder: Path | None = None) -> int:
    """Remove all entries except those that are being written. Return the number of bytes removed."""
    folder = folder or cache_folder()
    before = sum(entry.n_bytes for entry in list_cache_entries(folder))
    FeatureCache(folder).clear()
    decoded = folder / "decoded"
    for index in decoded.glob("indexes/*.json"):
        index.unlink(missing_ok=True)
    for entry in (*decoded.glob("arrays/*"), *decoded.glob("partial-*")):
        _remove_unless_locked(entry, decoded / "locks" / f"{entry.name.removeprefix('partial-')}.lock")
    return before - sum(entry.n_bytes for entry in list_cache_entries(folder))


def _decoded_entries(folder: Path) -> Iterator[CacheListing]:
    for entry in (folder / "decoded" / "arrays").glob("*"):
        try:
            n_images, size, _ = np.load(entry / "images.npy", mmap_mode="r", allow_pickle=False).shape
            n_bytes = sum(file.stat().st_size for file in entry.iterdir())
            yield CacheListing("images", f"decoded, {size} pixels", n_images, n_bytes, entry.stat().st_mtime)
        except (OSError, ValueError):
            continue  # another process is removing it, or it is not a cache entry


def _remove_unless_locked(entry: Path, lock: Path) -> None:
    try:
        with FileLock(lock, blocking=False):
            shutil.rmtree(entry, ignore_errors=True)
    except Timeout:
        return
