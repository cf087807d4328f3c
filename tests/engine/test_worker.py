"""Trials in a worker process: the cause of its death is reported, and no process remains."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import pytest

from automl_cxr.engine.protocol import Outcome, Proposal, Report, TrialEnd
from automl_cxr.engine.worker import Worker, WorkerLimits
from automl_cxr.errors import RetryPolicy

MIB = 2**20
_kept = []


def run_to_fate(proposal, folder=None):
    fate = proposal.values["fate"]
    try:
        yield Report(1, 0.5, facts={"pid": os.getpid(), "threads": os.environ.get("OMP_NUM_THREADS")})
        if fate == "grows":
            _kept.append(bytearray(os.urandom(1) * (300 * MIB)))
        if fate == "hangs":
            threading.Event().wait()
        if fate == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if fate == "exits":
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
        return run_to_fate(proposal)

    def run_batch(self, proposals):
        return [run_to_fate(proposal) for proposal in proposals]


def run_and_grow(_proposal):
    yield Report(1, 0.5)
    kept = bytearray(os.urandom(1) * (300 * MIB))
    threading.Event().wait()
    yield Report(2, len(kept))


class _Unloadable:
    def __call__(self, proposal):
        raise AssertionError

    def __reduce__(self):
        return _refuse, ()


def _refuse():
    raise ImportError("no such thing here")


def run_and_hang_at_once(proposal):
    threading.Event().wait()
    yield Report(1, 0.5)


@pytest.fixture
def start(tmp_path):
    workers = []

    def start_it(objective=None, **limits):
        environment = {"OMP_NUM_THREADS": "3"}
        worker = Worker(
            objective or partial(run_to_fate, folder=tmp_path), limits=WorkerLimits(**limits), environment=environment
        )
        workers.append(worker)
        return worker

    yield start_it
    for worker in workers:
        worker.close()


def run(worker, number, fate):
    """Return the reports and the ending of a trial."""
    worker.begin([Proposal(number, {"fate": fate})])
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
    worker.begin([Proposal(0, {"fate": "finishes"})])
    assert [(number, report.epoch) for number, report in worker.advance()] == [(0, 1)]
    reports, ending = run(worker, 1, "finishes")
    assert (tmp_path / "closed-0").exists()
    assert [report.epoch for report in reports] == [1, 2]
    assert ending.outcome is Outcome.FINISHED


@pytest.mark.parametrize(
    ("fate", "error"),
    [("killed", "WorkerDiedError: .* killed by SIGKILL"), ("exits", "WorkerDiedError: .* exited with code 3")],
)
def test_the_death_of_a_worker_ends_its_trial_only(start, fate, error):
    worker = start()
    reports, ending = run(worker, 0, fate)
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
    worker.begin([Proposal(number, {"fate": fate}) for number, fate in enumerate(["finishes", "finishes", "hangs"])])
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
