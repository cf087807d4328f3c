"""The lock under which searches of one study take turns to count trials, to begin one, and to commit one.

A plain file lock would be held for ever by a search that was frozen with the lock in hand. Here the holder leaves its name, and
a search that waits takes the lock from a holder that is taken for dead (``study/lease.py``)::

    propose.lock      the lock
    propose.holder    name of the search that holds it
    propose.breaking  lock of those who look whether the holder is dead

A search that wakes in the middle of a turn that it has lost does no harm: what it writes is checked against the name on the
trial and against the trial's state in the storage. At worst it begins one trial more than was asked for.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from filelock import FileLock, Timeout

from automl_cxr.study.lease import DriverLease

_WAIT_SECONDS = 1.0  # between two looks at whoever holds the lock


class Turn:
    """One search's hold on the lock; a context manager, which may be entered again inside itself.

    Args:
        study_folder: Folder of the study.
        lease: Of the search that takes its turn.
    """

    def __init__(self, study_folder: Path, lease: DriverLease) -> None:
        self._path = study_folder / "propose.lock"
        self._holder = study_folder / "propose.holder"
        self._breaking = FileLock(study_folder / "propose.breaking")
        self._lease = lease
        self._lock = FileLock(self._path)
        self._depth = 0

    def __enter__(self) -> Turn:
        if self._depth == 0:
            self._acquire()
            self._holder.write_text(self._lease.driver, encoding="utf-8")
        self._depth += 1
        return self

    def __exit__(self, *_: object) -> None:
        self._depth -= 1
        if self._depth == 0:
            if self.is_mine():
                self._holder.unlink(missing_ok=True)
            self._lock.release()

    def is_mine(self) -> bool:
        """Tell whether nobody has taken the lock away, which happens to a search that was silent while it held it."""
        return self._read_holder() == self._lease.driver

    def _acquire(self) -> None:
        while True:
            try:
                self._lock.acquire(timeout=_WAIT_SECONDS)
            except Timeout:
                self._break_if_dead()
            else:
                return

    def _break_if_dead(self) -> None:
        """Put another file in the place of one whose lock a dead search holds; one search at a time, and once."""
        with self._breaking:
            holder = self._read_holder()
            if holder and holder not in self._lease.watch.alive():
                self._holder.unlink(missing_ok=True)
                self._path.unlink(missing_ok=True)

    def _read_holder(self) -> str:
        with contextlib.suppress(OSError):
            return self._holder.read_text(encoding="utf-8")
        return ""
