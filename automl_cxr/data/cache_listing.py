"""Listing and clearing of the cache folder: decoded images, features, copies and compiled functions."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from automl_cxr.cache_folder import cache_folder
from automl_cxr.data.feature_cache import FeatureCache
from automl_cxr.data.feature_table import TABLES_NAME
from automl_cxr.data.image_space import list_stores, remove_store
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
    entries = [*_decoded_entries(folder), *features, *_tables(folder), *_copies(folder), *_compiled_entries(folder)]
    return sorted(entries, key=lambda entry: entry.last_used, reverse=True)


def clear_cache(folder: Path | None = None) -> int:
    """Remove all entries except those that are being written or in use. Return the number of bytes removed."""
    folder = folder or cache_folder()
    before = sum(entry.n_bytes for entry in list_cache_entries(folder))
    FeatureCache(folder).clear()
    FileCopies(folder).clear()
    for entry in (folder / "compiled").glob("*"):
        shutil.rmtree(entry, ignore_errors=True)
    for file in (folder / TABLES_NAME).glob("*.npy"):
        file.unlink(missing_ok=True)
    for usage in list_stores(folder / "decoded"):
        remove_store(usage.store)
    return before - sum(entry.n_bytes for entry in list_cache_entries(folder))


def _decoded_entries(folder: Path) -> Iterator[CacheListing]:
    for usage in list_stores(folder / "decoded"):
        what = f"decoded, {usage.store.image_size} pixels, {usage.fit}"
        yield CacheListing("images", what, usage.n_images, usage.n_bytes, usage.last_used)


def _tables(folder: Path) -> Iterator[CacheListing]:
    for file in (folder / TABLES_NAME).glob("*.npy"):
        with contextlib.suppress(OSError, ValueError):  # another process is removing the file
            n_images, n_features = map_array(file).shape
            state = file.stat()
            what = f"rows of a table, {n_features} features"
            yield CacheListing("features", what, n_images, state.st_size, max(state.st_atime, state.st_mtime))


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
