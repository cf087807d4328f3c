"""The cache of decoded images: one array on disk for each data set and image size, memory-mapped by every process.

    <cache folder>/decoded/indexes/<signature>.json       contents key and unreadable files for a set of files, and the
                                                          versions of the decoders that could not read them
    <cache folder>/decoded/arrays/<contents>/images.npy   uint8 (n, size, size)
                                             sizes.npy    int32 (n, 2): height and width before the resize
                                             hashes.npy   uint8 (n, 32): SHA-256 of the content of each file
    <cache folder>/decoded/partial-<signature>/           being written; never read

The signature is a digest of the paths, sizes and times of the files. If its index exists, the array is mapped and no image is
opened. Otherwise each file is read once, hashed and decoded, and the array is stored under a digest of the contents, so that
copied or touched files do not need a second array. Unreadable files are tried again with other decoders, and files for which
memory was short at every call. The folder may be deleted at any time.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from filelock import BaseFileLock, FileLock

from automl_cxr.cache_folder import CACHE_VARIABLE, cache_folder
from automl_cxr.data.arrays import split_row
from automl_cxr.data.content_hashes import HASH_BYTES, digest_of_files
from automl_cxr.data.decode import (
    DECODER_VERSION,
    DEFAULT_FIT,
    READ_FAILURES,
    check_fit,
    decode_content,
    decoder_versions,
    decoder_warnings_off,
    describe_read_failure,
    fit_square,
    read_image_file,
)
from automl_cxr.data.npy_io import is_complete_array, sync, write_header
from automl_cxr.errors import DataError, ImageMemoryError, UnreadableImageError, UsageError
from automl_cxr.hardware import n_usable_cores
from automl_cxr.io import DISK_FULL, atomic_write
from automl_cxr.text_records import parse_json

SIZE_RANGE = (8, 4096)
_HEX_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class DecodedImages:
    """The location of a data set's decoded pixels. It contains no pixels, so that it can be sent to other processes.

    Attributes:
        path: A .npy file, uint8 (n, size, size).
        ids: The readable images in the requested order; row i of the array is image ids[i].
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

    def open(self) -> np.ndarray:
        """Map the pixels into memory: uint8 (n, size, size), read-only, shared by all processes."""
        pixels: np.ndarray = np.load(self.path, mmap_mode="r", allow_pickle=False)
        return pixels


@dataclass(frozen=True)
class _Request:
    """The images to decode, the parameters, and the folder for the result."""

    folder: Path
    root: Path
    image_ids: tuple[str, ...]
    image_size: int
    fit: str

    @cached_property
    def signature(self) -> str:
        """Hash the paths, sizes and times of the files; it changes whenever the contents of a file change.

        The change time is included, because copying and unpacking tools set the modification time arbitrarily.
        """
        hasher = hashlib.sha256(f"{DECODER_VERSION} {self.image_size} {self.fit} {os.path.abspath(self.root)}".encode())
        for image_id in self.image_ids:
            try:
                status = os.stat(split_row(os.path.join(self.root, image_id))[0])
                state = f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"
            except OSError as error:
                state = f"error {error.errno}"
            hasher.update(os.fsencode(f"\0{image_id}\0{state}"))
        return hasher.hexdigest()

    @property
    def index_path(self) -> Path:
        return self.folder / "indexes" / f"{self.signature}.json"

    def lock(self, name: str) -> BaseFileLock:
        return FileLock(self.folder / "locks" / f"{name}.lock")


