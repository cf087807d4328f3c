"""Who works on a running trial: a search signs its trials and holds a lock, so that a dead search's trials are taken up.

The lock is a file in the study's folder that the operating system releases at the instant a process dies, however it dies.
No heartbeat, no clock and no process number has to be trusted.
"""

from __future__ import annotations

import uuid
from pathlib import Path

from filelock import FileLock, Timeout


class DriverLease:
    """Held by one running search; use it as a context manager around the search.

    Attributes:
        driver: Name of the search, which its running trials carry.
    """

    def __init__(self, study_folder: Path) -> None:
        self.driver = uuid.uuid4().hex[:12]
        self._lock = FileLock(_lock_file(study_folder, self.driver))

    def __enter__(self) -> DriverLease:
        Path(self._lock.lock_file).parent.mkdir(exist_ok=True)
        self._lock.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.release()
        Path(self._lock.lock_file).unlink(missing_ok=True)


def live_drivers(study_folder: Path) -> set[str]:
    """Name the searches that are at work on a study, and sweep up after the dead."""
    return {path.stem for path in _lock_file(study_folder, "*").parent.glob("*.lock") if not _is_abandoned(path)}


def _lock_file(study_folder: Path, driver: str) -> Path:
    return study_folder / "drivers" / f"{driver}.lock"


def _is_abandoned(path: Path) -> bool:
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return False
    path.unlink(missing_ok=True)
    lock.release()
    return True
