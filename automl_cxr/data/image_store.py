"""The append-only store of decoded images of one image size and fit. An image is stored once for each content of a file.

    pixels.bin        uint8 (n, size, size)
    files.index       a record with a checksum for each known file: hash of its path and status, hash of its content, row and
                      hash of its pixels, size before the resize
    unreadable.lines  a JSON line with a checksum for each file that cannot be decoded

Data are appended in blocks, and only after the end of each file. The pixels of a block are flushed to disk before the records,
so a record always has its pixels. Records that a killed process has written in part have a wrong checksum and are ignored, and
rows without a record are not used again. Therefore a row never changes, and other processes may have it mapped. A store with
records of missing pixels was damaged by other programs; it is replaced by an empty one.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from filelock import BaseFileLock, FileLock

from automl_cxr.data.content_hashes import HASH_BYTES
from automl_cxr.data.image_rows import PIXELS_NAME, is_protected
from automl_cxr.text_records import parse_json_object

INDEX_NAME = "files.index"
_UNREADABLE_NAME = "unreadable.lines"
STATE_BYTES = 16
PIXEL_HASH_BYTES = 16
_VALUE = np.dtype(
    [
        ("state", "u1", STATE_BYTES),
        ("content", "u1", HASH_BYTES),
        ("pixels", "u1", PIXEL_HASH_BYTES),
        ("row", "<i8"),
        ("size", "<i4", 2),
    ]
)
_RECORD = np.dtype([("value", _VALUE), ("checksum", "<u4")])


@dataclass(frozen=True)
class StoredFile:
    """A known file whose image is stored, or will be.

    Attributes:
        state: Hash of its path and status, 16 bytes.
        content: SHA-256 of its content.
        pixels: The image, uint8 (size, size); None if an image with this content is stored already.
        pixel_hash: BLAKE2b of the pixels, 16 bytes; empty without pixels.
        size: Height and width before the resize.
    """

    state: bytes
    content: bytes
    pixels: np.ndarray | None = None
    pixel_hash: bytes = b""
    size: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class UnreadableFile:
    """A file that cannot be decoded.

    Attributes:
        reason: The reason.
        identity: Part of the digest of a data set: SHA-256 of the content in hex; if the content is not read, the reason or "".
    """

    reason: str
    identity: str


@dataclass(frozen=True, eq=False)
class StoreIndex:
    """The known files of a store at one time.

    Attributes:
        records: Structured array (n,): state, content, pixels (hash), row, size.
        unreadable: The files that the installed decoders cannot read, by state.
    """

    records: np.ndarray
    unreadable: Mapping[bytes, UnreadableFile]

    @cached_property
    def by_state(self) -> dict[bytes, int]:
        """Position of the record of each state."""
        return {state: position for position, state in enumerate(_split_hashes(self.records["state"]))}

    def by_content(self) -> dict[bytes, np.void]:
        """Return a record of each content."""
        return dict(zip(_split_hashes(self.records["content"]), self.records, strict=True))


class ImageStore:
    """A store in a folder. The object contains no images, and holds no locks between calls.

    Args:
        folder: Folder of the store, which is created by the first ``append``.
        image_size: Height and width of an image in pixels.
    """

    def __init__(self, folder: Path, image_size: int) -> None:
        self.folder = folder
        self.image_size = image_size
        self.row_bytes = image_size**2
        self._pixels = folder / PIXELS_NAME
        self._index = folder / INDEX_NAME
        self._unreadable = folder / _UNREADABLE_NAME

    def lock(self) -> BaseFileLock:
        """Return the lock of a process that reads missing files and appends them, or removes the store."""
        locks = self.folder.parent / "locks"
        locks.mkdir(parents=True, exist_ok=True)
        return FileLock(locks / f"{self.folder.name}.lock")

    @property
    def is_damaged(self) -> bool:
        """Whether records have no pixels, or pixels no records."""
        records = self._read_records()
        n_rows = _file_size(self._pixels) // self.row_bytes
        return int(records["row"].max(initial=-1)) >= n_rows or (n_rows > 0 and not len(records))

    def read_index(self, decoders: Mapping[str, str]) -> StoreIndex:
        """Read the known files. Another process may append files at the same time.

        Args:
            decoders: The versions of the installed decoders; files that others could not read are not known.

        Raises:
            OSError: A file cannot be read.
        """
        records = self._read_records()
        n_rows = _file_size(self._pixels) // self.row_bytes
        if int(records["row"].max(initial=-1)) >= n_rows:
            records = records[:0]
        return StoreIndex(records, self._read_unreadable(decoders))

    def append(self, files: Sequence[StoredFile], stored: dict[bytes, np.void]) -> None:
        """Append files with a readable image, and flush them to disk. Call it while the store is locked.

        Args:
            files: The files. Those without pixels have the content of an earlier one, or of one in ``stored``.
            stored: A record of each content in the store; new ones are added.

        Raises:
            OSError: They cannot be written. The earlier files are unchanged.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        first_row = _next_position(self._pixels, self.row_bytes)
        values = np.zeros(len(files), _VALUE)
        new: dict[bytes, np.void] = {}
        pixels: list[bytes] = []
        for number, file in enumerate(files):
            known = new.get(file.content, stored.get(file.content))
            if known is not None:
                values[number] = known
            elif file.pixels is not None:
                values["content"][number] = np.frombuffer(file.content, np.uint8)
                values["pixels"][number] = np.frombuffer(file.pixel_hash, np.uint8)
                values["row"][number], values["size"][number] = first_row + len(pixels), file.size
                pixels.append(file.pixels.tobytes())
                new[file.content] = values[number]
            values["state"][number] = np.frombuffer(file.state, np.uint8)
        _append(self._pixels, b"".join(pixels), first_row * self.row_bytes)
        records = np.zeros(len(values), _RECORD)
        records["value"], records["checksum"] = values, _checksums(values)
        _append(self._index, records.tobytes(), _next_position(self._index, _RECORD.itemsize) * _RECORD.itemsize)
        stored |= new

    def append_unreadable(self, files: Mapping[bytes, UnreadableFile], decoders: Mapping[str, str]) -> None:
        """Append files that cannot be decoded, by state, with the decoders that could not read them.

        Raises:
            OSError: They cannot be written.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        lines = [b""]  # ends the incomplete line of a killed process
        for state, file in files.items():
            line = {"state": state.hex(), "reason": file.reason, "identity": file.identity, "decoders": dict(decoders)}
            text = json.dumps(line).encode()
            lines.append(_line_checksum(text) + b" " + text)
        _append(self._unreadable, b"\n".join(lines) + b"\n", _file_size(self._unreadable))

    def mark_used(self) -> None:
        """Set the last use of the store to now."""
        with contextlib.suppress(OSError):  # the cache may be read-only
            os.utime(self.folder)

    def remove(self) -> bool:
        """Remove the store, unless a process has mapped its images. Call it while the store is locked.

        Returns:
            Whether it was removed.

        Raises:
            OSError: A file cannot be removed.
        """
        with contextlib.ExitStack() as opened:
            with contextlib.suppress(FileNotFoundError):
                if is_protected(opened.enter_context(self._pixels.open("rb")).fileno()):
                    return False
            self.clear()
        return True

    def clear(self) -> None:
        """Remove the files of the store. Processes that have mapped its images keep them.

        Raises:
            OSError: A file cannot be removed.
        """
        self._index.unlink(missing_ok=True)  # first, so that no process finds records without pixels
        if self.folder.is_dir():
            shutil.rmtree(self.folder)

    def _read_records(self) -> np.ndarray:
        """Read the values of all undamaged records."""
        content = self._index.read_bytes() if self._index.exists() else b""
        records = np.frombuffer(content, _RECORD, len(content) // _RECORD.itemsize)
        values = np.ascontiguousarray(records["value"])
        return values[_checksums(values) == records["checksum"]]

    def _read_unreadable(self, decoders: Mapping[str, str]) -> dict[bytes, UnreadableFile]:
        content = self._unreadable.read_bytes() if self._unreadable.exists() else b""
        found = {}
        for line in content.split(b"\n"):
            checksum, _, text = line.partition(b" ")
            if checksum == _line_checksum(text):
                entry = parse_json_object(text)
                if entry["decoders"] == decoders:
                    found[bytes.fromhex(entry["state"])] = UnreadableFile(entry["reason"], entry["identity"])
        return found


def _split_hashes(hashes: np.ndarray) -> list[bytes]:
    """Return the rows of an array of hashes, uint8 (n, k), as bytes."""
    content, width = hashes.tobytes(), hashes.shape[1]
    return [content[first : first + width] for first in range(0, len(content), width)]


def _checksums(values: np.ndarray) -> np.ndarray:
    """Return the CRC-32 of each record, uint32 (n,). It is never 0, so that zeros of a torn write are no record."""
    content, width = values.tobytes(), values.dtype.itemsize
    checksums = [zlib.crc32(content[first : first + width]) or 1 for first in range(0, len(content), width)]
    return np.array(checksums, np.uint32)


def _line_checksum(text: bytes) -> bytes:
    return f"{zlib.crc32(text):08x}".encode()


def _file_size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _next_position(path: Path, n_bytes: int) -> int:
    """Return the number of the first item of ``n_bytes`` bytes after the end of a file."""
    return -(-_file_size(path) // n_bytes)


def _append(path: Path, content: bytes, position: int) -> None:
    """Write after the end of a file, and flush it to disk. If it fails, the file is as before."""
    n_before = _file_size(path)
    path.touch()
    with path.open("r+b", buffering=0) as file:
        try:
            file.seek(position)
            remaining = memoryview(content)
            while remaining:
                remaining = remaining[file.write(remaining) :]
            os.fsync(file.fileno())
        except OSError:
            with contextlib.suppress(OSError):
                file.truncate(n_before)
            raise
