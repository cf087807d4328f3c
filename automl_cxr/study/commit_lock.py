"""The lock under which searches of one study take turns to count trials, to begin one, and to commit one.

A plain file lock would be held for ever by a search that was frozen with the lock in hand, and does not reach other machines on
every file system. Here the holder leaves its name as well, in a file that only one can make::

    propose.lock      the lock
    propose.holder    name of the search that holds it
    propose.breaking  lock of those who look whether the holder is dead

A search that waits takes the turn from a holder that is taken for dead (``study/heartbeat.py``). One that wakes in the middle of a
turn that it has lost does no harm: what it writes is checked against the name on the trial and its state in the storage. At
worst it begins one trial more than was asked for.
"""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

from filelock import FileLock, Timeout

from automl_cxr.study.heartbeat import DriverHeartbeat

_LOOK_SECONDS = 1.0  # of waiting for the lock, before a look at who holds it
_NAP_SECONDS = 0.05  # in a turn of another machine, which no lock tells the end of


class CommitLock:
    """One search's hold on the lock; a context manager, which may be entered again inside itself.

    Args:
        study_folder: Folder of the study.
        lease: Of the search that takes its turn.
    """

    def __init__(self, study_folder: Path, lease: DriverHeartbeat) -> None:
        self._path = study_folder / "propose.lock"
        self._holder = study_folder / "propose.holder"
        self._breaking = FileLock(study_folder / "propose.breaking")
        self._lease = lease
        self._lock = FileLock(self._path)
        self._depth = 0

    def __enter__(self) -> CommitLock:
        if self._depth == 0:
            while not (self._locked() and self._signed()):
                self._break_if_dead()
        self._depth += 1
        return self

    def __exit__(self, *_: object) -> None:
        self._depth -= 1
        if self._depth == 0:
            with contextlib.suppress(OSError):  # a folder that errs now; the next turn finds the name to be its own
                if self.is_mine():
                    self._holder.unlink(missing_ok=True)
            self._lock.release()

    def is_mine(self) -> bool:
        """Tell whether nobody has taken the turn away, which happens to a search that was silent while it held it."""
        return self._read_holder() == self._lease.driver

    def _locked(self) -> bool:
        try:
            self._lock.acquire(timeout=_LOOK_SECONDS)
        except Timeout:
            return False
        return True

    def _signed(self) -> bool:
        """Sign as the holder, unless another has: it died since, or holds a lock that does not reach this machine."""
        if self.is_mine():
            return True
        try:
            with self._holder.open("x", encoding="utf-8") as file:
                file.write(self._lease.driver)
        except FileExistsError:
            self._lock.release()
            return False
        except OSError:  # a full disk; the lock alone has to do
            self._holder.unlink(missing_ok=True)
        return True

    def _break_if_dead(self) -> None:
        """End the turn of a dead search; one search at a time looks, and a living holder is given time."""
        with self._breaking:
            holder = self._read_holder()
            if holder in self._lease.watch.alive() or holder is None:
                time.sleep(_NAP_SECONDS)
                return
            if holder == "":  # it is just signing, unless it died of it
                time.sleep(_LOOK_SECONDS)
            if self._read_holder() == holder:
                self._holder.unlink(missing_ok=True)
                self._path.unlink(missing_ok=True)  # whoever holds the old file's lock holds nothing any more

    def _read_holder(self) -> str | None:
        try:
            return self._holder.read_text(encoding="utf-8")
        except OSError:
            return None
