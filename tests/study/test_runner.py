import dataclasses
import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from automl_cxr.engine.inline_execution import run_inline
from automl_cxr.errors import StudyError
from automl_cxr.records import TrialState
from automl_cxr.results.dashboard.augmented_storage import AugmentedStorage
from automl_cxr.storage.urls import open_storage
from automl_cxr.study.budget import Budget
from automl_cxr.study.heartbeat import DriverHeartbeat, DriverMonitor, HeartbeatSettings
from automl_cxr.study.runner import run_search
from tests.fast_trials import QuickObjective, RecordingListener

SETTINGS = HeartbeatSettings(interval_seconds=0.05, timeout_seconds=1.5)
FILES = {"config.json", "valid.npz", "model.keras"}


def files_of(store, number):
    return {path.name for path in store.trial_folder(number).iterdir()}


@pytest.mark.slow
def test_a_search_runs_exactly_the_requested_number_of_trials(prepare, quick_search):
    prepared = prepare()
    listener = quick_search(prepared, trials=5)
    records = prepared.store.records()
    assert [record.state for record in records] == [TrialState.COMPLETE] * 5
    assert listener.ended == [0, 1, 2, 3, 4]
    assert len({record.seed for record in records}) == 5
    assert all(list(record.scores) == [1, 2, 3] for record in records)
    assert not list((prepared.store.folder / "trials").glob(".*"))


def test_the_number_of_trials_is_a_total(prepare, quick_search):
    prepared = prepare()
    quick_search(prepared, trials=3)
    assert quick_search(prepared, trials=3).ended == []
    assert quick_search(prepared, trials=5).ended == [3, 4]


def test_only_the_best_trials_keep_their_models_and_all_keep_their_predictions(prepare, quick_search):
    prepared = prepare()
    quick_search(prepared, trials=6, keep_models=2)
    ranked = [record.number for record in prepared.store.ranked()]
    assert {number for number in ranked if prepared.store.has_model(number)} == set(ranked[:2])
    for number in ranked:
        assert files_of(prepared.store, number) >= FILES - {"model.keras"}
    with pytest.raises(StudyError, match="--keep-models"):
        prepared.store.model_file(ranked[-1])


def fail_at(numbers):
    def fail(proposal, epoch):
        if proposal.number in numbers and epoch == 2:
            raise ValueError("no such luck")

    return fail


@pytest.mark.slow
def test_a_failed_trial_has_its_reason_and_the_search_continues(prepare, quick_search):
    prepared = prepare()
    quick_search(prepared, trials=4, between_epochs=fail_at({1}))
    states = [record.state for record in prepared.store.records()]
    assert states == [TrialState.COMPLETE, TrialState.FAILED, TrialState.COMPLETE, TrialState.COMPLETE]
    assert prepared.store.record(1).error == "ValueError: no such luck"
    assert "no such luck" in (prepared.store.trial_folder(1) / "train.log").read_text()


@pytest.mark.slow
def test_a_search_whose_trials_all_fail_stops_with_the_reason(prepare, quick_search):
    prepared = prepare()
    with pytest.raises(StudyError, match=r"all 5 trials failed.*no such luck"):
        quick_search(prepared, trials=50, between_epochs=fail_at(set(range(50))))
    assert len(prepared.store.records()) == 5
    quick_search(prepared, trials=8)  # after the cause is removed, the same command continues the search
    assert [record.state for record in prepared.store.records()][5:] == [TrialState.COMPLETE] * 3


def test_files_that_cannot_be_committed_fail_the_trial(prepare, quick_search):
    prepared = prepare()

    def replace_folder_by_file(proposal, epoch):
        if proposal.number == 1 and epoch == 3:
            prepared.store.trial_folder(1).write_text("a file at the path of the folder")

    quick_search(prepared, trials=3, between_epochs=replace_folder_by_file)
    assert [record.state for record in prepared.store.records()].count(TrialState.FAILED) == 1
    assert prepared.store.record(1).error.startswith("NotADirectoryError")
    assert len(prepared.store.record(1).retries) == 1


