"""Atomic writes of files and folders, and file digests."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Error numbers of a write without space: a full disk, a quota, and a limit of the size of files."""


def is_disk_full(error: BaseException) -> bool:
    """Return whether an error is that of a write without space. HDF5 and TensorFlow have the reason only in their messages."""
    if isinstance(error, OSError) and error.errno in DISK_FULL:
        return True
    return any(os.strerror(number) in str(error) for number in DISK_FULL)


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file that replaces ``path`` when the block succeeds.

    The content is flushed to disk before the rename. Therefore a reader finds the old file or the complete new one, even
    after a crash. If the block fails, the temporary file is removed and ``path`` is unchanged.

    ``tempfile`` is not used, because its files can be read by their owner only, and a study's folder may belong to a group.

    Raises:
        OSError: The file cannot be written.
    """
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file atomically, see ``atomic_write``."""
    with atomic_write(path) as file:
        file.write(text.encode())


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Create a temporary folder that is renamed to ``path`` when the block succeeds.

    An existing folder is not replaced, unless it is empty.

    Raises:
        OSError: The folder cannot be written, or ``path`` is a file or a folder that is not empty.
    """
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
    partial.mkdir(parents=True)
    try:
        yield partial
        partial.replace(path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def sync_folder(path: Path) -> None:
    """Make renames in a folder durable. POSIX requires it; other systems cannot open folders and do not need it."""
    if os.name == "posix":
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def sha256_of_file(path: Path) -> str:
    """Return the SHA-256 digest of a file's content, as hexadecimal digits, without loading the file into memory."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
