"""Trials in a worker process: the reason of an unexpected exit is reported, and no process remains."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import pytest

from automl_cxr.engine.protocol import Outcome, Proposal, Report, TrialEnd
from automl_cxr.engine.worker import Worker, WorkerLimits
from automl_cxr.errors import RetryPolicy

MIB = 2**20
_allocated = []


def run_scripted_trial(proposal, folder=None):
    behaviour = proposal.values["behaviour"]
    try:
        yield Report(1, 0.5, facts={"pid": os.getpid(), "threads": os.environ.get("OMP_NUM_THREADS")})
        if behaviour == "grows":
            _allocated.append(bytearray(os.urandom(1) * (300 * MIB)))
        if behaviour == "hangs":
            threading.Event().wait()
        if behaviour == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if behaviour == "exits":
            os._exit(3)
        yield Report(2, 0.6)
        return {"score": 0.6}
    except GeneratorExit:
        Path(folder, f"closed-{proposal.number}").touch()
        raise


class BatchObjective:
    """An objective that runs batches; a trial that hangs blocks the others."""

    def can_batch(self, _proposal):
        return True

    def __call__(self, proposal):
        return run_scripted_trial(proposal)

    def run_batch(self, proposals):
        return [run_scripted_trial(proposal) for proposal in proposals]


def run_and_grow(_proposal):
    yield Report(1, 0.5)
    allocated = bytearray(os.urandom(1) * (300 * MIB))
    threading.Event().wait()
    yield Report(2, len(allocated))


@dataclass(frozen=True)
class KilledWhileLoading:
    """An objective whose first processes are killed while they load its libraries."""

    log: Path
    n_killed: int

    def load_libraries(self):
        with self.log.open("a") as file:
            file.write("x")
        if len(self.log.read_text()) <= self.n_killed:
            os.kill(os.getpid(), signal.SIGKILL)

    def __call__(self, proposal):
        return run_scripted_trial(proposal)


class _Unloadable:
    def __call__(self, proposal):
        raise AssertionError

    def __reduce__(self):
        return _fail_to_load, ()


def _fail_to_load():
    raise ImportError("no such thing here")


def run_and_hang_at_once(proposal):
    threading.Event().wait()
    yield Report(1, 0.5)


@pytest.fixture
def start(tmp_path):
    workers = []

    def start_worker(objective=None, **limits):
        environment = {"OMP_NUM_THREADS": "3"}
        worker = Worker(
            objective or partial(run_scripted_trial, folder=tmp_path), limits=WorkerLimits(**limits), environment=environment
        )
        workers.append(worker)
        return worker

    yield start_worker
    for worker in workers:
        worker.close()


def run(worker, number, behaviour):
    """Return the reports and the ending of a trial."""
    worker.begin([Proposal(number, {"behaviour": behaviour})])
    reports = []
    while isinstance(event := worker.advance()[0][1], Report):
        reports.append(event)
    assert not worker.is_running
    return reports, event


def test_a_worker_runs_one_trial_after_the_other(start):
    worker = start()
    first, ending = run(worker, 0, "finishes")
    assert ending == TrialEnd(Outcome.FINISHED, facts={"score": 0.6})
    assert [report.epoch for report in first] == [1, 2]
    second, _ = run(worker, 1, "finishes")
    assert first[0].facts == second[0].facts == {"pid": worker.pid, "threads": "3"}
    assert worker.pid != os.getpid()


def test_an_abandoned_trial_cleans_up_and_the_next_one_begins(start, tmp_path):
    worker = start()
    worker.begin([Proposal(0, {"behaviour": "finishes"})])
    assert [(number, report.epoch) for number, report in worker.advance()] == [(0, 1)]
    reports, ending = run(worker, 1, "finishes")
    assert (tmp_path / "closed-0").exists()
    assert [report.epoch for report in reports] == [1, 2]
    assert ending.outcome is Outcome.FINISHED


def test_a_trial_is_not_blamed_for_workers_that_are_killed_while_they_load_libraries(start, tmp_path):
    worker = start(KilledWhileLoading(tmp_path / "log", n_killed=1))
    for number in range(2):
        reports, ending = run(worker, number, "finishes")
        assert ([report.epoch for report in reports], ending.outcome) == ([1, 2], Outcome.FINISHED)
    assert (tmp_path / "log").read_text() == "xx"


def test_a_worker_that_is_always_killed_while_it_loads_libraries_fails_the_trial(start, tmp_path, monkeypatch):
    monkeypatch.setattr("automl_cxr.engine.worker._MAX_LOST_STARTS", 1)
    _, ending = run(start(KilledWhileLoading(tmp_path / "log", n_killed=100)), 0, "")
    assert re.match("WorkerDiedError: .* killed by SIGKILL", ending.error)
    assert (tmp_path / "log").read_text() == "xx"


def test_a_trial_is_not_blamed_for_a_worker_that_was_killed_before_it_began(start):
    worker = start()
    run(worker, 0, "finishes")
    psutil.Process(worker.pid).kill()
    assert run(worker, 1, "finishes")[1].outcome is Outcome.FINISHED


def test_a_trial_that_exceeds_the_time_of_the_search_is_stopped(start):
    worker = start()
    run(worker, 0, "finishes")
    worker.begin([Proposal(1, {"behaviour": "hangs"}, kill_after=0.2)])
    assert isinstance(worker.advance()[0][1], Report)
    assert worker.advance() == [(1, TrialEnd(Outcome.STOPPED, facts={"stopped_by": "time"}))]
    assert run(worker, 2, "finishes")[1].outcome is Outcome.FINISHED


@pytest.mark.parametrize(
    ("behaviour", "error"),
    [("killed", "WorkerDiedError: .* killed by SIGKILL"), ("exits", "WorkerDiedError: .* exited with code 3")],
)
def test_an_unexpected_exit_of_a_worker_fails_only_its_trial(start, behaviour, error):
    worker = start()
    reports, ending = run(worker, 0, behaviour)
    assert [report.epoch for report in reports] == [1]
    assert ending.outcome is Outcome.FAILED
    assert re.match(error, ending.error)
    assert ending.retry == RetryPolicy(times=2)
    assert run(worker, 1, "finishes")[1].outcome is Outcome.FINISHED


def test_a_trial_that_hangs_is_stopped_at_its_time_limit(start):
    _, ending = run(start(seconds=2.0), 0, "hangs")
    assert ending == TrialEnd(Outcome.STOPPED, facts={"stopped_by": "trial-time"})


def test_a_trial_that_hangs_before_its_first_epoch_has_failed(start):
    _, ending = run(start(run_and_hang_at_once, seconds=1.0), 0, "")
    assert re.match(r"TrialTimeoutError: A trial may take 1 s .* --trial-time", ending.error)
    assert ending.retry == RetryPolicy()


def test_all_remaining_trials_of_a_batch_that_hangs_are_stopped(start):
    worker = start(BatchObjective(), seconds=0.5)
    worker.begin(
        [Proposal(number, {"behaviour": behaviour}) for number, behaviour in enumerate(["finishes", "finishes", "hangs"])]
    )
    before = time.monotonic()
    assert [number for number, _ in worker.advance()] == [0, 1, 2]
    stopped = TrialEnd(Outcome.STOPPED, facts={"stopped_by": "trial-time"})
    assert worker.advance(stopped=[1]) == [(0, stopped), (2, stopped)]
    assert time.monotonic() - before >= 1.5
    assert not worker.is_running


def test_a_trial_above_its_memory_limit_fails_and_may_be_repeated_with_half_the_batch_size(start):
    _, ending = run(start(run_and_grow, memory=250 * MIB), 0, "")
    assert re.match(r"OutOfMemoryError: A trial may use 0.2 GiB", ending.error)
    assert ending.retry == RetryPolicy(times=1, halves_batch=True)


def read_a_large_file(proposal, path):
    yield Report(1, 0.5)
    total = int(np.load(path, mmap_mode="r").sum())
    psutil.cpu_percent(interval=0.6)  # time for the executor to check the memory
    yield Report(2, 0.5)
    return {"total": total}


def test_memory_mapped_files_do_not_count_as_memory(start, tmp_path):
    np.save(tmp_path / "images.npy", np.ones(300 * MIB, np.uint8))
    _, ending = run(start(partial(read_a_large_file, path=tmp_path / "images.npy"), memory=250 * MIB), 0, "")
    assert ending.facts == {"total": 300 * MIB}


def test_a_worker_that_uses_too_much_memory_is_replaced(start):
    worker = start(watermark=250 * MIB)
    run(worker, 0, "finishes")
    first = worker.pid
    run(worker, 1, "grows")
    assert worker.pid == first
    reports, _ = run(worker, 2, "finishes")
    assert reports[0].facts["pid"] != first
    assert not psutil.pid_exists(first)


def test_the_error_of_an_objective_that_cannot_be_loaded_is_reported(start):
    worker = start(_Unloadable())
    _, ending = run(worker, 0, "")
    assert ending.error == "ImportError: no such thing here"


PARENT = """
import os, sys
from automl_cxr.engine.protocol import Proposal
from automl_cxr.engine.worker import Worker, WorkerLimits
from tests.engine.test_worker import run_and_hang_at_once
worker = Worker(run_and_hang_at_once, limits=WorkerLimits(), environment={})
worker.begin([Proposal(0, {})])
print(worker.pid, flush=True)
worker.advance()
"""


def test_a_worker_exits_with_the_process_that_started_it():
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True) as parent:
        worker = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
    worker.wait(timeout=20)
