"""Heartbeats, the commit lock, and drivers that are suspended and resumed, with real processes."""

import contextlib
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from filelock import FileLock, Timeout

from automl_cxr.records import TrialState
from automl_cxr.study.commit_lock import CommitLock
from automl_cxr.study.heartbeat import DriverHeartbeat, DriverMonitor, HeartbeatSettings

SETTINGS = HeartbeatSettings(interval_seconds=0.05, timeout_seconds=1.5)
FILES = {"config.json", "valid.npz"}


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


def monitor_on_another_machine(folder, clock):
    return DriverMonitor(folder, clock=clock, machine="another")


def test_an_ended_driver_is_not_alive(tmp_path):
    with DriverHeartbeat(tmp_path, settings=SETTINGS) as heartbeat:
        assert DriverMonitor(tmp_path).alive() == {heartbeat.driver}
    assert DriverMonitor(tmp_path).alive() == set()
    assert not list((tmp_path / "drivers").iterdir())


def test_a_driver_on_another_machine_is_alive_while_its_counter_changes_even_without_a_lock(tmp_path):
    (tmp_path / "drivers").mkdir()
    (tmp_path / "drivers" / "far.lock").touch()
    beat_file = tmp_path / "drivers" / "far.beat"
    beat_file.write_text("other-machine 0")
    clock = Clock()
    monitor = monitor_on_another_machine(tmp_path, clock)
    assert monitor.alive() == {"far"}
    assert not monitor.is_verified("far")
    clock.now += 89
    assert monitor.alive() == {"far"}
    beat_file.write_text("other-machine 1")
    assert monitor.alive() == {"far"}
    assert monitor.is_verified("far")
    clock.now += 89
    assert monitor.alive() == {"far"}
    clock.now += 2
    assert monitor.alive() == set()
    assert not beat_file.exists(), "the files of a dead driver are removed"


def test_on_the_same_machine_a_released_lock_proves_that_a_driver_is_dead(tmp_path):
    with DriverHeartbeat(tmp_path, settings=SETTINGS) as heartbeat:
        heartbeat._lock.release()
        assert monitor_on_another_machine(tmp_path, Clock()).alive() == {heartbeat.driver}
        assert DriverMonitor(tmp_path).alive() == set()


def test_a_driver_whose_heartbeat_has_stopped_is_dead_even_if_it_holds_its_lock(tmp_path):
    with DriverHeartbeat(tmp_path, settings=HeartbeatSettings(interval_seconds=1000)) as silent:
        clock = Clock()
        monitor = DriverMonitor(tmp_path, clock=clock)
        assert monitor.alive() == {silent.driver}
        clock.now += 91
        assert monitor.alive() == set()
        assert (tmp_path / "drivers" / f"{silent.driver}.lock").exists()


SCRIPT = """
import sys, time
from pathlib import Path
sys.path.insert(0, {folder!r})
from fast_trials import QuickObjective, RecordingListener, write_images
from automl_cxr.engine.inline_execution import run_inline
from automl_cxr.study.heartbeat import HeartbeatSettings
from automl_cxr.study.budget import Budget
from automl_cxr.study.runner import run_search
from automl_cxr.study.store import StudyStore
runs = Path({runs!r})
store = StudyStore.open("s", runs=runs, storage=f"sqlite:///{{runs / 'studies.db'}}")
def wait(proposal, epoch):
    if epoch == 2:
        print(proposal.number, flush=True)
        time.sleep({pause})
listener = RecordingListener()
run_search(
    store, write_images(runs), weights_folder=None, sampler="tpe", listener=listener,
    budget=Budget(n_trials={trials}, seconds=None, keep_models=99),
    execute=lambda objective, proposer: run_inline(QuickObjective(objective, between_epochs=wait), proposer),
    heartbeat_settings=HeartbeatSettings(
        interval_seconds={settings.interval_seconds}, timeout_seconds={settings.timeout_seconds}
    ),
)
print("lost", *listener.lost)
"""


def start_search(store, trials, pause=0.05):
    folder, runs = str(Path(__file__).parents[1]), str(store.folder.parent)
    script = SCRIPT.format(folder=folder, runs=runs, trials=trials, pause=pause, settings=SETTINGS)
    return subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)


def last_line(search):
    output, _ = search.communicate(timeout=60)
    assert search.returncode == 0
    return output.splitlines()[-1]


def assert_complete(store, trials):
    records = store.records()
    assert [record.number for record in records] == list(range(trials))
    assert {record.state for record in records} == {TrialState.COMPLETE}
    assert len({str(record.params) for record in records}) == trials
    for record in records:
        assert {path.name for path in store.trial_folder(record.number).iterdir()} >= FILES
        assert list(record.scores) == [1, 2, 3]
    assert not list((store.folder / "trials").glob(".*"))
    assert not list((store.folder / "drivers").iterdir())


