"""What the cache folder holds, decoded images and features, for people to look at and to clear. All of it can be made again."""

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
    """One thing that is kept.

    Attributes:
        kind: "images" or "features".
        what: What it is, for people.
        n_images: Images that it is of.
        n_bytes: Bytes on disk.
        last_used: Seconds since 1970.
    """

    kind: str
    what: str
    n_images: int
    n_bytes: int
    last_used: float


def list_cache_entries(folder: Path | None = None) -> list[CacheListing]:
    """List what the cache folder holds, the last used first; by default of ``cache_folder()``."""
    features = [
        CacheListing("features", f"{entry.label}, {entry.dtype}", entry.shape[0], entry.n_bytes, entry.last_used)
        for entry in FeatureCache(folder).entries()
    ]
    return sorted([*_decoded(folder or cache_folder()), *features], key=lambda entry: entry.last_used, reverse=True)


def clear_cache(folder: Path | None = None) -> int:
    """Remove decoded images and features but for those that are being written; give the bytes of what went."""
    folder = folder or cache_folder()
    before = sum(entry.n_bytes for entry in list_cache_entries(folder))
    FeatureCache(folder).clear()
    place = folder / "decoded"
    for index in place.glob("indexes/*.json"):
        index.unlink(missing_ok=True)
    for entry in (*place.glob("arrays/*"), *place.glob("partial-*")):
        _remove_unless_locked(entry, place / "locks" / f"{entry.name.removeprefix('partial-')}.lock")
    return before - sum(entry.n_bytes for entry in list_cache_entries(folder))


def _decoded(folder: Path) -> Iterator[CacheListing]:
    for entry in (folder / "decoded" / "arrays").glob("*"):
        try:
            n_images, size, _ = np.load(entry / "images.npy", mmap_mode="r", allow_pickle=False).shape
            n_bytes = sum(file.stat().st_size for file in entry.iterdir())
            yield CacheListing("images", f"decoded, {size} pixels", n_images, n_bytes, entry.stat().st_mtime)
        except (OSError, ValueError):
            continue  # it is just being removed, or is none of ours


def _remove_unless_locked(entry: Path, lock: Path) -> None:
    try:
        with FileLock(lock, blocking=False):
            shutil.rmtree(entry, ignore_errors=True)
    except Timeout:
        return