@pytest.mark.slow
def test_wall_time_ends_a_search(prepare, quick_search):
    prepared = prepare()
    started = time.monotonic()
    quick_search(prepared, seconds=1.0)
    assert time.monotonic() - started < 10
    assert prepared.store.records()
    assert all(record.state is TrialState.COMPLETE for record in prepared.store.records())


def test_an_interrupted_trial_is_requeued_with_the_same_values(prepare, quick_search):
    prepared = prepare()

    def interrupt(proposal, epoch):
        if proposal.number == 2 and epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        quick_search(prepared, trials=4, between_epochs=interrupt)
    assert prepared.store.record(2).state is TrialState.RUNNING
    params = prepared.store.record(2).params
    listener = quick_search(prepared, trials=4)
    assert listener.resumed == [2]
    assert listener.ended == [2, 3]
    assert prepared.store.record(2).params == params


def test_a_trial_of_a_live_driver_is_not_requeued(prepare, quick_search):
    prepared = prepare()
    with DriverHeartbeat(prepared.store.folder, settings=SETTINGS) as other:
        trial = prepared.store.study.ask()
        trial.set_user_attr("driver", other.driver)
        assert DriverMonitor(prepared.store.folder).alive() == {other.driver}
        listener = quick_search(prepared, trials=3)
        assert listener.ended == [1, 2]
        assert prepared.store.record(0).state is TrialState.RUNNING
    assert DriverMonitor(prepared.store.folder).alive() == set()
    assert quick_search(prepared, trials=3).resumed == [0]


SCRIPT = """
import sys, time
from pathlib import Path
sys.path.insert(0, {folder!r})
from fast_trials import QuickObjective, RecordingListener, write_images
from automl_cxr.engine.inline_execution import run_inline
from automl_cxr.study.budget import Budget
from automl_cxr.study.runner import run_search
from automl_cxr.study.store import StudyStore
runs = Path({runs!r})
store = StudyStore.open({name!r}, runs=runs, storage=f"sqlite:///{{runs / 'studies.db'}}")
def wait(proposal, epoch):
    time.sleep(0.02)
print("started", flush=True)
def execute(objective, proposer):
    run_inline(QuickObjective(objective, between_epochs=wait), proposer)
budget = Budget(n_trials={trials}, seconds=None, keep_models=3)
run_search(
    store, write_images(runs), weights_folder=None, sampler="tpe", budget=budget, execute=execute, listener=RecordingListener()
)
"""


def start_search(store, trials):
    script = SCRIPT.format(folder=str(Path(__file__).parents[1]), runs=str(store.folder.parent), name=store.name, trials=trials)
    return subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)


def assert_complete(store, trials):
    records = store.records()
    assert [record.number for record in records] == list(range(trials))
    assert {record.state for record in records} == {TrialState.COMPLETE}
    configurations = set()
    for record in records:
        assert files_of(store, record.number) >= FILES - {"model.keras"}
        config = json.loads((store.trial_folder(record.number) / "config.json").read_text())
        assert {name: config[name] for name in record.params} == dict(record.params)
        configurations.add(json.dumps(dict(record.params), sort_keys=True))
    assert len(configurations) == trials, "no configuration was proposed twice"
    assert not list((store.folder / "trials").glob(".*"))


def run_killed_searches(store, times, rng):
    for _ in range(times):
        driver = start_search(store, trials=10_000)  # too many to finish, so that each driver is killed during its search
        assert driver.stdout.readline() == "started\n"
        with pytest.raises(subprocess.TimeoutExpired):
            driver.wait(timeout=rng.uniform(0.2, 1.2))
        driver.send_signal(signal.SIGKILL)
        driver.wait()
        driver.stdout.close()


def run_complete_search(store, n_trials):
    driver = start_search(store, trials=n_trials)
    assert driver.communicate(timeout=60)[0] == "started\n"
    assert driver.returncode == 0


@pytest.mark.slow
def test_each_trial_runs_exactly_once_after_kills_at_random_moments(prepare):
    store = prepare().store
    run_killed_searches(store, 4, random.Random(5))
    n_trials = len(store.records()) + 4
    run_complete_search(store, n_trials)
    assert_complete(store, n_trials)


