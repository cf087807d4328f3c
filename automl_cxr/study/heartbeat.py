"""Who works on a running trial: a search signs its trials and keeps a lease, so that a dead search's trials are taken up.

Two signs of life lie in the study's folder, for each search that is at work on it:

    drivers/<driver>.lock   a file lock, which the operating system frees at the instant a process dies, however it dies
    drivers/<driver>.beat   the machine that the search runs on, and a counter that a thread of it advances every few seconds

A free lock is proof of death on the machine that it was taken on. On another machine, which the lock may not reach, and where
a process hangs or is frozen with its lock in hand, the counter decides: an observer that has not seen it move for long enough,
by a clock of the observer's own that never goes backwards, takes the search for dead. A counter and no time stamp, because the
clocks of two machines differ and are set back.

The counter lies in the folder and not in the storage, because the folder is what all searches of a study share already, because
a storage that is away for a minute must not make every search look dead, and because an SQLite file has one writer at a time,
who has more to write than that nothing is new. It is overwritten in place, which takes no room on a full disk; a reader
that meets it half written sees another value than before, which is all that it asks for.

A search that was taken for dead may wake. It then finds another name on its trials, and leaves them (``StudyStore.owns``).
"""

from __future__ import annotations

import contextlib
import platform
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout


@dataclass(frozen=True, kw_only=True)
class HeartbeatSettings:
    """How often a search shows that it lives, and how long it may be silent.

    Attributes:
        beat_seconds: From one movement of the counter to the next.
        patience_seconds: Silence after which a search is taken for dead; all searches of a study should agree on it.
    """

    beat_seconds: float = 5.0
    patience_seconds: float = 90.0


class DriverHeartbeat:
    """Held by one running search; use it as a context manager around the search.

    Args:
        study_folder: Folder of the study.
        terms: How often to show that it lives, and for how long others may be silent.

    Attributes:
        driver: Name of the search, which its running trials carry.
        watch: What it knows of the other searches.
    """

    def __init__(self, study_folder: Path, *, terms: HeartbeatSettings | None = None) -> None:
        self.driver = uuid.uuid4().hex[:12]
        self.watch = DriverMonitor(study_folder, terms=terms, own=self.driver)
        self._beat_seconds = (terms or HeartbeatSettings()).beat_seconds
        folder = _drivers(study_folder)
        self._lock = FileLock(folder / f"{self.driver}.lock")
        self._beat_file = folder / f"{self.driver}.beat"
        self._is_over = threading.Event()
        self._heart = threading.Thread(target=self._beat_on, name="lease", daemon=True)

    def __enter__(self) -> DriverHeartbeat:
        self._beat_file.parent.mkdir(exist_ok=True)
        self._lock.acquire()
        self._beat(0)  # after the lock: from now on a free one means death
        self._heart.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._heart.join()
        self._beat_file.unlink(missing_ok=True)
        self._lock.release()
        Path(self._lock.lock_file).unlink(missing_ok=True)

    def _beat_on(self) -> None:
        count = 0
        while not self._is_over.wait(self._beat_seconds):
            count += 1
            with contextlib.suppress(OSError):  # a folder that is away for a moment; the next beat may arrive
                self._beat(count)

    def _beat(self, count: int) -> None:
        with self._beat_file.open("r+b" if self._beat_file.exists() else "wb") as file:
            file.write(f"{this_machine()} {count:020d}".encode())


class DriverMonitor:
    """Judges which searches of a study live. It remembers when each counter was last seen to move: keep one while looking.

    Args:
        study_folder: Folder of the study.
        terms: How long a search may be silent.
        clock: Seconds, from anywhere, that never go backwards.
        machine: Where the observer runs: file locks prove nothing about searches elsewhere.
        own: Name of the search that the observer is, which lives whatever its counter says.
    """

    def __init__(
        self,
        study_folder: Path,
        *,
        terms: HeartbeatSettings | None = None,
        clock: Callable[[], float] = time.monotonic,
        machine: str | None = None,
        own: str = "",
    ) -> None:
        self._folder = _drivers(study_folder)
        self._patience = (terms or HeartbeatSettings()).patience_seconds
        self._clock = clock
        self._machine = machine or this_machine()
        self._own = own
        self._seen: dict[str, _Sign] = {}

    def alive(self) -> set[str]:
        """Name the searches that are not known to be dead, and sweep up after those that are."""
        signed_in = {path.stem for path in self._folder.glob("*.beat")}
        self._seen = {driver: sign for driver, sign in self._seen.items() if driver in signed_in}
        return {driver for driver in signed_in if driver == self._own or self._lives(driver)}

    def is_verified(self, driver: str) -> bool:
        """Tell whether the counter of a search that ``alive`` named has moved since this watch began."""
        return driver == self._own or (driver in self._seen and self._seen[driver].has_moved)

    def _lives(self, driver: str) -> bool:
        text = self._read_beat(driver)
        if text.partition(" ")[0] == self._machine and self._sweep_if_free(driver):
            return False
        now, last = self._clock(), self._seen.get(driver)
        if last is None or last.text != text:
            self._seen[driver] = _Sign(text, now, has_moved=last is not None)
            return True
        if now - last.when <= self._patience:
            return True
        self._sweep_if_free(driver)
        return False

    def _read_beat(self, driver: str) -> str:
        try:
            return (self._folder / f"{driver}.beat").read_text(encoding="utf-8")
        except OSError:
            return ""  # it has just signed out

    def _sweep_if_free(self, driver: str) -> bool:
        """Remove the files of a search whose lock nobody holds; tell whether nobody does."""
        lock = FileLock(self._folder / f"{driver}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return False
        for ending in ("beat", "lock"):
            (self._folder / f"{driver}.{ending}").unlink(missing_ok=True)
        lock.release()
        return True


@dataclass(frozen=True)
class _Sign:
    """What a beat file was last seen to say, when it began to say so, and whether it had said something else before."""

    text: str
    when: float
    has_moved: bool


def this_machine() -> str:
    """Name the machine until it is started again: file locks bind the processes under one running kernel."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    with contextlib.suppress(OSError):
        return boot.read_text(encoding="utf-8").strip()
    return platform.node().replace(" ", "-") or "unnamed"


def _drivers(study_folder: Path) -> Path:
    return study_folder / "drivers"
