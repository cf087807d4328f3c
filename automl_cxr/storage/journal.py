"""A journal file for Optuna: one JSON line for each change of a study, appended by any number of processes."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from filelock import FileLock
from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend

_TAIL_BYTES = 4096  # bytes that are read at a time to find the end of the last complete line


class JournalFile(BaseJournalBackend):
    """A file that is locked while lines are appended.

    Optuna's own backend uses the existence of a file as its lock. A writer that dies while it holds the lock delays the others
    by 30 seconds, and the lock of a writer that is suspended for longer (a suspended machine, a slow server) is broken while
    it still writes. Here the operating system holds the lock, on a shared folder too (NFS 4, and NFS 3 with its lock service).
    It releases the lock when the process that holds the lock ends, and not before. The same holds for the drivers' heartbeats.

    A writer that dies in the middle of a line, or a full disk, leaves an incomplete line. The write was not confirmed to any
    caller, so the next writer removes the line. Optuna's own backend would append to it and make the journal unreadable.

    Args:
        path: The file. It is created if it does not exist.
        busy_seconds: How long to wait for another writer before ``TimeoutError`` is raised.
    """

    def __init__(self, path: Path, *, busy_seconds: float) -> None:
        self._path = path
        self._lock = FileLock(path.with_name(f".{path.name}.lock"), timeout=busy_seconds)
        self._position = (0, 0)  # number of lines read so far, and the offset of the next byte
        self._deferred: list[dict[str, Any]] | None = None
        if not path.exists():  # to touch an existing file would fail in a read-only folder
            path.touch()

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        number, offset = self._position if self._position[0] <= log_number_from else (0, 0)
        with self._path.open("rb") as file:
            file.seek(offset)
            for line in file:
                if not line.endswith(b"\n"):
                    return  # another process is writing it, or died while writing it
                number, offset = number + 1, offset + len(line)
                self._position = number, offset
                if number > log_number_from:
                    yield json.loads(line)

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Append all logs of the block at once at its end, or none if an error is raised in the block."""
        self._deferred = []
        try:
            yield
            logs = self._deferred
        finally:
            self._deferred = None
        self.append_logs(logs)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        if self._deferred is not None:
            self._deferred += logs
            return
        lines = b"".join(json.dumps(log, separators=(",", ":")).encode() + b"\n" for log in logs)
        with self._lock, self._path.open("r+b", buffering=0) as file:
            end = _end_of_complete_lines(file)
            file.truncate(end)
            file.seek(end)
            try:
                while lines:
                    lines = lines[file.write(lines) :]
                os.fsync(file.fileno())
            except OSError:
                os.ftruncate(file.fileno(), end)
                raise


class JournalFileStorage(JournalStorage):
    """Optuna's journal storage on a ``JournalFile``, with transactions."""

    def __init__(self, file: JournalFile) -> None:
        super().__init__(file)
        self._file = file

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Append all writes of the block at once.

        Raises:
            UpdateFinishedTrialError: A write is to a finished trial. The other writes are stored.
        """
        with self._file.transaction():
            yield
        self.get_all_studies()  # applies what was appended, and raises the error of a rejected write


def _end_of_complete_lines(file: IO[bytes]) -> int:
    """Return the offset of the byte after the last newline."""
    end = file.seek(0, os.SEEK_END)
    while end > 0:
        start = max(0, end - _TAIL_BYTES)
        file.seek(start)
        newline = file.read(end - start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0
