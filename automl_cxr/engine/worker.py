"""A process that runs one batch of trials after the other, and may die of any of them. A single trial is a batch of one.

The executor's own process loads no training library: it starts a worker, asks it for one epoch at a time, and ends it when a
batch takes too long or too much memory, or when earlier ones have left too little. What the worker died of is the ending of
all trials that it still ran; the next batch gets a new worker.

    executor                     worker (``python -m automl_cxr.engine.worker``)
    begin(proposals)     ->      batch = Batch(objective, proposals)
    advance(leaving)     ->      batch.leave(leaving), batch.advance()       -> a Report | Ending of each
    abandon()            ->      batch.close()                               -> done
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe
from typing import Any

import psutil

from automl_cxr.engine.protocol import Ending, Objective, Outcome, Proposal
from automl_cxr.engine.trial_batches import Batch, Event, failing
from automl_cxr.errors import OutOfMemoryError, TrialTimeoutError, WorkerDiedError

_LOOK_SECONDS = 0.25  # between two looks at the clock and the memory of a worker that computes
_PATIENCE_SECONDS = 10.0  # for a worker to leave by itself
_BEGIN, _ADVANCE, _ABANDON = "begin", "advance", "abandon"
_ABANDONED = True


@dataclass(frozen=True, kw_only=True)
class WorkerLimits:
    """What a worker may take. None is no limit.

    Attributes:
        seconds: Wall seconds of a trial; a batch has those of all its trials.
        memory: Bytes of memory; beyond them its trials are ended. Files that are mapped, as images are, do not count: all
            processes share their pages, and the system takes them back when it needs room.
        watermark: Bytes of memory after a batch, beyond which the next one gets a new process.
    """

    seconds: float | None = None
    memory: int | None = None
    watermark: int | None = None


class Worker:
    """A process with an objective in it. Runs one batch of trials at a time.

    Args:
        objective: What runs a trial; pickled, so its modules must be importable.
        limits: What a trial may take.
        environment: Variables that the process is started with, besides this one's.
    """

    def __init__(self, objective: Objective, *, limits: WorkerLimits, environment: Mapping[str, str]) -> None:
        self._objective = objective
        self._limits = limits
        self._environment = {**os.environ, **environment}
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection[Any, Any] | None = None
        self._running: set[int] = set()  # numbers of the trials that have not ended
        self._reported: set[int] = set()
        self._deadline = float("inf")

    @property
    def pid(self) -> int | None:
        """Number of the process, None while there is none."""
        return None if self._process is None else self._process.pid

    def begin(self, proposals: Sequence[Proposal]) -> None:
        """Begin a batch, leaving the one before where it is; in a new process if the old one died or has grown too large."""
        self.abandon()
        if self._process is not None and self._has_outgrown(self._limits.watermark):
            self.close()
        if self._process is None:
            self._start()
        self._running, self._reported = {proposal.number for proposal in proposals}, set()
        self._deadline = time.monotonic() + (self._limits.seconds or float("inf")) * len(proposals)
        self._send((_BEGIN, proposals))

    def advance(self, leaving: Collection[int] = ()) -> list[Event]:
        """Run each trial until its next report or its end, of whatever kind.

        Args:
            leaving: Numbers of trials that are left where they are first; the objective clears up.

        Returns:
            What became of each that was running, by number.
        """
        self._running.difference_update(leaving)
        self._send((_ADVANCE, leaving))
        events = self._await()
        self._running.difference_update(number for number, event in events if isinstance(event, Ending))
        self._reported |= self._running
        return events

    @property
    def is_running(self) -> bool:
        """Whether a trial has not ended."""
        return bool(self._running)

    def abandon(self) -> None:
        """Leave all trials where they are; the objective clears up."""
        if self._running:
            self._running = set()
            self._send((_ABANDON, None))
            if not self._has_answered(time.monotonic() + _PATIENCE_SECONDS) or self._receive() is not _ABANDONED:
                self._kill()

    def close(self) -> None:
        """End the process, which leaves its trials where they are."""
        if self._process is None:
            return
        self.abandon()
        if self._process is not None:
            self._process.stdin.close()  # type: ignore[union-attr]  # the lifeline
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_PATIENCE_SECONDS)
            self._kill()

    # ------------------------------------------------------------------------------------------------ the process

    def _start(self) -> None:
        self._connection, theirs = Pipe()
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603 - this module, by this interpreter
                [sys.executable, "-m", __name__, str(theirs.fileno())],
                stdin=subprocess.PIPE,  # closed when this process ends, however it ends
                pass_fds=[theirs.fileno()],
                env={**self._environment, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
            )
        self._send(self._objective)

    def _send(self, message: Any) -> None:
        if self._connection is not None:
            with contextlib.suppress(OSError):  # of a dead worker, which the answer that does not come will tell
                self._connection.send(message)

    def _await(self) -> list[Event]:
        """Wait for the worker's answer, its death, or the moment when it has taken too much."""
        while not self._has_answered(time.monotonic() + _LOOK_SECONDS):
            if self._process is None or self._process.poll() is not None:
                return self._end_all(self._end_of_dead())
            if time.monotonic() > self._deadline:
                return self._end_of_late()
            if self._has_outgrown(self._limits.memory):
                return self._end_all(self._end_of_large())
        answer = self._receive()
        return answer if isinstance(answer, list) else self._end_all(self._end_of_dead())

    def _receive(self) -> Any:
        """Take an answer that has come; None from a process that died of giving it."""
        try:
            return None if self._connection is None else self._connection.recv()
        except (EOFError, OSError, pickle.UnpicklingError):
            return None

    def _has_answered(self, until: float) -> bool:
        try:
            return self._connection is not None and self._connection.poll(max(0.0, until - time.monotonic()))
        except OSError:
            return True

    def _has_outgrown(self, n_bytes: int | None) -> bool:
        if n_bytes is None or self._process is None:
            return False
        try:
            taken = psutil.Process(self._process.pid).memory_info()
        except psutil.Error:
            return False  # it has just died
        return taken.rss - getattr(taken, "shared", 0) > n_bytes

    def _kill(self) -> int | None:
        """Make sure that the process is gone, and give its exit code."""
        if self._process is None:
            return None
        self._process.kill()
        code = self._process.wait()
        self._process.stdin.close()  # type: ignore[union-attr]
        if self._connection is not None:
            self._connection.close()
        self._process = self._connection = None
        return code

    # --------------------------------------------------------------------------------------------- its last words

    def _end_all(self, ending: Ending) -> list[Event]:
        return [(number, ending) for number in sorted(self._running)]

    def _end_of_dead(self) -> Ending:
        with contextlib.suppress(subprocess.TimeoutExpired):
            if self._process is not None:
                self._process.wait(_PATIENCE_SECONDS)  # its own exit code, before ours would replace it
        code = self._kill()
        if code is None or code >= 0:
            return Ending.of_error(WorkerDiedError(f"The process of the trial ended by itself with code {code}."))
        name = signal.Signals(-code).name
        hint = " The system does so when memory runs out; fewer trials at once may help (--concurrency)." if code == -9 else ""
        return Ending.of_error(WorkerDiedError(f"The process of the trial was ended by {name}.{hint}"))

    def _end_of_late(self) -> list[Event]:
        self._kill()
        stopped = Ending(Outcome.STOPPED, facts={"stopped_by": "trial-time"})
        failed = Ending.of_error(
            TrialTimeoutError(
                f"A trial may take {self._limits.seconds:g} s and this one had not finished its first epoch. "
                "Raise --trial-time, or search smaller networks."
            )
        )
        return [(number, stopped if number in self._reported else failed) for number in sorted(self._running)]

    def _end_of_large(self) -> Ending:
        self._kill()
        limit = (self._limits.memory or 0) / 2**30
        return Ending.of_error(
            OutOfMemoryError(f"A trial may take {limit:.1f} GiB of memory and this one took more. Raise --memory-per-trial.")
        )


# ------------------------------------------------------------------------------------------------------- in the worker


def _serve(connection: Connection[Any, Any]) -> None:
    """Run what is asked for until nobody asks any more."""
    try:
        objective: Objective = connection.recv()
    except Exception as error:  # noqa: BLE001 - told as the ending of every trial
        objective = _unloadable(error)
    batch: Batch | None = None
    while True:
        try:
            word, what = connection.recv()
        except (EOFError, OSError):
            return
        if word == _BEGIN:
            batch = Batch(objective, what)
        elif batch is not None and word == _ADVANCE:
            batch.leave(what)
            connection.send(batch.advance())
        else:
            if batch is not None:
                batch.close()
            connection.send(_ABANDONED)


def _unloadable(error: Exception) -> Objective:
    """Stand for an objective that could not be loaded."""
    return lambda _: failing(error)


def _die_with_parent() -> None:
    """End this process, whatever it computes, when the one that started it is gone."""
    os.read(sys.stdin.fileno(), 1)
    os._exit(0)


def main() -> None:
    """Serve the process that holds the other end of the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the driver's to handle
    threading.Thread(target=_die_with_parent, daemon=True).start()
    with Connection(int(sys.argv[1])) as connection:
        _serve(connection)


if __name__ == "__main__":
    main()