@dataclass(frozen=True)
class _Decoded:
    """The result of reading one file: pixels, or the reason why it cannot be read."""

    file_hash: str
    pixels: np.ndarray | None
    original_size: tuple[int, int]
    reason: str
    is_permanent: bool  # False for errors that may disappear without a change of the file's status, such as a lack of memory


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
    """Return the decoded images of a data set, and decode them if they are not cached.

    If two processes request the same images at once, the second one waits and the images are decoded once.

    Args:
        root: Folder that the ids are relative to.
        image_ids: Paths of the images or rows of arrays, without repetition, in the order of the array.
        image_size: Height and width of the decoded images in pixels, from 8 to 4096.
        fit: How an image is fitted to a square, a name in ``decode.FITS``.
        folder: The cache folder; by default ``cache_folder()``.
        on_progress: Called in the calling thread with (images decoded, all images), only if images have to be decoded.
        n_workers: Number of decoding threads; by default one for each usable core.

    Raises:
        UsageError: The size is out of range, or there is no such fit.
        DataError: No image can be read, or the cache folder cannot be written.
    """
    if not SIZE_RANGE[0] <= image_size <= SIZE_RANGE[1]:
        raise UsageError(f"image_size must be from {SIZE_RANGE[0]} to {SIZE_RANGE[1]}; received {image_size}.")
    if not image_ids:
        raise DataError("There must be at least one image to decode; received none. Check the data set.")
    decoded = Path(os.path.abspath(folder or cache_folder())) / "decoded"
    request = _Request(decoded, Path(root), tuple(image_ids), image_size, check_fit(fit))
    cached = _open_indexed(request)
    if cached is not None:
        return cached
    try:
        for name in ("indexes", "arrays", "locks"):
            (decoded / name).mkdir(parents=True, exist_ok=True)
        with request.lock(request.signature):
            return _open_indexed(request) or _decode_into_cache(request, on_progress, n_workers or n_usable_cores())
    except OSError as error:
        raise DataError(_explain_write_failure(error, decoded.parent)) from error


def _explain_write_failure(error: OSError, folder: Path) -> str:
    problem = "has no space left" if error.errno in DISK_FULL else f"cannot be written ({error.strerror or error})"
    return (
        f"Decoded images need a writable cache folder with free space; '{folder}' {problem}. "
        f"Free some space, or set {CACHE_VARIABLE} to another folder."
    )


# Reading


def _open_indexed(request: _Request) -> DecodedImages | None:
    """Open the array of an earlier call; None if there is none or it is damaged."""
    try:
        index = parse_json(request.index_path.read_bytes())
        contents, digest, unreadable = index["contents"], index["digest"], index["unreadable"]
        is_valid = _HEX_DIGEST.fullmatch(contents) and _HEX_DIGEST.fullmatch(digest)
        is_valid = is_valid and unreadable.keys() <= set(request.image_ids)
        is_outdated = bool(unreadable) and index["decoders"] != decoder_versions()
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return _open_array(request, contents, digest, unreadable) if is_valid and not is_outdated else None


def _open_array(request: _Request, contents: str, digest: str, unreadable: Mapping[str, str]) -> DecodedImages | None:
    ids = tuple(image_id for image_id in request.image_ids if image_id not in unreadable)
    images = request.folder / "arrays" / contents / "images.npy"
    sizes, hashes = images.with_name("sizes.npy"), images.with_name("hashes.npy")
    if not is_complete_array(images, (len(ids), request.image_size, request.image_size), np.uint8):
        return None
    if not is_complete_array(sizes, (len(ids), 2), np.int32) or not is_complete_array(hashes, (len(ids), HASH_BYTES), np.uint8):
        return None
    with contextlib.suppress(OSError):  # the cache may be read-only
        os.utime(images.parent)  # marks the last use
    original_sizes, content_hashes = (np.load(file, allow_pickle=False) for file in (sizes, hashes))
    return DecodedImages(images, ids, dict(unreadable), digest, original_sizes, content_hashes)


# Writing


def _decode_into_cache(request: _Request, on_progress: Callable[[int, int], None] | None, n_threads: int) -> DecodedImages:
    """Decode all images into a partial folder, rename it, and only then write the index."""
    partial = request.folder / f"partial-{request.signature}"
    shutil.rmtree(partial, ignore_errors=True)  # left by a killed process, because this process holds the lock
    try:
        partial.mkdir()
        file_hashes, unreadable, is_permanent = _write_arrays(partial, request, on_progress, n_threads)
        if len(unreadable) == len(request.image_ids):
            raise DataError(_explain_none_readable(unreadable, request.root))
        digest = digest_of_files(file_hashes)
        readable = [file_hash for image_id, file_hash in file_hashes.items() if image_id not in unreadable]
        contents = _hash_all([DECODER_VERSION, str(request.image_size), request.fit, *readable])
        with request.lock(contents):
            ready = _open_array(request, contents, digest, unreadable)
            if ready is None:
                shutil.rmtree(request.folder / "arrays" / contents, ignore_errors=True)
                os.replace(partial, request.folder / "arrays" / contents)
                ready = _open_array(request, contents, digest, unreadable)
        if ready is None:
            raise OSError(errno.EIO, "the written arrays cannot be read")
        if is_permanent:
            index = {"contents": contents, "digest": digest, "unreadable": unreadable, "decoders": decoder_versions()}
            with atomic_write(request.index_path) as file:
                file.write(json.dumps(index).encode())
        return ready
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _hash_all(parts: Sequence[str]) -> str:
    return hashlib.sha256(os.fsencode("\0".join(parts))).hexdigest()


