"""All images of a data set, decoded once into one array on disk that every process maps into its memory.

    <cache folder>/decoded/indexes/<signature>.json       what a set of files (paths, sizes, times) turned out to be
    <cache folder>/decoded/arrays/<contents>/images.npy   uint8 (n, size, size)
                                             sizes.npy    int32 (n, 2): height and width before the resize
    <cache folder>/decoded/partial-<signature>/           being written; never read

A start looks at each file's status, finds the index by the signature and maps the array: no image is opened. A new
signature reads each file once, hashes and decodes the same bytes, and ends in an array named by the contents, so that a
copy or a touched file costs no second array. The folder may be deleted at any time.
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
from typing import BinaryIO

import numpy as np
import platformdirs
from filelock import BaseFileLock, FileLock

from automl_cxr.data.arrays import split_row
from automl_cxr.data.decode import (
    DECODER_VERSION,
    DEFAULT_FIT,
    READ_FAILURES,
    check_fit,
    decode_content,
    decoder_warnings_off,
    describe_read_failure,
    fit_square,
    read_image_file,
)
from automl_cxr.data.npy_io import is_whole_array, sync
from automl_cxr.errors import DataError, UnreadableImageError, UsageError
from automl_cxr.hardware import n_usable_cores

CACHE_VARIABLE = "AUTOML_CXR_CACHE"
SIZE_RANGE = (8, 4096)
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_HEX_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class DecodedImages:
    """Where the decoded pixels of a data set are. Holds no pixels, so it may be sent to other processes.

    Attributes:
        path: A .npy file, uint8 (n, size, size).
        ids: The readable images, in the order they were asked for; row i of the array is image ids[i].
        unreadable: Image id to reason.
        digest: SHA-256 in hex over the ids and the contents of all files, at whatever image size and fit.
        original_sizes: int32 (n, 2), height and width of each readable image before it was resized.
    """

    path: Path
    ids: tuple[str, ...]
    unreadable: Mapping[str, str]
    digest: str
    original_sizes: np.ndarray = field(compare=False, repr=False)

    def open(self) -> np.ndarray:
        """Map the pixels: uint8 (n, size, size), read-only, shared by all processes that open it."""
        pixels: np.ndarray = np.load(self.path, mmap_mode="r", allow_pickle=False)
        return pixels


@dataclass(frozen=True)
class _Request:
    """What is to be decoded, where to, and the name that the files' status gives it."""

    place: Path
    root: Path
    image_ids: tuple[str, ...]
    image_size: int
    fit: str

    @cached_property
    def signature(self) -> str:
        """Hash what the file system says of the files; a change to any content changes it.

        The change time is in it as well as the modification time, which copying and unpacking tools set as they like.
        """
        hasher = hashlib.sha256(f"{DECODER_VERSION} {self.image_size} {self.fit} {os.path.abspath(self.root)}".encode())
        for image_id in self.image_ids:
            try:
                status = os.stat(split_row(os.path.join(self.root, image_id))[0])
                told = f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"
            except OSError as error:
                told = f"error {error.errno}"
            hasher.update(os.fsencode(f"\0{image_id}\0{told}"))
        return hasher.hexdigest()

    @property
    def index_path(self) -> Path:
        return self.place / "indexes" / f"{self.signature}.json"

    def lock(self, name: str) -> BaseFileLock:
        return FileLock(self.place / "locks" / f"{name}.lock")


@dataclass(frozen=True)
class _Decoded:
    """One file after its only reading: pixels, or the reason why there are none."""

    file_hash: str
    pixels: np.ndarray | None
    original_size: tuple[int, int]
    reason: str
    is_lasting: bool  # False: the system failed for a reason that the file's status will not show to have passed


