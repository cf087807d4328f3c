"""Heartbeats of drivers: each driver reports at intervals that it is running, so that other drivers detect its failure.

A driver is the process of a running search. It records its name in the trials that it runs. If a driver is dead, its running
trials are abandoned, and another driver requeues them. Each driver has two files in the study's folder:

    drivers/<driver>.lock   a file lock, which the operating system releases as soon as the process ends for any reason
    drivers/<driver>.beat   the machine of the driver and a counter that a thread increments every few seconds (the heartbeat)

A released lock proves that a driver on the same machine is dead. For a driver on another machine the lock proves nothing,
because file locks may not work between machines, and a suspended process keeps its lock. In these cases the counter is used: if
a monitor observes no new value for ``timeout_seconds``, measured with the monotonic clock of the monitor, it regards the driver
as dead. The file contains a counter instead of a time stamp, because the clocks of two machines differ and can be set back.

The counter is in the folder instead of the storage for three reasons. All drivers of a study share the folder. If
the storage is unavailable for a minute, drivers must not be regarded as dead. An SQLite file allows one writer at a time, so
heartbeats would delay other writes. The file is overwritten in place, which needs no space on a full disk. A partly written
value differs from the previous value, which is sufficient for a monitor.

A driver that was regarded as dead may resume. Its trials then contain the name of another driver, so it stops them
(``StudyStore.owns``).
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
    """The times of a heartbeat. All drivers of a study should use the same values.

    Attributes:
        interval_seconds: Time between two increments of the counter.
        timeout_seconds: Time without an increment after which a driver is regarded as dead.
    """

    interval_seconds: float = 5.0
    timeout_seconds: float = 90.0


class DriverHeartbeat:
    """The heartbeat of this driver; use it as a context manager around the search.

    Args:
        study_folder: Folder of the study.
        settings: Interval of this heartbeat and time-out of the others.

    Attributes:
        driver: Unique name of this driver, which is recorded in the trials that it runs.
        monitor: Monitor of the other drivers.
    """

    def __init__(self, study_folder: Path, *, settings: HeartbeatSettings | None = None) -> None:
        self.driver = uuid.uuid4().hex[:12]
        self.monitor = DriverMonitor(study_folder, settings=settings, own=self.driver)
        self._interval_seconds = (settings or HeartbeatSettings()).interval_seconds
        folder = _drivers_folder(study_folder)
        self._lock = FileLock(folder / f"{self.driver}.lock")
        self._beat_file = folder / f"{self.driver}.beat"
        self._is_stopped = threading.Event()
        self._thread = threading.Thread(target=self._advance_until_stopped, name="heartbeat", daemon=True)

    def __enter__(self) -> DriverHeartbeat:
        self._beat_file.parent.mkdir(exist_ok=True)
        self._lock.acquire()
        self._write(0)  # after the lock is acquired, because a beat file with a released lock means a dead driver
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_stopped.set()
        self._thread.join()
        self._beat_file.unlink(missing_ok=True)
        self._lock.release()
        Path(self._lock.lock_file).unlink(missing_ok=True)

    def _advance_until_stopped(self) -> None:
        count = 0
        while not self._is_stopped.wait(self._interval_seconds):
            count += 1
            with contextlib.suppress(OSError):  # the folder may be unavailable for a moment; the next write may succeed
                self._write(count)

    def _write(self, count: int) -> None:
        with self._beat_file.open("r+b" if self._beat_file.exists() else "wb") as file:
            file.write(f"{this_machine()} {count:020d}".encode())


class DriverMonitor:
    """A monitor of the drivers of a study.

    It stores the time at which each counter last changed. Therefore use the same instance for repeated checks.

    Args:
        study_folder: Folder of the study.
        settings: Time-out of a heartbeat.
        clock: Monotonic clock in seconds.
        machine: Machine of the monitor. File locks are used only for drivers on the same machine.
        own: Name of the driver of this monitor, which is always regarded as alive.
    """

    def __init__(
        self,
        study_folder: Path,
        *,
        settings: HeartbeatSettings | None = None,
        clock: Callable[[], float] = time.monotonic,
        machine: str | None = None,
        own: str = "",
    ) -> None:
        self._folder = _drivers_folder(study_folder)
        self._timeout_seconds = (settings or HeartbeatSettings()).timeout_seconds
        self._clock = clock
        self._machine = machine or this_machine()
        self._own = own
        self._observations: dict[str, _Observation] = {}

    def alive(self) -> set[str]:
        """Return the drivers that are not known to be dead, and remove the files of dead drivers."""
        registered = {path.stem for path in self._folder.glob("*.beat")}
        self._observations = {name: observation for name, observation in self._observations.items() if name in registered}
        return {driver for driver in registered if driver == self._own or self._is_alive(driver)}

    def is_verified(self, driver: str) -> bool:
        """Return whether this monitor has observed an increment of the driver's counter."""
        return driver == self._own or (driver in self._observations and self._observations[driver].has_advanced)

    def _is_alive(self, driver: str) -> bool:
        text = self._read_beat(driver)
        if text.partition(" ")[0] == self._machine and self._remove_if_unlocked(driver):
            return False
        now, last = self._clock(), self._observations.get(driver)
        if last is None or last.text != text:
            self._observations[driver] = _Observation(text, now, has_advanced=last is not None)
            return True
        if now - last.seconds <= self._timeout_seconds:
            return True
        self._remove_if_unlocked(driver)
        return False

    def _read_beat(self, driver: str) -> str:
        try:
            return (self._folder / f"{driver}.beat").read_text(encoding="utf-8")
        except OSError:
            return ""  # the driver has just ended

    def _remove_if_unlocked(self, driver: str) -> bool:
        """Remove the files of a driver whose lock is released, and return whether it is released."""
        lock = FileLock(self._folder / f"{driver}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return False
        for suffix in ("beat", "lock"):
            (self._folder / f"{driver}.{suffix}").unlink(missing_ok=True)
        lock.release()
        return True


@dataclass(frozen=True)
class _Observation:
    """The last content of a beat file, the time at which it was first read, and whether it differed from an earlier content."""

    text: str
    seconds: float
    has_advanced: bool


def this_machine() -> str:
    """Return an identifier of the running kernel (file locks work between its processes), or else the host name."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    with contextlib.suppress(OSError):
        return boot.read_text(encoding="utf-8").strip()
    return platform.node().replace(" ", "-") or "unnamed"


def _drivers_folder(study_folder: Path) -> Path:
    return study_folder / "drivers"