@pytest.mark.long
def test_a_suspended_driver_loses_its_trial_and_does_not_commit_it_after_it_resumes(prepare, quick_search):
    prepared = prepare()
    suspended = start_search(prepared.store, trials=3)
    assert suspended.stdout.readline() == "0\n"
    suspended.send_signal(signal.SIGSTOP)
    listener = quick_search(prepared, trials=3)
    assert listener.resumed == [0]
    assert listener.ended == [1, 2, 0]
    suspended.send_signal(signal.SIGCONT)
    assert last_line(suspended) == "lost 0"
    assert_complete(prepared.store, 3)
    assert prepared.store.record(0).attempts == 2
    assert not listener.lost


@pytest.mark.long
def test_a_driver_that_resumes_while_another_one_runs_its_trial_stops_it(prepare, quick_search):
    prepared = prepare()
    suspended = start_search(prepared.store, trials=2)
    assert suspended.stdout.readline() == "0\n"
    suspended.send_signal(signal.SIGSTOP)
    last_lines = []

    def resume(proposal, epoch):
        if proposal.number == 0 and epoch == 1:
            suspended.send_signal(signal.SIGCONT)
            last_lines.append(last_line(suspended))

    listener = quick_search(prepared, trials=2, between_epochs=resume)
    assert last_lines == ["lost 0"]
    assert listener.ended == [1, 0]
    assert_complete(prepared.store, 2)


@pytest.mark.long
def test_drivers_suspended_at_random_moments_run_each_trial_exactly_once(prepare):
    store = prepare().store
    rng = random.Random(3)
    searches = [start_search(store, trials=40, pause=0.05) for _ in range(2)]
    for search in searches:
        assert search.stdout.readline()
    for _ in range(2):
        for search in searches:
            search.send_signal(signal.SIGSTOP)
            with contextlib.suppress(subprocess.TimeoutExpired):  # on a fast machine the other driver may end earlier
                searches[0 if search is searches[1] else 1].wait(timeout=rng.uniform(1.6, 2.0))
            search.send_signal(signal.SIGCONT)
    for search in searches:
        last_line(search)
    assert_complete(store, 40)


def test_a_driver_regards_itself_as_alive(tmp_path):
    now = [0.0]
    with DriverHeartbeat(tmp_path, settings=HeartbeatSettings(interval_seconds=1000, timeout_seconds=1)) as heartbeat:
        heartbeat.monitor._clock = lambda: now[0]
        assert heartbeat.monitor.alive() == {heartbeat.driver}
        now[0] = 50.0  # its folder was unavailable, and its heartbeat could not be written
        assert heartbeat.monitor.alive() == {heartbeat.driver}
        assert heartbeat.monitor.is_verified(heartbeat.driver)


HOLDER = """
import sys
from pathlib import Path
from automl_cxr.study.commit_lock import CommitLock
with CommitLock(Path(sys.argv[1]), on_timeout=print):
    print("acquired", flush=True)
    input()
print("released")
"""


@contextlib.contextmanager
def lock_holder(folder):
    """Start a process that holds the lock of a study until it reads a line."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(folder)], **pipes) as holder:
        try:
            assert holder.stdout.readline() == "acquired\n"
            yield holder
        finally:
            holder.kill()


def test_a_suspended_holder_of_the_lock_delays_other_drivers_only_until_the_timeout(tmp_path):
    messages = []
    with lock_holder(tmp_path) as suspended:
        suspended.send_signal(signal.SIGSTOP)
        lock = CommitLock(tmp_path, on_timeout=messages.append, timeout_seconds=0.5)
        with lock, lock:
            assert [str(tmp_path) in message for message in messages] == [True]
            suspended.send_signal(signal.SIGCONT)
            assert suspended.communicate("\n", timeout=30)[0] == "released\n"
            with pytest.raises(Timeout):
                FileLock(tmp_path / "propose.lock").acquire(timeout=0)
        with CommitLock(tmp_path, on_timeout=messages.append, timeout_seconds=0.5):
            assert len(messages) == 1


def test_a_driver_waits_for_the_lock_until_its_holder_is_killed(tmp_path):
    messages = []
    with lock_holder(tmp_path) as holder:
        started = time.monotonic()
        threading.Timer(0.4, holder.kill).start()
        with CommitLock(tmp_path, on_timeout=messages.append):
            assert time.monotonic() - started >= 0.4
    assert not messages


@pytest.mark.slow
def test_a_clock_that_is_set_back_does_not_prolong_a_search(prepare, quick_search, monkeypatch):
    real = time.time
    hours = iter(range(1_000_000))
    monkeypatch.setattr(time, "time", lambda: real() - 3600 * next(hours))
    prepared = prepare()
    seconds_left = []
    started = time.monotonic()
    quick_search(prepared, seconds=1.0, between_epochs=lambda proposal, _: seconds_left.append(proposal.seconds))
    assert time.monotonic() - started < 10
    assert seconds_left == sorted(seconds_left, reverse=True)
    assert 0 <= min(seconds_left) <= max(seconds_left) <= 1.0