@pytest.mark.long
def test_pruning_decisions_after_kills_equal_those_of_an_uninterrupted_search(prepare):
    killed, uninterrupted = (prepare(name=name, pruner="asha", epochs=18).store for name in ("killed", "uninterrupted"))
    run_killed_searches(killed, 3, random.Random(6))
    n_trials = max(20, len(killed.records()) + 4)
    run_complete_search(killed, n_trials)
    run_complete_search(uninterrupted, n_trials)
    decisions = [(record.state, record.params, record.score, record.scores) for record in killed.records()]
    assert decisions == [(record.state, record.params, record.score, record.scores) for record in uninterrupted.records()]
    assert {state for state, *_ in decisions} == {TrialState.COMPLETE, TrialState.PRUNED}


@pytest.mark.long
def test_two_drivers_share_a_study(prepare):
    store = prepare().store
    drivers = [start_search(store, trials=16) for _ in range(2)]
    for driver in drivers:
        driver.communicate(timeout=60)
        assert driver.returncode == 0
    assert_complete(store, 16)
    assert len({trial.user_attrs["driver"] for trial in store.study.get_trials()}) == 2


@pytest.mark.long
def test_two_searches_and_a_dashboard_share_a_study(prepare, monkeypatch, caplog):
    monkeypatch.setattr("automl_cxr.results.dashboard.augmented_storage._MAX_AGE", 0.0)  # each request computes the notes
    store = prepare().store
    dashboard = AugmentedStorage(open_storage(f"sqlite:///{store.folder.parent / 'studies.db'}"), store.folder.parent)
    study_id = dashboard.get_study_id_from_name("s")
    drivers = [start_search(store, trials=16) for _ in range(2)]
    numbers_of_trials = []
    while any(driver.poll() is None for driver in drivers):
        dashboard.load_augmented_study(study_id)
        numbers_of_trials.append(len(dashboard.get_all_trials(study_id)))
    assert [driver.communicate()[0] for driver in drivers] == ["started\n"] * 2
    assert [driver.returncode for driver in drivers] == [0, 0]
    assert_complete(store, 16)
    assert numbers_of_trials == sorted(numbers_of_trials)
    assert len(set(numbers_of_trials)) > 2
    dashboard.load_augmented_study(study_id)
    assert "These scores are optimistic" in json.dumps(dashboard.get_study_system_attrs(study_id))
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == []  # no note failed


def test_trials_cut_short_by_the_time_limit_are_pruned_unless_they_are_best(prepare, quick_search):
    prepared = prepare()
    quick_search(prepared, trials=8, cut_short=True)
    best = 0.0
    for record in prepared.store.records():
        assert (record.state is TrialState.COMPLETE) == (record.score > best)
        best = max(best, record.score)
    assert {record.state for record in prepared.store.records()} == {TrialState.COMPLETE, TrialState.PRUNED}


def test_a_short_search_whose_trials_all_fail_is_an_error(prepare, quick_search):
    prepared = prepare()
    with pytest.raises(StudyError, match=r"all 2 trials failed.*no such luck"):
        quick_search(prepared, trials=2, between_epochs=fail_at({0, 1}))


@pytest.mark.slow
def test_a_trial_during_which_every_driver_dies_fails_after_some_attempts(prepare, quick_search, monkeypatch):
    monkeypatch.setattr("automl_cxr.study.recorded_proposer._MAX_DEATHS", 3)
    prepared = prepare()

    def interrupt(proposal, epoch):
        if proposal.number == 1:
            raise KeyboardInterrupt

    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            quick_search(prepared, trials=3, between_epochs=interrupt)
    assert prepared.store.record(1).attempts == 3
    assert quick_search(prepared, trials=3, between_epochs=interrupt).ended == [1, 2]
    assert prepared.store.record(1).state is TrialState.FAILED
    assert "died 3 times" in prepared.store.record(1).error