def cache_folder() -> Path:
    """Name the folder for what can be computed again: ``AUTOML_CXR_CACHE``, else the platform's place."""
    chosen = os.environ.get(CACHE_VARIABLE)
    return Path(chosen).expanduser() if chosen else platformdirs.user_cache_path("automl_cxr")


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
    """Give the decoded images of a data set, from the cache where it has them.

    Two processes that ask for the same at once decode once: the second waits for the first.

    Args:
        root: Folder that the ids are relative to.
        image_ids: Paths of the images or rows of arrays, each once; their order is the array's.
        image_size: Height and width of the decoded images in pixels, from 8 to 4096.
        fit: How an image meets its square, a name in ``decode.FITS``.
        folder: The cache folder; by default ``cache_folder()``.
        on_progress: Called in this thread with images done and images in all, only if there is anything to decode.
        n_workers: Threads to decode in; by default one for each usable core.

    Raises:
        UsageError: The size is out of range, or there is no such fit.
        DataError: No image can be read, or the cache folder cannot be written.
    """
    if not SIZE_RANGE[0] <= image_size <= SIZE_RANGE[1]:
        raise UsageError(f"image_size must be from {SIZE_RANGE[0]} to {SIZE_RANGE[1]}; received {image_size}.")
    if not image_ids:
        raise DataError("There must be at least one image to decode; received none. Check the data set.")
    place = Path(os.path.abspath(folder or cache_folder())) / "decoded"
    request = _Request(place, Path(root), tuple(image_ids), image_size, check_fit(fit))
    ready = _open_indexed(request)
    if ready is not None:
        return ready
    try:
        for name in ("indexes", "arrays", "locks"):
            (place / name).mkdir(parents=True, exist_ok=True)
        with request.lock(request.signature):
            return _open_indexed(request) or _decode_into_cache(request, on_progress, n_workers or n_usable_cores())
    except OSError as error:
        raise DataError(_explain_write_failure(error, place.parent)) from error


def _explain_write_failure(error: OSError, folder: Path) -> str:
    problem = "has no room left" if error.errno in _NO_ROOM else f"cannot be written ({error.strerror or error})"
    return (
        f"Decoded images need a cache folder with room; '{folder}' {problem}. "
        f"Make room, or set {CACHE_VARIABLE} to another folder."
    )


# Reading


def _open_indexed(request: _Request) -> DecodedImages | None:
    """Open what an earlier call left, or None where it left nothing that is whole."""
    try:
        index = json.loads(request.index_path.read_bytes())
        contents, digest, unreadable = index["contents"], index["digest"], index["unreadable"]
        is_sound = _HEX_DIGEST.fullmatch(contents) and _HEX_DIGEST.fullmatch(digest)
        is_sound = is_sound and unreadable.keys() <= set(request.image_ids)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return _open_array(request, contents, digest, unreadable) if is_sound else None


def _open_array(request: _Request, contents: str, digest: str, unreadable: Mapping[str, str]) -> DecodedImages | None:
    ids = tuple(image_id for image_id in request.image_ids if image_id not in unreadable)
    images = request.place / "arrays" / contents / "images.npy"
    sizes = images.with_name("sizes.npy")
    if not is_whole_array(images, (len(ids), request.image_size, request.image_size), np.uint8):
        return None
    if not is_whole_array(sizes, (len(ids), 2), np.int32):
        return None
    with contextlib.suppress(OSError):  # a cache that may only be read is used all the same
        os.utime(images.parent)  # shows when it was last used
    return DecodedImages(images, ids, dict(unreadable), digest, np.load(sizes, allow_pickle=False))


# Writing


