"""Copies of files of another machine, in the cache folder of the user. They are named and verified by their content.

    <cache folder>/copies/<sha256><suffix>       a complete copy; its modification time is the last use
    <cache folder>/copies/locks/<sha256>.lock    held while the copy is written, verified or removed

If the copies would use more than a quarter of the free disk space, the least recently used ones are removed. A process that has
mapped a removed copy keeps it.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

from automl_cxr.cache_folder import cache_folder
from automl_cxr.io import atomic_write, sha256_of_file

_SHARE_OF_FREE_DISK = 0.25
_COPY = re.compile(r"([0-9a-f]{64})(\.\w+)?")
_INCOMPLETE = re.compile(r"\.([0-9a-f]{64})(\.\w+)?\.[0-9a-f]{32}\.partial")


@dataclass(frozen=True)
class FileCopy:
    """A copy in the cache folder.

    Attributes:
        path: The file.
        n_bytes: Size in bytes.
        last_used: Seconds since 1970.
    """

    path: Path
    n_bytes: int
    last_used: float


class FileCopies:
    """The copies in one cache folder.

    Args:
        folder: The cache folder; by default ``cache_folder()``.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._root = (folder or cache_folder()).absolute() / "copies"

    def open(self, digest: str, *, suffix: str, n_bytes: int, read: Callable[[], Iterator[bytes | memoryview]]) -> Path:
        """Return a copy with a certain content. It is written if it does not exist or its content differs.

        Args:
            digest: SHA-256 digest of the content, as hexadecimal digits.
            suffix: Suffix of the file name.
            n_bytes: Size of the content in bytes.
            read: Returns the blocks of the content, in order. It is called only if the copy must be written.

        Raises:
            OSError: The copy cannot be written, or the blocks have another digest.
        """
        (self._root / "locks").mkdir(parents=True, exist_ok=True)
        self._root.chmod(0o700)  # the images of patients
        target = self._root / f"{digest}{suffix}"
        with self._lock(digest):
            if not (target.is_file() and target.stat().st_size == n_bytes and sha256_of_file(target) == digest):
                self._free_space(n_bytes, kept=target)
                _write(target, digest, read())
            os.utime(target)
        return target

    def entries(self) -> list[FileCopy]:
        """List the copies, the most recently used first."""
        found = []
        for path in self._root.glob("*"):
            with contextlib.suppress(OSError):  # another process has removed it
                if _COPY.fullmatch(path.name) and path.is_file():
                    found.append(FileCopy(path, path.stat().st_size, path.stat().st_mtime))
        return sorted(found, key=lambda copy: copy.last_used, reverse=True)

    def clear(self) -> None:
        """Remove all copies except those that are being written."""
        for copy in self.entries():
            self._remove(copy.path)
        self._remove_incomplete()

    def _lock(self, digest: str) -> BaseFileLock:
        return FileLock(self._root / "locks" / f"{digest}.lock")

    def _free_space(self, n_bytes: int, *, kept: Path) -> None:
        """Remove the least recently used copies until ``n_bytes`` fit into the share of the disk."""
        self._remove_incomplete()
        others = [copy for copy in self.entries() if copy.path != kept]
        used = sum(copy.n_bytes for copy in others)
        limit = _SHARE_OF_FREE_DISK * (shutil.disk_usage(self._root).free + used)
        for copy in reversed(others):
            if used + n_bytes <= limit:
                return
            if self._remove(copy.path):
                used -= copy.n_bytes

    def _remove_incomplete(self) -> None:
        """Remove what killed processes have written in part."""
        for path in self._root.glob(".*.partial"):
            if _INCOMPLETE.fullmatch(path.name):
                self._remove(path)

    def _remove(self, path: Path) -> bool:
        """Remove a file unless a process is writing or verifying it. Return whether it was removed."""
        match = _COPY.match(path.name.removeprefix("."))
        try:
            with self._lock(match[1] if match else "").acquire(blocking=False):
                path.unlink(missing_ok=True)
        except (Timeout, OSError):
            return False
        return True


def _write(target: Path, digest: str, blocks: Iterator[bytes | memoryview]) -> None:
    hasher = hashlib.sha256()
    with atomic_write(target) as file:
        for block in blocks:
            file.write(block)
            hasher.update(block)
        if hasher.hexdigest() != digest:
            raise OSError(errno.EIO, "The transferred file differs from the original, which may have been replaced meanwhile")
