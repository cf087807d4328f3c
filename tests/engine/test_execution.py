"""The contract of all executors: proposals run, stopped trials are closed, and failures do not affect other trials."""

import itertools
import os
import signal
import subprocess
import sys
from collections import defaultdict
from dataclasses import dataclass, field
from functools import partial

import pytest
import ray

from automl_cxr.engine.inline_execution import run_inline
from automl_cxr.engine.placement import Placement, RayResources
from automl_cxr.engine.protocol import Decision, Outcome, Pause, Proposal, Report, TrialEnd, TrialRun
from automl_cxr.engine.ray_execution import run_with_ray, worker_environment
from automl_cxr.errors import RetryPolicy, UsageError

EPOCHS = 4


@dataclass
class ScriptedProposer:
    """A fake proposer of trials with given behaviours. It records all calls."""

    behaviours: list[str]
    epochs: dict[int, list[int]] = field(default_factory=lambda: defaultdict(list))
    endings: dict[int, TrialEnd] = field(default_factory=dict)
    n_proposed: int = 0
    was_idle: bool = False

    def propose(self):
        if self.n_proposed == len(self.behaviours):
            return Pause.OVER
        if self.behaviours[self.n_proposed] == "idle first" and not self.was_idle:
            self.was_idle = True
            return Pause.IDLE
        self.n_proposed += 1
        return Proposal(self.n_proposed - 1, {"behaviour": self.behaviours[self.n_proposed - 1]})

    def observe(self, number, report):
        self.epochs[number].append(report.epoch)
        return Decision.STOP if self.behaviours[number] == "stopped" and report.epoch == 2 else Decision.CONTINUE

    def finish(self, number, ending):
        assert number not in self.endings
        self.endings[number] = ending


def run_scripted_trial(proposal, folder):
    marker = folder / f"closed-{proposal.number}"
    try:
        for epoch in range(1, EPOCHS + 1):
            if proposal.values["behaviour"] == "raises" and epoch == 3:
                raise ValueError("two\nlines")
            if proposal.values["behaviour"] == "killed":
                with (folder / "killed").open("a") as file:
                    file.write("x")
                os.kill(os.getpid(), signal.SIGKILL)
            yield Report(epoch, score=proposal.number + epoch / 10)
        return {"score": 1.0, "pid": os.getpid()}
    except GeneratorExit:
        marker.touch()
        raise


def execute_with_ray(objective, proposer):
    run_with_ray(objective, proposer, resources=RayResources(concurrency=2, cpus_per_trial=1))


EXECUTORS = [run_inline, execute_with_ray]
BEHAVIOURS = ["finishes", "stopped", "raises", "finishes", "idle first", "stopped", "finishes"]


def assert_expected_ends(proposer):
    outcome_by_behaviour = {"stopped": Outcome.STOPPED, "raises": Outcome.FAILED, "killed": Outcome.FAILED}
    assert {number: ending.outcome for number, ending in proposer.endings.items()} == {
        number: outcome_by_behaviour.get(behaviour, Outcome.FINISHED) for number, behaviour in enumerate(proposer.behaviours)
    }
    lengths = {"stopped": 2, "raises": 2}
    assert proposer.epochs == {
        number: list(range(1, lengths.get(behaviour, EPOCHS) + 1))
        for number, behaviour in enumerate(proposer.behaviours)
        if behaviour != "killed"
    }
    assert proposer.endings[0].facts["score"] == 1.0
    assert proposer.endings[2].error == "ValueError: two lines"
    assert "run_scripted_trial" in proposer.endings[2].trace


def test_every_trial_ends_with_its_expected_outcome(tmp_path):
    proposer = ScriptedProposer(BEHAVIOURS)
    run_inline(partial(run_scripted_trial, folder=tmp_path), proposer)
    assert_expected_ends(proposer)
    assert {path.name for path in tmp_path.iterdir()} == {"closed-1", "closed-5"}


@pytest.mark.slow
def test_every_trial_ends_with_its_expected_outcome_on_ray_and_a_killed_worker_is_replaced(tmp_path):
    proposer = ScriptedProposer([*BEHAVIOURS, "killed", "finishes", "finishes"])
    execute_with_ray(partial(run_scripted_trial, folder=tmp_path), proposer)
    assert_expected_ends(proposer)
    assert {path.name for path in tmp_path.iterdir()} == {"closed-1", "closed-5", "killed"}
    assert "killed by SIGKILL" in proposer.endings[7].error
    assert proposer.endings[7].retry == RetryPolicy(times=2)
    assert (tmp_path / "killed").read_text() == "x"
    pids = {ending.facts["pid"] for ending in proposer.endings.values() if ending.outcome is Outcome.FINISHED}
    assert len(pids) <= 3  # of two workers, one of which was replaced; the other trials reuse them