def _decode_into_cache(request: _Request, on_progress: Callable[[int, int], None] | None, n_threads: int) -> DecodedImages:
    """Decode everything into a partial folder, move it to its name, and only then write the index."""
    partial = request.place / f"partial-{request.signature}"
    shutil.rmtree(partial, ignore_errors=True)  # we hold the lock: whoever left it is dead
    try:
        partial.mkdir()
        file_hashes, unreadable, is_lasting = _write_arrays(partial, request, on_progress, n_threads)
        if len(unreadable) == len(request.image_ids):
            raise DataError(_explain_none_readable(unreadable, request.root))
        digest = _hash_all([part for pair in file_hashes.items() for part in pair])
        readable = [file_hash for image_id, file_hash in file_hashes.items() if image_id not in unreadable]
        contents = _hash_all([DECODER_VERSION, str(request.image_size), request.fit, *readable])
        with request.lock(contents):
            ready = _open_array(request, contents, digest, unreadable)
            if ready is None:
                shutil.rmtree(request.place / "arrays" / contents, ignore_errors=True)
                os.replace(partial, request.place / "arrays" / contents)
                ready = _open_array(request, contents, digest, unreadable)
        if ready is None:
            raise OSError(errno.EIO, "what was written does not read back")
        if is_lasting:
            partial.mkdir(exist_ok=True)  # the first one has become the array, unless that was there already
            index = {"contents": contents, "digest": digest, "unreadable": unreadable}
            _write_atomically(request.index_path, json.dumps(index).encode(), partial)
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
    """Write images.npy and sizes.npy of the readable images.

    Rows are appended to a plain file, not put into a writable memory map: on a full disk a write raises, whereas a map
    kills the process with SIGBUS.

    Returns:
        The hash of every file and the reasons of the unreadable ones, by image id; whether all reasons will last.
    """
    n_images = len(request.image_ids)
    file_hashes: dict[str, str] = {}
    unreadable: dict[str, str] = {}
    sizes: list[tuple[int, int]] = []
    is_lasting = True
    with open(partial / "images.npy", "wb") as file, closing(_decode_in_threads(request, n_threads)) as results:
        _write_header(file, n_images, request.image_size)
        for image_id, decoded in results:
            file_hashes[image_id] = decoded.file_hash
            if decoded.pixels is None:
                unreadable[image_id] = decoded.reason
                is_lasting = is_lasting and decoded.is_lasting
            else:
                sizes.append(decoded.original_size)
                file.write(decoded.pixels.tobytes())
            if on_progress is not None:
                on_progress(len(file_hashes), n_images)
        file.seek(0)
        _write_header(file, len(sizes), request.image_size)
        sync(file)
    with open(partial / "sizes.npy", "wb") as file:
        np.save(file, np.array(sizes, np.int32).reshape(-1, 2), allow_pickle=False)
        sync(file)
    return file_hashes, unreadable, is_lasting


def _write_header(file: BinaryIO, n_images: int, image_size: int) -> None:
    """Write a header that may be written again for fewer images: NumPy pads the first axis for just that."""
    shape = (n_images, image_size, image_size)
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})


def _write_atomically(path: Path, content: bytes, partial: Path) -> None:
    with open(partial / path.name, "wb") as file:
        file.write(content)
        sync(file)
    os.replace(partial / path.name, path)


# Decoding


def _decode_in_threads(request: _Request, n_threads: int) -> Generator[tuple[str, _Decoded], None, None]:
    """Decode in parallel and yield in order, holding no more than a few images for each worker.

    Threads, because Pillow and hashlib let go of the interpreter's lock: two of them took 0.6 s for 910 radiographs of
    320 pixels and 0.9 s for 40 of 1500, two spawned processes 0.8 s and 1.5 s.
    """
    waiting: deque[tuple[str, Future[_Decoded]]] = deque()
    with decoder_warnings_off(), ThreadPoolExecutor(n_threads, thread_name_prefix="decode") as pool:
        try:
            for image_id in request.image_ids:
                path = request.root / image_id
                waiting.append((image_id, pool.submit(_decode_one, path, request.image_size, request.fit)))
                if len(waiting) >= 4 * n_threads:
                    first, future = waiting.popleft()
                    yield first, future.result()
            while waiting:
                first, future = waiting.popleft()
                yield first, future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _decode_one(path: Path, image_size: int, fit: str) -> _Decoded:
    try:
        content = read_image_file(path)
    except UnreadableImageError as error:
        return _without_pixels(str(error), str(error))
    except OSError as error:
        return _without_pixels(describe_read_failure(error), "", is_lasting=error.errno in READ_FAILURES)
    file_hash = hashlib.sha256(content).hexdigest()
    try:
        image = decode_content(content)
    except UnreadableImageError as error:
        return _without_pixels(str(error), file_hash)
    height, width = image.shape
    return _Decoded(file_hash, fit_square(image, image_size, fit), (height, width), reason="", is_lasting=True)


def _without_pixels(reason: str, file_hash: str, *, is_lasting: bool = True) -> _Decoded:
    return _Decoded(file_hash, None, (0, 0), reason, is_lasting)
