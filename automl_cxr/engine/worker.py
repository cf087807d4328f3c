"""A process that runs batches of trials one after the other, and that a trial may crash. A single trial is a batch of one.

The executor's own process loads no training library: it starts a worker, requests one epoch at a time, and kills the worker if
a batch takes too long or too much memory, or replaces it if it uses too much memory after earlier batches. If the worker dies,
all trials that it was running end with an error, and the next batch gets a new worker. If the worker is killed before they have
begun, such as while it loads the libraries of the objective, a new worker begins them.

    executor                     worker (``python -m automl_cxr.engine.worker``)
                                 objective.load_libraries()
    begin(proposals)     ->      batch = Batch(objective, proposals)         -> begun
    advance(stopped)     ->      batch.stop(stopped), batch.advance()        -> a Report | TrialEnd for each trial
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

from automl_cxr.engine.protocol import LoadableObjective, Objective, Outcome, Proposal, TrialEnd
from automl_cxr.engine.trial_batches import Batch, Event, failing
from automl_cxr.errors import OutOfMemoryError, TrialTimeoutError, WorkerDiedError

_CHECK_SECONDS = 0.25  # between two checks of the time and the memory of a busy worker
_LOADING_SECONDS = 600.0  # to load the libraries of the objective, in addition to the time of the trials
_EXIT_TIMEOUT_SECONDS = 10.0  # to wait for a worker to exit by itself
_MAX_LOST_STARTS = 5  # processes of one batch that are killed before it begins; each start takes seconds
_BEGIN, _ADVANCE, _ABANDON = "begin", "advance", "abandon"
_BEGUN, _ABANDONED, _DEAD = "begun", "abandoned", "dead"


@dataclass(frozen=True, kw_only=True)
class WorkerLimits:
    """Limits of a worker. None means no limit.

    Attributes:
        seconds: Wall seconds of a trial. The limit of a batch is that of its trials in total. The time in which a new process
            loads its libraries is not included.
        memory: Bytes of memory; the worker is killed above them. Memory-mapped files, such as images, are not counted: all
            processes share their pages, and the system can free them at any time.
        watermark: Bytes of memory after a batch, above which the next batch gets a new process.
    """

    seconds: float | None = None
    memory: int | None = None
    watermark: int | None = None


class Worker:
    """A process that runs an objective, one batch of trials at a time.

    Args:
        objective: Runs the trials; it is pickled, so its modules must be importable.
        limits: Limits of a trial.
        environment: Environment variables of the process, in addition to those of this process.
    """

    def __init__(self, objective: Objective, *, limits: WorkerLimits, environment: Mapping[str, str]) -> None:
        self._objective = objective
        self._limits = limits
        self._environment = {**os.environ, **environment}
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection[Any, Any] | None = None
        self._proposals: Sequence[Proposal] = ()  # of the last batch
        self._has_begun = False  # whether the process has begun the batch
        self._n_lost_starts = 0  # processes that were killed before they began it
        self._running: set[int] = set()  # numbers of the unfinished trials
        self._reported: set[int] = set()
        self._deadline = float("inf")  # of the limits
        self._search_deadline = float("inf")  # of the proposals

    @property
    def pid(self) -> int | None:
        """Process id, None if there is no process."""
        return None if self._process is None else self._process.pid

    def begin(self, proposals: Sequence[Proposal]) -> None:
        """Abandon the previous batch and begin a new one, in a new process if the old one ended or uses too much memory."""
        self.abandon()
        if self._process is not None and self._exceeds(self._limits.watermark):
            self.close()
        if self._process is None:
            self._start()
        self._proposals, self._has_begun, self._n_lost_starts = proposals, False, 0
        self._running, self._reported = {proposal.number for proposal in proposals}, set()
        self._deadline = time.monotonic() + _LOADING_SECONDS + self._seconds_of_batch
        limits = (proposal.kill_after for proposal in proposals if proposal.kill_after is not None)
        self._search_deadline = time.monotonic() + min(limits, default=float("inf"))
        self._send((_BEGIN, proposals))

    def advance(self, stopped: Collection[int] = ()) -> list[Event]:
        """Run each trial until its next report or its end.

        Args:
            stopped: Numbers of trials to stop first; the objective cleans up.

        Returns:
            The report or the ending of each trial that was running, by number.
        """
        self._running.difference_update(stopped)
        self._send((_ADVANCE, stopped))
        events = self._wait_for_events()
        self._running.difference_update(number for number, event in events if isinstance(event, TrialEnd))
        self._reported |= self._running
        return events

    @property
    def _seconds_of_batch(self) -> float:
        return (self._limits.seconds or float("inf")) * len(self._proposals)

    @property
    def is_running(self) -> bool:
        """Whether there are unfinished trials."""
        return bool(self._running)

    def abandon(self) -> None:
        """Stop all trials; the objective cleans up."""
        if self._running:
            self._running = set()
            self._send((_ABANDON, None))
            deadline = time.monotonic() + _EXIT_TIMEOUT_SECONDS
            while (reply := self._receive(deadline)) == _BEGUN:
                self._has_begun = True
            if reply != _ABANDONED:
                self._kill()

    def close(self) -> None:
        """Stop all trials and end the process."""
        if self._process is None:
            return
        self.abandon()
        if self._process is not None:
            self._process.stdin.close()  # type: ignore[union-attr]  # the worker exits when its stdin is closed
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_EXIT_TIMEOUT_SECONDS)
            self._kill()

    # ------------------------------------------------------------------------------------------------ the process

    def _start(self) -> None:
        self._connection, worker_end = Pipe()
        with worker_end:
            self._process = subprocess.Popen(  # noqa: S603 - this module, by this interpreter
                [sys.executable, "-m", __name__, str(worker_end.fileno())],
                stdin=subprocess.PIPE,  # closed when this process ends, even if it is killed
                pass_fds=[worker_end.fileno()],
                env={**self._environment, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
            )
        self._send(self._objective)

    def _send(self, message: Any) -> None:
        if self._connection is not None:
            with contextlib.suppress(OSError):  # the worker has ended, which is detected when it does not reply
                self._connection.send(message)

    def _wait_for_events(self) -> list[Event]:
        """Wait until the worker replies, dies or exceeds a limit."""
        while True:
            reply = self._receive(time.monotonic() + _CHECK_SECONDS)
            if isinstance(reply, list):
                return reply
            if reply == _BEGUN:
                self._has_begun = True
                self._deadline = time.monotonic() + self._seconds_of_batch
            elif reply == _DEAD:
                code = self._wait_for_exit()
                if code != -signal.SIGKILL or self._has_begun or self._n_lost_starts == _MAX_LOST_STARTS:
                    return self._end_all(_ending_of_dead_worker(code))
                self._n_lost_starts += 1
                self._start()
                self._send((_BEGIN, self._proposals))
                self._send((_ADVANCE, ()))
            elif time.monotonic() > self._search_deadline:
                self._kill()
                return self._end_all(TrialEnd(Outcome.STOPPED, facts={"stopped_by": "time"}))
            elif time.monotonic() > self._deadline:
                return self._end_late()
            elif self._exceeds(self._limits.memory):
                return self._end_all(self._ending_of_large_worker())

    def _receive(self, until: float) -> Any:
        """Return the next reply of the worker, None if there is none until then, or _DEAD if the worker has ended."""
        if self._connection is None or self._process is None:
            return _DEAD
        try:
            if self._connection.poll(max(0.0, until - time.monotonic())):
                return self._connection.recv()
        except (EOFError, OSError, pickle.UnpicklingError):
            return _DEAD
        return None if self._process.poll() is None else _DEAD

    def _exceeds(self, n_bytes: int | None) -> bool:
        if n_bytes is None or self._process is None:
            return False
        try:
            usage = psutil.Process(self._process.pid).memory_info()
        except psutil.Error:
            return False  # it has just exited
        return usage.rss - getattr(usage, "shared", 0) > n_bytes

    def _wait_for_exit(self) -> int | None:
        """Return the exit code of a process that is ending. It is awaited, because a kill would replace it."""
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_EXIT_TIMEOUT_SECONDS)
        return self._kill()

    def _kill(self) -> int | None:
        """Kill the process if it still runs, and return its exit code."""
        if self._process is None:
            return None
        self._process.kill()
        code = self._process.wait()
        self._process.stdin.close()  # type: ignore[union-attr]
        if self._connection is not None:
            self._connection.close()
        self._process = self._connection = None
        return code

    # ---------------------------------------------------------------------------------------- how its trials ended

    def _end_all(self, ending: TrialEnd) -> list[Event]:
        return [(number, ending) for number in sorted(self._running)]

    def _end_late(self) -> list[Event]:
        self._kill()
        stopped = TrialEnd(Outcome.STOPPED, facts={"stopped_by": "trial-time"})
        failed = TrialEnd.from_error(
            TrialTimeoutError(
                f"A trial may take {self._limits.seconds:g} s and this one had not finished its first epoch. "
                "Raise --trial-time, or search smaller networks."
            )
        )
        return [(number, stopped if number in self._reported else failed) for number in sorted(self._running)]

    def _ending_of_large_worker(self) -> TrialEnd:
        self._kill()
        limit = (self._limits.memory or 0) / 2**30
        return TrialEnd.from_error(
            OutOfMemoryError(f"A trial may use {limit:.1f} GiB of memory and this one used more. Raise --memory-per-trial.")
        )


def _ending_of_dead_worker(code: int | None) -> TrialEnd:
    if code is None or code >= 0:
        return TrialEnd.from_error(WorkerDiedError(f"The process of the trial exited with code {code}."))
    name = signal.Signals(-code).name
    hint = " The system does this when memory runs out. Run fewer trials at once (--concurrency)." if code == -9 else ""
    return TrialEnd.from_error(WorkerDiedError(f"The process of the trial was killed by {name}.{hint}"))


# ------------------------------------------------------------------------------------------------------- in the worker


def _serve(connection: Connection[Any, Any]) -> None:
    """Execute the requests of the executor until it closes the connection."""
    try:
        objective: Objective = connection.recv()
        if isinstance(objective, LoadableObjective):
            objective.load_libraries()
    except Exception as error:  # noqa: BLE001 - every trial ends with this error
        objective = _unloadable(error)
    batch: Batch | None = None
    while True:
        try:
            request, argument = connection.recv()
        except (EOFError, OSError):
            return
        if request == _BEGIN:
            batch = Batch(objective, argument)
            connection.send(_BEGUN)
        elif batch is not None and request == _ADVANCE:
            batch.stop(argument)
            connection.send(batch.advance())
        else:
            if batch is not None:
                batch.close()
            connection.send(_ABANDONED)


def _unloadable(error: Exception) -> Objective:
    """Return an objective whose trials fail with the error of loading the real one."""
    return lambda _: failing(error)


def _exit_with_parent() -> None:
    """End this process, even during a computation, when the process that started it has ended."""
    os.read(sys.stdin.fileno(), 1)
    os._exit(0)


def main() -> None:
    """Serve the process at the other end of the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the driver handles Ctrl-C
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    with Connection(int(sys.argv[1])) as connection:
        _serve(connection)


if __name__ == "__main__":
    main()
