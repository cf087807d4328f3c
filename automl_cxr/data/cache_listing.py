"""Listing and clearing of the cache folder: decoded images, features and copies, all of which can be made again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from automl_cxr.cache_folder import cache_folder
from automl_cxr.data.feature_cache import FeatureCache
from automl_cxr.data.image_space import list_stores, remove_store
from automl_cxr.data.npy_io import map_array
from automl_cxr.file_copies import FileCopies


@dataclass(frozen=True)
class CacheListing:
    """One entry of the cache.

    Attributes:
        kind: "images", "features" or "copies" (of images of another machine of a Ray cluster).
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
    entries = [*_decoded_entries(folder or cache_folder()), *features, *_copies(folder)]
    return sorted(entries, key=lambda entry: entry.last_used, reverse=True)


def clear_cache(folder: Path | None = None) -> int:
    """Remove all entries except those that are being written or in use. Return the number of bytes removed."""
    folder = folder or cache_folder()
    before = sum(entry.n_bytes for entry in list_cache_entries(folder))
    FeatureCache(folder).clear()
    FileCopies(folder).clear()
    for usage in list_stores(folder / "decoded"):
        remove_store(usage.store)
    return before - sum(entry.n_bytes for entry in list_cache_entries(folder))


def _decoded_entries(folder: Path) -> Iterator[CacheListing]:
    for usage in list_stores(folder / "decoded"):
        what = f"decoded, {usage.store.image_size} pixels, {usage.fit}"
        yield CacheListing("images", what, usage.n_images, usage.n_bytes, usage.last_used)


def _copies(folder: Path | None) -> Iterator[CacheListing]:
    for copy in FileCopies(folder).entries():
        try:
            n_images, size, _ = map_array(copy.path).shape
        except (OSError, ValueError):
            n_images, size = 0, 0  # damaged; it is written again before it is used
        yield CacheListing("copies", f"copied from another machine, {size} pixels", n_images, copy.n_bytes, copy.last_used)
