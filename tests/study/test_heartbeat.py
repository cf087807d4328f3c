"""Who lives and who is dead, and what becomes of a search that was taken for dead and wakes. Real processes, really frozen."""

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


def watch_from_elsewhere(folder, clock):
    return DriverMonitor(folder, clock=clock, machine="another")


def test_a_search_that_ended_is_not_alive(tmp_path):
    with DriverHeartbeat(tmp_path, settings=SETTINGS) as heartbeat:
        assert DriverMonitor(tmp_path).alive() == {heartbeat.driver}
    assert DriverMonitor(tmp_path).alive() == set()
    assert not list((tmp_path / "drivers").iterdir())


def test_on_another_machine_the_counter_decides_and_a_free_lock_proves_nothing(tmp_path):
    (tmp_path / "drivers").mkdir()
    (tmp_path / "drivers" / "far.lock").touch()
    beat = tmp_path / "drivers" / "far.beat"
    beat.write_text("there 0")
    clock = Clock()
    watch = watch_from_elsewhere(tmp_path, clock)
    assert watch.alive() == {"far"}
    assert not watch.is_verified("far")
    clock.now += 89
    assert watch.alive() == {"far"}
    beat.write_text("there 1")
    assert watch.alive() == {"far"}
    assert watch.is_verified("far")
    clock.now += 89
    assert watch.alive() == {"far"}
    clock.now += 2
    assert watch.alive() == set()
    assert not beat.exists(), "both signs of life are gone: it is swept up"


def test_on_the_same_machine_a_free_lock_is_proof(tmp_path):
    with DriverHeartbeat(tmp_path, settings=SETTINGS) as heartbeat:
        heartbeat._lock.release()
        assert watch_from_elsewhere(tmp_path, Clock()).alive() == {heartbeat.driver}
        assert DriverMonitor(tmp_path).alive() == set()


def test_a_held_lock_does_not_help_a_search_that_is_silent(tmp_path):
    with DriverHeartbeat(tmp_path, settings=HeartbeatSettings(interval_seconds=1000)) as hanging:
        clock = Clock()
        watch = DriverMonitor(tmp_path, clock=clock)
        assert watch.alive() == {hanging.driver}
        clock.now += 91
        assert watch.alive() == set()
        assert (tmp_path / "drivers" / f"{hanging.driver}.lock").exists()


SCRIPT = """
import sys, time
from pathlib import Path
sys.path.insert(0, {folder!r})
from fast_trials import QuickObjective, Silence
from automl_cxr.engine.inline_execution import run_inline
from automl_cxr.study.heartbeat import HeartbeatSettings
from automl_cxr.study.budget import Budget
from automl_cxr.study.runner import run_search
from automl_cxr.study.store import StudyStore
runs = Path({runs!r})
store = StudyStore.open("s", runs=runs, storage=f"sqlite:///{{runs / 'studies.db'}}")
def between(proposal, epoch):
    if epoch == 2:
        print(proposal.number, flush=True)
        time.sleep({pause})
listener = Silence()
run_search(
    store, Path("unused.npy"), weights_folder=None, sampler="tpe", listener=listener,
    budget=Budget(n_trials={trials}, seconds=None, keep_models=99),
    execute=lambda objective, proposer: run_inline(QuickObjective(objective, between_epochs=between), proposer),
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
    said, _ = search.communicate(timeout=60)
    assert search.returncode == 0
    return said.splitlines()[-1]


def assert_whole(store, trials):
    records = store.records()
    assert [record.number for record in records] == list(range(trials))
    assert {record.state for record in records} == {TrialState.COMPLETE}
    assert len({str(record.params) for record in records}) == trials
    for record in records:
        assert {path.name for path in store.trial_folder(record.number).iterdir()} >= FILES
        assert list(record.scores) == [1, 2, 3]
    assert not list((store.folder / "trials").glob(".*"))
    assert not list((store.folder / "drivers").iterdir())


def test_a_frozen_search_loses_its_trial_and_does_not_double_it_when_it_wakes(prepare, quick_search):
    prepared = prepare()
    frozen = start_search(prepared.store, trials=3)
    assert frozen.stdout.readline() == "0\n"
    frozen.send_signal(signal.SIGSTOP)
    listener = quick_search(prepared, trials=3)
    assert listener.resumed == [0]
    assert listener.ended == [1, 2, 0]
    frozen.send_signal(signal.SIGCONT)
    assert last_line(frozen) == "lost 0"
    assert_whole(prepared.store, 3)
    assert prepared.store.record(0).attempts == 2
    assert not listener.lost


def test_a_search_that_wakes_while_its_trial_runs_elsewhere_leaves_it_there(prepare, quick_search):
    prepared = prepare()
    frozen = start_search(prepared.store, trials=2)
    assert frozen.stdout.readline() == "0\n"
    frozen.send_signal(signal.SIGSTOP)
    said = []

    def wake(proposal, epoch):
        if proposal.number == 0 and epoch == 1:
            frozen.send_signal(signal.SIGCONT)
            said.append(last_line(frozen))

    listener = quick_search(prepared, trials=2, between_epochs=wake)
    assert said == ["lost 0"]
    assert listener.ended == [1, 0]
    assert_whole(prepared.store, 2)


def test_searches_frozen_at_random_moments_lose_and_double_nothing(prepare):
    store = prepare().store
    rng = random.Random(3)
    searches = [start_search(store, trials=40, pause=0.05) for _ in range(2)]
    for search in searches:
        assert search.stdout.readline()
    for _ in range(2):
        for search in searches:
            search.send_signal(signal.SIGSTOP)
            with contextlib.suppress(subprocess.TimeoutExpired):  # on a fast machine the other one may be done by then
                searches[0 if search is searches[1] else 1].wait(timeout=rng.uniform(1.6, 2.0))
            search.send_signal(signal.SIGCONT)
    for search in searches:
        last_line(search)
    assert_whole(store, 40)


def test_a_search_never_takes_itself_for_dead(tmp_path):
    now = [0.0]
    with DriverHeartbeat(tmp_path, settings=HeartbeatSettings(interval_seconds=1000, timeout_seconds=1)) as heartbeat:
        heartbeat.monitor._clock = lambda: now[0]
        assert heartbeat.monitor.alive() == {heartbeat.driver}
        now[0] = 50.0  # its folder was away, and no beat arrived
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


def test_a_clock_set_back_lengthens_no_search(prepare, quick_search, monkeypatch):
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