@pytest.mark.long
@pytest.mark.parametrize("execute", EXECUTORS)
def test_an_error_of_the_proposer_ends_the_search_and_is_raised(execute, tmp_path):
    class Broken(ScriptedProposer):
        def observe(self, number, report):
            raise RuntimeError("the storage is gone")

    proposer = Broken(["finishes"] * 3)
    with pytest.raises(RuntimeError, match="the storage is gone"):
        execute(partial(run_scripted_trial, folder=tmp_path), proposer)
    assert proposer.endings == {}


def run_without_end(_proposal):
    for epoch in itertools.count(1):
        yield Report(epoch, 0.0)


def test_a_trial_that_takes_too_long_is_stopped_between_epochs_in_this_process():
    proposer = ScriptedProposer(["finishes"])
    run_inline(run_without_end, proposer, seconds_per_trial=0.05)
    assert proposer.endings[0] == TrialEnd(Outcome.STOPPED, facts={"stopped_by": "trial-time"})


def test_an_abandoned_attempt_cleans_up_once(tmp_path):
    attempt = TrialRun(run_scripted_trial(Proposal(7, {"behaviour": "finishes"}), tmp_path))
    assert attempt.advance() == Report(1, score=7.1)
    attempt.abandon()
    attempt.abandon()
    assert (tmp_path / "closed-7").exists()


GIB = 2**30


@pytest.mark.parametrize(
    ("address", "source"),
    [("127.0.0.1:1", "--address"), (None, "the environment variable RAY_ADDRESS")],
)
def test_an_address_without_a_cluster_is_reported_with_its_origin(monkeypatch, address, source):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(UsageError, match=f"No Ray cluster responds at 127.0.0.1:1, the value of {source} .*--address local"):
        run_with_ray(run_without_end, ScriptedProposer([]), resources=RayResources(address=address))


@pytest.mark.slow
def test_a_long_path_of_the_temporary_folder_gets_the_advice_of_a_shorter_one(monkeypatch, tmp_path):
    long_folder = tmp_path / ("x" * 60)
    long_folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(long_folder))
    with pytest.raises(UsageError, match=rf"at most 107 bytes .*{long_folder}.* RAY_TMPDIR"):
        run_with_ray(run_without_end, ScriptedProposer([]), resources=RayResources())
    assert not ray.is_initialized()


def test_a_failed_start_of_ray_is_repeated_once(monkeypatch):
    errors = [
        RuntimeError("Timed out waiting for file gcs_server_port"),
        Exception("The current node timed out\nduring startup"),
    ]

    def fail(**settings):
        raise errors.pop(0)

    monkeypatch.setattr("ray.init", fail)
    with pytest.raises(
        UsageError, match=r"cannot be started on this machine \(The current node timed out\).*--executor inline"
    ):
        run_with_ray(run_without_end, ScriptedProposer([]), resources=RayResources())
    assert errors == []


STARTING = """
import os, signal, sys, threading
from automl_cxr.engine import ray_execution
signal.signal(signal.SIGINT, signal.SIG_IGN)
signal.signal(signal.SIGTERM, signal.default_int_handler)
init = ray_execution.ray.init
def init_with_signal(**settings):
    init(**settings)  # its handler of SIGTERM exits
    os.kill(os.getpid(), signal.SIGTERM)
ray_execution.ray.init = init_with_signal if sys.argv[1] == "after" else init
if sys.argv[1] == "during":
    threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGTERM)).start()
try:
    ray_execution.run_with_ray(None, None, resources=ray_execution.RayResources())
except KeyboardInterrupt:
    print("interrupted, seconds to an alarm:", signal.alarm(0))
"""


@pytest.mark.long
@pytest.mark.parametrize("moment", ["during", "after"])
def test_a_search_is_interrupted_by_sigterm_while_ray_starts(moment):
    completed = subprocess.run([sys.executable, "-c", STARTING, moment], capture_output=True, text=True, check=False)
    assert (completed.returncode, completed.stdout) == (0, "interrupted, seconds to an alarm: 0\n"), completed.stderr


def test_the_environment_of_workers_limits_their_resources():
    environment = worker_environment(Placement(concurrency=4, cpus=2, gpus=0.25), GIB)
    assert environment["AUTOML_CXR_GPUS"] == "0.25"
    assert environment["AUTOML_CXR_MEMORY_LIMIT"] == str(GIB)
    assert environment["OMP_NUM_THREADS"] == "2"
    assert worker_environment(Placement(concurrency=1, cpus=1, gpus=2), None)["AUTOML_CXR_GPUS"] == "2"
    assert "CUDA_VISIBLE_DEVICES" not in environment  # Ray sets this variable


def test_no_gpu_is_visible_to_workers_without_one():
    environment = worker_environment(Placement(concurrency=1, cpus=1, gpus=0), None)
    assert environment["CUDA_VISIBLE_DEVICES"] == ""
    assert "AUTOML_CXR_GPUS" not in environment
