"""A temporarily unavailable storage: the search waits and reports it once, and no trial is lost or duplicated."""

import random
import sqlite3
import subprocess
import sys
import threading

import optuna
import pytest
from sqlalchemy.exc import OperationalError

from automl_cxr.engine.inline_execution import run_inline
from automl_cxr.errors import StudyError
from automl_cxr.records import TrialState
from automl_cxr.storage.retrying_storage import RetryingStorage
from automl_cxr.storage.storage_proxy import StorageProxy
from automl_cxr.storage.urls import open_storage
from automl_cxr.study.budget import Budget
from automl_cxr.study.heartbeat import HeartbeatSettings
from automl_cxr.study.runner import run_search
from automl_cxr.study.store import StudyStore


def locked_error():
    return OperationalError("statement", {}, sqlite3.OperationalError("database is locked"))


class Unreliable(StorageProxy):
    """A storage that rejects one call in five, and loses the reply of one in five of the others."""

    rng = random.Random(3)
    is_armed = False

    def _call_backend(self, call):
        if self.is_armed and self.rng.random() < 0.2:
            raise locked_error()
        result = call()
        if self.is_armed and self.rng.random() < 0.2:
            raise locked_error()
        return result


def search(store, *, trials, listener, quick_objective, **settings):
    from tests.fast_trials import write_images

    run_search(
        store,
        write_images(store.folder),
        weights_folder=None,
        sampler="random",
        budget=Budget(n_trials=trials, seconds=None, keep_models=3),
        execute=lambda real, proposer: run_inline(quick_objective(real, **settings), proposer),
        listener=listener,
        heartbeat_settings=HeartbeatSettings(interval_seconds=0.05, timeout_seconds=1.0),
    )


def store_with(store, storage):
    return StudyStore(store.name, optuna.load_study(study_name=store.name, storage=storage), store.folder)


@pytest.fixture
def listener():
    from tests.fast_trials import RecordingListener

    return RecordingListener()


@pytest.fixture
def short_pauses(monkeypatch):
    monkeypatch.setattr("automl_cxr.storage.retrying_storage._FIRST_PAUSE", 0.001)
    monkeypatch.setattr("automl_cxr.storage.retrying_storage._LONGEST_PAUSE", 0.002)


@pytest.mark.long
def test_lost_replies_neither_lose_nor_duplicate_a_trial(prepare, quick_search, quick_objective, listener, short_pauses):
    reference = prepare(name="reference", pruner="asha", epochs=3)
    quick_search(reference, trials=8)
    prepared = prepare(pruner="asha", epochs=3)
    unreliable = Unreliable(prepared.store.study._storage)
    store = store_with(prepared.store, unreliable)
    unreliable.is_armed = True
    search(store, trials=8, listener=listener, quick_objective=quick_objective)
    assert listener.storage_errors
    assert prepared.store.records() == reference.store.records()
    assert listener.resumed == []


@pytest.mark.slow
def test_a_commit_with_a_lost_reply_is_not_repeated(
    prepare, quick_search, quick_objective, listener, short_pauses, monkeypatch
):
    """Reject one in ten commits of the database, and lose the reply of one in ten of the others."""
    reference = prepare(name="reference", pruner="asha", epochs=3)
    quick_search(reference, trials=8)
    prepared = prepare(pruner="asha", epochs=3)
    dialect = prepared.store.study._storage._backend.engine.dialect
    commit, rng = dialect.do_commit, random.Random(3)

    def unreliable(connection):
        if rng.random() < 0.1:
            raise sqlite3.OperationalError("database or disk is full")
        commit(connection)
        if rng.random() < 0.1:
            raise sqlite3.OperationalError("disk I/O error")

    def create_without_faults(self, *arguments):
        monkeypatch.setattr(dialect, "do_commit", commit)  # Optuna repeats a failed creation itself
        try:
            return create(self, *arguments)
        finally:
            monkeypatch.setattr(dialect, "do_commit", unreliable)

    create = optuna.storages.RDBStorage._create_new_trial
    monkeypatch.setattr(optuna.storages.RDBStorage, "_create_new_trial", create_without_faults)
    monkeypatch.setattr(dialect, "do_commit", unreliable)
    search(prepared.store, trials=8, listener=listener, quick_objective=quick_objective)
    monkeypatch.undo()
    assert listener.storage_errors
    assert prepared.store.records() == reference.store.records()