def test_a_trial_is_not_blamed_for_searches_that_die_before_its_last_recorded_epoch(prepare, quick_search, monkeypatch):
    monkeypatch.setattr("automl_cxr.study.recorded_proposer._MAX_DEATHS", 2)
    prepared = prepare()

    def interrupt_at(last_epoch):
        def interrupt(proposal, epoch):
            if epoch == last_epoch:
                raise KeyboardInterrupt

        return interrupt

    for epoch in (3, 2, 1, 2, 1):
        with pytest.raises(KeyboardInterrupt):
            quick_search(prepared, trials=1, between_epochs=interrupt_at(epoch))
    quick_search(prepared, trials=1)
    assert [(record.state, record.attempts) for record in prepared.store.records()] == [(TrialState.COMPLETE, 6)]


@dataclasses.dataclass(frozen=True)
class DyingWhileLoading(QuickObjective):
    def load_libraries(self):
        raise KeyboardInterrupt


def die_while_libraries_load(objective, proposer):
    run_inline(DyingWhileLoading(objective), proposer)


def die_while_a_worker_runs_the_trial(_objective, proposer):
    proposer.propose()
    raise KeyboardInterrupt


@pytest.mark.parametrize("die", [die_while_libraries_load, die_while_a_worker_runs_the_trial])
def test_a_trial_is_not_blamed_for_searches_that_die_while_it_does_not_run_in_their_process(
    prepare, quick_search, monkeypatch, die
):
    monkeypatch.setattr("automl_cxr.study.recorded_proposer._MAX_DEATHS", 2)
    prepared = prepare()
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            run_search(
                prepared.store,
                prepared.images,
                weights_folder=None,
                sampler="random",
                budget=Budget(n_trials=2, seconds=None, keep_models=3),
                execute=die,
                listener=RecordingListener(),
            )
    quick_search(prepared, trials=2)
    records = prepared.store.records()
    assert [(record.state, record.attempts) for record in records] == [(TrialState.COMPLETE, 4), (TrialState.COMPLETE, 1)]


@pytest.mark.slow
def test_a_trial_that_makes_progress_continues_however_often_its_drivers_die(prepare, quick_search):
    prepared = prepare(epochs=9)

    def interrupt_after(n_epochs):
        def interrupt(proposal, epoch):
            if epoch > n_epochs:
                raise KeyboardInterrupt

        return interrupt

    for n_epochs in range(1, 8):
        with pytest.raises(KeyboardInterrupt):
            quick_search(prepared, trials=1, epochs=9, between_epochs=interrupt_after(n_epochs))
    quick_search(prepared, trials=1, epochs=9)
    record = prepared.store.record(0)
    assert (record.state, record.attempts) == (TrialState.COMPLETE, 8)


def test_the_staging_folder_of_a_live_driver_is_not_removed(prepare):
    store = prepare().store
    with DriverHeartbeat(store.folder) as other:
        live_folder, abandoned_folder = (
            store.folder / "trials" / name for name in (f".00000-{other.driver}", ".00001-0123456789ab")
        )
        live_folder.mkdir()
        abandoned_folder.mkdir()
        store.clear_leftovers(DriverMonitor(store.folder))
        assert live_folder.exists()
        assert not abandoned_folder.exists()


def test_a_storage_error_ends_the_search_and_its_trial_is_requeued(prepare, quick_search, monkeypatch):
    from optuna.exceptions import StorageInternalError

    prepared = prepare()

    def fail_once(proposal, epoch):
        if proposal.number == 1 and epoch == 2:
            monkeypatch.setattr(
                type(prepared.store), "commit_files", lambda *_: (_ for _ in ()).throw(StorageInternalError("locked"))
            )

    with pytest.raises(StudyError, match=r"The storage failed \(locked\)"):
        quick_search(prepared, trials=3, between_epochs=fail_once)
    monkeypatch.undo()
    assert prepared.store.record(1).state is TrialState.RUNNING
    quick_search(prepared, trials=3)
    assert [record.state for record in prepared.store.records()] == [TrialState.COMPLETE] * 3


def test_an_objective_with_direction_minimize_is_minimised(prepare, quick_search):
    prepared = prepare(objective=["log_loss"])
    quick_search(prepared, trials=4)
    ranked = prepared.store.ranked()
    assert [record.score for record in ranked] == sorted(record.score for record in ranked)
    assert prepared.store.is_better(0.1, 0.2)
    assert prepared.store.study.best_trial.number == ranked[0].number
    assert all(record.best_epoch == 3 for record in ranked)
