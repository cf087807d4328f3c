"""The disk space of decoded images: its limit, and removal of the image stores that were not used for the longest time."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from automl_cxr.data.cache_limits import cache_limit
from automl_cxr.data.image_rows import PIXELS_NAME
from automl_cxr.data.image_store import ImageStore
from automl_cxr.errors import DataError

IMAGE_LIMIT_VARIABLE = "AUTOML_CXR_IMAGE_LIMIT"
_SHARE_OF_FREE_DISK = 0.5
_STORE_NAME = re.compile(r"(\d+)-(\w+)-v\w+")


@dataclass(frozen=True)
class StoreUsage:
    """An image store on the disk.

    Attributes:
        store: The store.
        fit: How its images are fitted to a square.
        n_images: Number of images.
        n_bytes: Size of its files in bytes.
        last_used: Seconds since 1970.
    """

    store: ImageStore
    fit: str
    n_images: int
    n_bytes: int
    last_used: float


def store_name(image_size: int, fit: str, version: str) -> str:
    """Return the name of the folder of a store."""
    return f"{image_size}-{fit}-v{version}"


def list_stores(decoded: Path) -> list[StoreUsage]:
    """List the image stores in a folder, the most recently used first. Other folders are ignored."""
    return sorted(_stores(decoded), key=lambda usage: usage.last_used, reverse=True)


def _stores(decoded: Path) -> Iterator[StoreUsage]:
    for folder in decoded.glob("*"):
        match = _STORE_NAME.fullmatch(folder.name)
        if match is not None and folder.is_dir():
            with contextlib.suppress(OSError):  # another process is removing it
                store = ImageStore(folder, int(match[1]))
                n_bytes = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
                n_images = (folder / PIXELS_NAME).stat().st_size // store.row_bytes
                yield StoreUsage(store, match[2], n_images, n_bytes, folder.stat().st_mtime)


def image_limit(decoded: Path) -> int:
    """Return the largest size of all decoded images together, in bytes.

    It is the value of AUTOML_CXR_IMAGE_LIMIT (such as "50GB"), else half of the space that is free on the disk or used by
    decoded images.

    Args:
        decoded: Folder of the stores.

    Raises:
        UsageError: The environment variable is not a size.
    """
    used = sum(usage.n_bytes for usage in _stores(decoded))
    return cache_limit(decoded, variable=IMAGE_LIMIT_VARIABLE, share=_SHARE_OF_FREE_DISK, used=used)


def free_image_space(store: ImageStore, n_bytes: int) -> None:
    """Remove the least recently used stores until ``n_bytes`` more fit into the limit, except those that are in use.

    Args:
        store: The store to which images will be appended.
        n_bytes: Size of these images in bytes.

    Raises:
        UsageError: The limit in the environment is not a size.
        DataError: They do not fit.
    """
    decoded = store.folder.parent
    with FileLock(decoded / "locks" / "space.lock"):  # one process at a time measures the used space
        limit, used = image_limit(decoded), sum(usage.n_bytes for usage in _stores(decoded))
        for usage in reversed(list_stores(decoded)):
            if used + n_bytes <= limit or n_bytes > limit:
                break
            if usage.store.folder != store.folder and remove_store(usage.store):
                used -= usage.n_bytes
    if used + n_bytes > limit:
        raise DataError(
            f"Decoded images must fit into the cache's limit of {limit / 1e9:.1f} GB; these take up to {n_bytes / 1e9:.1f} GB, "
            f"and those of this size or in use take {used / 1e9:.1f} GB. Remove cached images with `automl-cxr cache clear`, "
            f"set {IMAGE_LIMIT_VARIABLE} to a larger size, or choose a smaller image size."
        )


def remove_store(store: ImageStore) -> bool:
    """Remove a store that no process is writing or using. Return whether it was removed."""
    with contextlib.suppress(Timeout, OSError), store.lock().acquire(blocking=False):
        return store.remove()
    return False