LOCKER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN EXCLUSIVE")
print("locked", flush=True)
sys.stdin.readline()
connection.execute("ROLLBACK")
"""


@pytest.mark.slow
def test_a_search_waits_for_a_locked_file(prepare, quick_objective, listener, tmp_path):
    store = prepare().store
    store = store_with(store, open_storage(f"sqlite:///{tmp_path / 'studies.db'}", busy_seconds=0.1))
    lockers = []

    def lock(proposal, epoch):
        if (proposal.number, epoch) in ((1, 2), (2, 1)):
            locker = subprocess.Popen([sys.executable, "-c", LOCKER, str(tmp_path / "studies.db")],
                                      stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)  # fmt: skip
            assert locker.stdout.readline() == "locked\n"
            lockers.append(locker)

    listener.on_storage_away = lambda reason: (listener.storage_errors.append(reason), release())

    def release():
        threading.Timer(0.7, lambda: lockers[-1].communicate("\n")).start()

    search(store, trials=4, listener=listener, quick_objective=quick_objective, between_epochs=lock)
    assert listener.storage_errors == ["database is locked"] * 2
    assert [record.state for record in store.records()] == [TrialState.COMPLETE] * 4
    assert all(list(record.scores) == [1, 2, 3] for record in store.records())


@pytest.mark.slow
def test_a_search_that_ends_at_an_unavailable_storage_can_be_resumed(
    prepare, quick_search, quick_objective, listener, tmp_path, monkeypatch
):
    prepared = prepare()
    monkeypatch.setattr("automl_cxr.study.store.PATIENCE_SECONDS", 0.3)
    monkeypatch.setattr(StudyStore.for_driver, "__kwdefaults__", {"patience": 0.3})
    store = store_with(prepared.store, open_storage(f"sqlite:///{tmp_path / 'studies.db'}", busy_seconds=0.05))
    lockers = []

    def lock(proposal, epoch):
        if (proposal.number, epoch) == (1, 2):
            lockers.append(subprocess.Popen([sys.executable, "-c", LOCKER, str(tmp_path / "studies.db")],
                                            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))  # fmt: skip
            assert lockers[0].stdout.readline() == "locked\n"

    with pytest.raises(StudyError, match=r"The storage failed \(database is locked\).*the same command continues"):
        search(store, trials=3, listener=listener, quick_objective=quick_objective, between_epochs=lock)
    lockers[0].communicate("\n")
    assert quick_search(prepared, trials=3).resumed == [1]
    assert [record.state for record in prepared.store.records()] == [TrialState.COMPLETE] * 3


@pytest.mark.long
@pytest.mark.parametrize("kind", ["grpc", pytest.param("postgresql", marks=pytest.mark.postgres)])
def test_a_search_waits_for_a_server_that_is_restarted(request, kind, prepare, quick_objective, listener, tmp_path):
    server = request.getfixturevalue("proxy" if kind == "grpc" else "postgres")
    if kind == "postgresql":
        server.empty()
    prepare(storage=server.url)
    store = StudyStore.open("s", runs=tmp_path, storage=server.url)

    def stop_server(proposal, epoch):
        if proposal.number == 1 and epoch == 2:
            server.stop()

    def restart_server(reason):
        listener.storage_errors.append(reason)
        server.start()

    listener.on_storage_away = restart_server
    search(store, trials=4, listener=listener, quick_objective=quick_objective, between_epochs=stop_server)
    assert len(listener.storage_errors) == 1
    assert [record.state for record in store.records()] == [TrialState.COMPLETE] * 4
    assert all(list(record.scores) == [1, 2, 3] for record in store.records())


def test_permanent_errors_are_not_retried(tmp_path):
    reasons = []
    storage = RetryingStorage(open_storage(f"sqlite:///{tmp_path / 'x.db'}"), patience=60, on_away=reasons.append)
    with pytest.raises(KeyError):
        storage.get_study_id_from_name("nothing")
    assert reasons == []
