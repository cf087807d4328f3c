"""The cache of decoded images: each image is decoded once for an image size and fit, and mapped into memory by every process.

    <cache folder>/decoded/<size>-<fit>-v<version>/       one append-only store for all data sets (``image_store.py``)
                                         selections/      the rows of a data set in the store (``image_rows.py``)
                           locks/                         one for each store, held while images are decoded into it

A data set is a list of rows of the store. Another split, seed or choice of classes selects other rows and decodes nothing. A
file whose status has not changed is not read. Otherwise it is hashed, and it is decoded only if its content is new. Unreadable
files are tried again with other decoders, and files for which memory was short at every call. Images are stored in blocks while
they are decoded, so after a kill only the last block is decoded again. The folder may be deleted at any time.
"""

from __future__ import annotations

import errno
import hashlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from automl_cxr.cache_folder import CACHE_VARIABLE, cache_folder
from automl_cxr.data.content_hashes import digest_of_files
from automl_cxr.data.decode import DECODER_VERSION, DEFAULT_FIT, check_fit, decoder_versions
from automl_cxr.data.decoding_threads import DecodedFile, decode_in_threads
from automl_cxr.data.file_states import hash_states
from automl_cxr.data.image_rows import ImageArray, open_images, save_selection
from automl_cxr.data.image_space import free_image_space, store_name
from automl_cxr.data.image_store import PIXEL_HASH_BYTES, ImageStore, StoredFile, StoreIndex, UnreadableFile
from automl_cxr.errors import DataError, UsageError
from automl_cxr.hardware import n_usable_cores
from automl_cxr.io import DISK_FULL

SIZE_RANGE = (8, 4096)
_BLOCK_BYTES = 16 * 2**20
BLOCK_FILES = 256
_BLOCK_SECONDS = 10.0


@dataclass(frozen=True)
class DecodedImages:
    """The location of a data set's decoded pixels. It contains no pixels, so that it can be sent to other processes.

    Attributes:
        path: File for ``image_rows.open_images``; row i is image ids[i].
        ids: The readable images in the requested order.
        unreadable: Image id to reason.
        digest: SHA-256 in hex of the ids and contents of all files. It does not depend on image size and fit.
        original_sizes: int32 (n, 2), height and width of each readable image before it was resized.
        content_hashes: uint8 (n, 32), SHA-256 of the content of each readable image.
    """

    path: Path
    ids: tuple[str, ...]
    unreadable: Mapping[str, str]
    digest: str
    original_sizes: np.ndarray = field(compare=False, repr=False)
    content_hashes: np.ndarray = field(compare=False, repr=False)

    def open(self) -> ImageArray:
        """Map the pixels into memory: uint8 (n, size, size), read-only, shared by all processes."""
        return open_images(self.path)


@dataclass(frozen=True)
class _Request:
    """The images to decode, and the store for them.

    Attributes:
        root: Folder that the ids are relative to.
        states: State of each file by image id (``file_states.hash_states``).
        fit: How an image is fitted to a square.
        store: The store.
        decoders: Versions of the installed decoders.
    """

    root: Path
    states: Mapping[str, bytes]
    fit: str
    store: ImageStore
    decoders: Mapping[str, str]

    def missing(self, index: StoreIndex) -> list[str]:
        """Return the images of which the index has neither pixels nor the reason why there are none."""
        known, unreadable = index.by_state, index.unreadable
        return [image_id for image_id, state in self.states.items() if state not in known and state not in unreadable]


def decode_dataset(
    root: Path,
    image_ids: Sequence[str],
    image_size: int,
    *,
    fit: str = DEFAULT_FIT,
    folder: Path | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    n_workers: int | None = None,
) -> DecodedImages:
    """Return the decoded images of a data set, and decode those that are not cached.

    One process at a time decodes images of a size and fit. If two processes request the same images at once, the second one
    waits and each image is decoded once.

    Args:
        root: Folder that the ids are relative to.
        image_ids: Paths of the images or rows of arrays, without repetition, in the order of the result.
        image_size: Height and width of the decoded images in pixels, from 8 to 4096.
        fit: How an image is fitted to a square, a name in ``decode.FITS``.
        folder: The cache folder; by default ``cache_folder()``.
        on_progress: Called in the calling thread with (files that were read, all files to read), only if there are any.
        n_workers: Number of decoding threads; by default one for each usable core.

    Raises:
        UsageError: The size is out of range, or there is no such fit, or the limit of the cache is not a size.
        DataError: No image can be read, or they exceed the limit of the cache, or its folder cannot be written.
    """
    if not SIZE_RANGE[0] <= image_size <= SIZE_RANGE[1]:
        raise UsageError(f"image_size must be from {SIZE_RANGE[0]} to {SIZE_RANGE[1]}; received {image_size}.")
    if not image_ids:
        raise DataError("There must be at least one image to decode; received none. Check the data set.")
    decoded = Path(os.path.abspath(folder or cache_folder())) / "decoded"
    store = ImageStore(decoded / store_name(image_size, check_fit(fit), DECODER_VERSION), image_size)
    states = dict(zip(image_ids, hash_states(root, image_ids), strict=True))
    request = _Request(Path(root), states, fit, store, decoder_versions())
    try:
        index = store.read_index(request.decoders)
        if not request.missing(index):
            return _select(request, index)
        with store.lock():
            return _decode_missing(request, on_progress, n_workers or n_usable_cores())
    except OSError as error:
        raise DataError(_explain_write_failure(error, decoded.parent)) from error