def _explain_none_readable(unreadable: Mapping[str, str], root: Path) -> str:
    first = "; ".join(f"'{image_id}': {reason}" for image_id, reason in list(unreadable.items())[:3])
    return f"A data set needs readable images; all {len(unreadable)} in '{root}' are unreadable ({first}). Replace the files."


def _write_arrays(
    partial: Path, request: _Request, on_progress: Callable[[int, int], None] | None, n_threads: int
) -> tuple[dict[str, str], dict[str, str], bool]:
    """Write images.npy, sizes.npy and hashes.npy of the readable images.

    Returns:
        The hash of every file by image id; the reason for each unreadable file; whether all reasons are permanent.
    """
    n_images = len(request.image_ids)
    file_hashes: dict[str, str] = {}
    unreadable: dict[str, str] = {}
    sizes: list[tuple[int, int]] = []
    is_permanent = True
    with open(partial / "images.npy", "wb") as file, closing(_decode_in_threads(request, n_threads)) as results:
        write_header(file, (n_images, request.image_size, request.image_size), np.uint8)
        for image_id, decoded in results:
            file_hashes[image_id] = decoded.file_hash
            if decoded.pixels is None:
                unreadable[image_id] = decoded.reason
                is_permanent = is_permanent and decoded.is_permanent
            else:
                sizes.append(decoded.original_size)
                file.write(decoded.pixels.tobytes())
            if on_progress is not None:
                on_progress(len(file_hashes), n_images)
        file.seek(0)
        write_header(file, (len(sizes), request.image_size, request.image_size), np.uint8)
        sync(file)
    with open(partial / "sizes.npy", "wb") as file:
        np.save(file, np.array(sizes, np.int32).reshape(-1, 2), allow_pickle=False)
        sync(file)
    readable = "".join(file_hash for image_id, file_hash in file_hashes.items() if image_id not in unreadable)
    with open(partial / "hashes.npy", "wb") as file:
        np.save(file, np.frombuffer(bytes.fromhex(readable), np.uint8).reshape(-1, HASH_BYTES), allow_pickle=False)
        sync(file)
    return file_hashes, unreadable, is_permanent


# Decoding


def _decode_in_threads(request: _Request, n_threads: int) -> Generator[tuple[str, _Decoded], None, None]:
    """Decode in parallel and yield in order, with at most four images in memory for each worker.

    Threads are used because Pillow and hashlib release the interpreter's lock: two threads took 0.6 s for 910 radiographs of
    320 pixels and 0.9 s for 40 of 1500, two spawned processes 0.8 s and 1.5 s.
    """
    pending: deque[tuple[str, Future[_Decoded]]] = deque()
    with decoder_warnings_off(), ThreadPoolExecutor(n_threads, thread_name_prefix="decode") as pool:
        try:
            for image_id in request.image_ids:
                path = request.root / image_id
                pending.append((image_id, pool.submit(_decode_one, path, request.image_size, request.fit)))
                if len(pending) >= 4 * n_threads:
                    first, future = pending.popleft()
                    yield first, future.result()
            while pending:
                first, future = pending.popleft()
                yield first, future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _decode_one(path: Path, image_size: int, fit: str) -> _Decoded:
    try:
        content = read_image_file(path)
    except UnreadableImageError as error:
        return _unreadable(str(error), str(error))
    except OSError as error:
        return _unreadable(describe_read_failure(error), "", is_permanent=error.errno in READ_FAILURES)
    file_hash = hashlib.sha256(content).hexdigest()
    try:
        image = decode_content(content)
    except UnreadableImageError as error:
        return _unreadable(str(error), file_hash, is_permanent=not isinstance(error, ImageMemoryError))
    height, width = image.shape
    return _Decoded(file_hash, fit_square(image, image_size, fit), (height, width), reason="", is_permanent=True)


def _unreadable(reason: str, file_hash: str, *, is_permanent: bool = True) -> _Decoded:
    return _Decoded(file_hash, None, (0, 0), reason, is_permanent)
