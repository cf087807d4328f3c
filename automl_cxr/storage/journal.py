"""A journal file for Optuna: what happens to the studies, a line of JSON each, appended by any number of processes."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from filelock import FileLock
from optuna.storages.journal import BaseJournalBackend

_TAIL = 4096  # bytes that are looked through at a time for the end of the last whole line


class JournalFile(BaseJournalBackend):
    """The file, locked while a line is appended.

    Optuna's own backend locks by a file that exists or does not. A writer that dies in it holds the others up for 30 seconds,
    and one that only sleeps for longer (a suspended machine, a slow server) has its lock broken while it still writes. Here
    the operating system holds the lock, on a shared folder too (NFS 4, and 3 with its lock service): it ends with the process
    that has it and not before, as the leases of the drivers do.

    A writer that dies in the middle of a line, or a disk that fills, leaves half a line. Nobody was told that it stands, so
    the next writer removes it; Optuna's own backend would append to it and find the journal unreadable ever after.

    Args:
        path: The file; made empty where there is none.
        busy_seconds: How long to wait for another writer before ``TimeoutError``.
    """

    def __init__(self, path: Path, *, busy_seconds: float) -> None:
        self._path = path
        self._lock = FileLock(path.with_name(f".{path.name}.lock"), timeout=busy_seconds)
        self._position = (0, 0)  # lines read so far, and the byte after them
        self._held: list[dict[str, Any]] | None = None
        path.touch(exist_ok=True)

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        number, offset = self._position if self._position[0] <= log_number_from else (0, 0)
        with self._path.open("rb") as file:
            file.seek(offset)
            for line in file:
                if not line.endswith(b"\n"):
                    return  # being written, or left behind by a writer that died
                number, offset = number + 1, offset + len(line)
                self._position = number, offset
                if number > log_number_from:
                    yield json.loads(line)

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Hold back what is appended, and append it in one piece at the end; nothing, if something fails meanwhile."""
        self._held = []
        try:
            yield
            logs = self._held
        finally:
            self._held = None
        self.append_logs(logs)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        if self._held is not None:
            self._held += logs
            return
        lines = b"".join(json.dumps(log, separators=(",", ":")).encode() + b"\n" for log in logs)
        with self._lock, self._path.open("r+b", buffering=0) as file:
            end = _end_of_whole_lines(file)
            file.truncate(end)
            file.seek(end)
            try:
                while lines:
                    lines = lines[file.write(lines) :]
                os.fsync(file.fileno())
            except OSError:
                os.ftruncate(file.fileno(), end)
                raise


def _end_of_whole_lines(file: IO[bytes]) -> int:
    """Find the byte after the last newline."""
    end = file.seek(0, os.SEEK_END)
    while end > 0:
        start = max(0, end - _TAIL)
        file.seek(start)
        newline = file.read(end - start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0