def _explain_write_failure(error: OSError, folder: Path) -> str:
    problem = "has no space left" if error.errno in DISK_FULL else f"cannot be written ({error.strerror or error})"
    return (
        f"Decoded images need a writable cache folder with free space; '{folder}' {problem}. "
        f"Free some space, or set {CACHE_VARIABLE} to another folder."
    )


def _select(
    request: _Request, index: StoreIndex, unreadable_now: Mapping[bytes, UnreadableFile] | None = None
) -> DecodedImages:
    """Write the rows of the requested images, which are all known.

    Args:
        request: The request.
        index: The known files.
        unreadable_now: Files that cannot be read now, by state, which are not stored.
    """
    unreadable_by_state = {**index.unreadable, **(unreadable_now or {})}
    positions = {image: index.by_state[state] for image, state in request.states.items() if state in index.by_state}
    unreadable = {image: unreadable_by_state[state] for image, state in request.states.items() if image not in positions}
    reasons = {image: file.reason for image, file in unreadable.items()}
    if not positions:
        raise DataError(_explain_none_readable(reasons, request.root))
    records = index.records[list(positions.values())]
    contents = np.ascontiguousarray(records["content"])
    identities = dict(zip(positions, (content.tobytes().hex() for content in contents), strict=True))
    identities |= {image: file.identity for image, file in unreadable.items()}
    request.store.mark_used()
    return DecodedImages(
        path=save_selection(
            request.store.folder, np.ascontiguousarray(records["row"]), records["pixels"], request.store.image_size
        ),
        ids=tuple(positions),
        unreadable=reasons,
        digest=digest_of_files({image: identities[image] for image in request.states}),
        original_sizes=np.ascontiguousarray(records["size"]),
        content_hashes=contents,
    )


def _explain_none_readable(unreadable: Mapping[str, str], root: Path) -> str:
    first = "; ".join(f"'{image_id}': {reason}" for image_id, reason in list(unreadable.items())[:3])
    return f"A data set needs readable images; all {len(unreadable)} in '{root}' are unreadable ({first}). Replace the files."


def _decode_missing(request: _Request, on_progress: Callable[[int, int], None] | None, n_threads: int) -> DecodedImages:
    """Decode the images that are not in the store, which is locked, and select all requested images."""
    store = request.store
    if store.is_damaged:
        store.clear()
    index = store.read_index(request.decoders)
    missing = request.missing(index)  # another process may have decoded them meanwhile
    if not missing:
        return _select(request, index)
    free_image_space(store, len(missing) * store.row_bytes)
    block = _Block(request, index.by_content())
    decoded = decode_in_threads(request.root, missing, store.image_size, request.fit, known=block.stored, n_threads=n_threads)
    try:
        with closing(decoded) as files:
            for n_done, (image_id, file) in enumerate(files, start=1):
                block.add(request.states[image_id], file)
                if on_progress is not None:
                    on_progress(n_done, len(missing))
    finally:
        block.flush()
    index = store.read_index(request.decoders)
    if {request.states[image_id] for image_id in request.missing(index)} - block.unreadable_now.keys():
        raise OSError(errno.EIO, "the written images cannot be read")
    return _select(request, index, block.unreadable_now)


class _Block:
    """The files that were read since the last flush.

    Attributes:
        stored: A record of each content in the store.
        unreadable_now: Files that cannot be read now, by state, but may be readable at the next call.
    """

    def __init__(self, request: _Request, stored: dict[bytes, np.void]) -> None:
        self.stored = stored
        self.unreadable_now: dict[bytes, UnreadableFile] = {}
        self._request = request
        self._n_max = max(1, min(BLOCK_FILES, _BLOCK_BYTES // request.store.row_bytes))
        self._clear()

    def _clear(self) -> None:
        self._files: list[StoredFile] = []
        self._unreadable: dict[bytes, UnreadableFile] = {}
        self._started = time.monotonic()

    def add(self, state: bytes, file: DecodedFile) -> None:
        """Add a file, and flush the block if it is full."""
        if file.unreadable is None:
            self._files.append(_as_stored(state, file))
        elif file.is_permanent:
            self._unreadable[state] = file.unreadable
        else:
            self.unreadable_now[state] = file.unreadable
        n_files = len(self._files) + len(self._unreadable)
        if n_files >= self._n_max or time.monotonic() - self._started >= _BLOCK_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Store the files."""
        files, unreadable = self._files, self._unreadable
        self._clear()  # also if writing fails, so that it is not tried again
        if files:
            self._request.store.append(files, self.stored)
        if unreadable:
            self._request.store.append_unreadable(unreadable, self._request.decoders)


def _as_stored(state: bytes, file: DecodedFile) -> StoredFile:
    if file.pixels is None:
        return StoredFile(state, file.content)
    pixel_hash = hashlib.blake2b(file.pixels.tobytes(), digest_size=PIXEL_HASH_BYTES).digest()
    return StoredFile(state, file.content, file.pixels, pixel_hash, file.size)
