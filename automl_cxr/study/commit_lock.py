"""The lock of a study: only one driver at a time can start a trial, requeue a trial, or commit the result of a trial."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from filelock import FileLock, Timeout

from automl_cxr.storage.retrying_storage import PATIENCE_SECONDS

# A live driver holds the lock for milliseconds, or for PATIENCE_SECONDS while the storage does not respond.
_TIMEOUT_SECONDS = PATIENCE_SECONDS + 60


class CommitLock:
    """A re-entrant file lock with a time-out; use it as a context manager.

    The operating system releases the lock of a process that ends for any reason. It does not release the lock of a process that
    is suspended, or of another machine that fails while it uses a network file system. After the time-out the lock is replaced.

    If the previous holder resumes later, the record remains correct: before each write, a driver checks in the storage that it
    still owns the trial, and the storage rejects changes of a finished trial. In the worst case, one trial more than requested
    is started.

    On a network file system without file locks, drivers on different machines do not exclude each other, with the same effect.

    Args:
        study_folder: Folder of the study.
        on_timeout: Receives a message for the user when the lock is replaced.
        timeout_seconds: Time to wait for the holder.
    """

    def __init__(
        self, study_folder: Path, *, on_timeout: Callable[[str], None], timeout_seconds: float = _TIMEOUT_SECONDS
    ) -> None:
        self._path = study_folder / "propose.lock"
        self._lock = FileLock(self._path)
        self._on_timeout = on_timeout
        self._timeout_seconds = timeout_seconds

    def __enter__(self) -> CommitLock:
        while True:
            inode = self._inode()
            try:
                self._lock.acquire(timeout=self._timeout_seconds)
            except Timeout:
                if self._inode() == inode:  # otherwise another waiting driver has replaced the lock
                    self._path.unlink(missing_ok=True)
                    self._on_timeout(
                        f"another driver has held {self._path} for {self._timeout_seconds:.0f} s, so the lock is replaced; "
                        "stop that driver if it is suspended"
                    )
            else:
                return self

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def _inode(self) -> int | None:
        try:
            return self._path.stat().st_ino
        except OSError:
            return None
