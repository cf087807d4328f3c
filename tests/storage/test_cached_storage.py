"""The storage of a driver: its cache, its deferred writes, and the record after a crash between two writes."""

import math
from datetime import datetime, timedelta

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import RDBStorage
from optuna.trial import TrialState
from sqlalchemy import event

from automl_cxr.optuna_private import storage_of, trial_id_of, uncached_storage
from automl_cxr.storage.cached_storage import CachedDriverStorage
from automl_cxr.storage.urls import open_storage

FIELDS = ("number", "state", "values", "params", "distributions", "user_attrs", "system_attrs", "constraints")
LR, UNITS = FloatDistribution(1e-5, 1e-2, log=True), IntDistribution(16, 64, step=16)
LOSS = CategoricalDistribution(("focal", 2, None, True))


def open_as_drivers(url, n_drivers):
    optuna.create_study(storage=open_storage(url), study_name="s")
    backends = [uncached_storage(open_storage(url)) for _ in range(n_drivers)]
    return [
        optuna.load_study(
            study_name="s",
            storage=CachedDriverStorage(backend, backend.get_study_id_from_name("s"), patience=0, on_away=print),
        )
        for backend in backends
    ]


@pytest.fixture(params=["sqlite", "journal", pytest.param("postgresql", marks=pytest.mark.postgres)])
def url(request, tmp_path):
    if request.param != "postgresql":
        return f"{request.param}:///{tmp_path / 'x'}"
    server = request.getfixturevalue("postgres")
    server.empty()
    return server.url


@pytest.fixture
def pair(url):
    return open_as_drivers(url, 2)


@pytest.fixture
def driver(url):
    return open_as_drivers(url, 1)[0]


def read(url, name="s"):
    return optuna.load_study(study_name=name, storage=open_storage(url)).get_trials()


# ------------------------------------------------------------------------------------------------------------- the cache


def test_drivers_read_the_changes_of_each_other(pair):
    one, two = pair
    first, second = one.ask(), two.ask()
    first.set_user_attr("a", 1)
    first.suggest_float("x", 0, 1)
    second.report(0.5, 1)
    for study in pair:
        trials = study.get_trials()
        assert [trial.number for trial in trials] == [0, 1]
        assert trials[0].user_attrs == {"a": 1}
        assert "x" in trials[0].params
        assert trials[1].intermediate_values == {1: 0.5}
    two.tell(second, state=TrialState.PRUNED)
    one.tell(first, 0.25)
    for study in pair:
        assert [trial.state for trial in study.get_trials()] == [TrialState.COMPLETE, TrialState.PRUNED]
        assert [trial.value for trial in study.get_trials(states=(TrialState.COMPLETE,))] == [0.25]


def test_an_enqueued_trial_is_started_by_one_driver(pair):
    one, two = pair
    one.enqueue_trial({"x": 0.125})
    started = [one.ask(), two.ask()]
    assert [trial.number for trial in started] == [0, 1]
    assert started[0].suggest_float("x", 0, 1) == 0.125


def test_a_trial_that_another_driver_requeued_is_no_longer_signed(pair):
    one, two = pair
    trial = one.ask()
    requeued = optuna.Trial(two, trial_id_of(two.get_trials()[0]))
    requeued.set_user_attr("driver", "two")
    assert storage_of(one).signed_trials([trial_id_of(trial)], "one") == set()
    assert storage_of(two).signed_trials([trial_id_of(requeued)], "two") == {trial_id_of(requeued)}
    assert one.get_trials()[0].user_attrs == {"driver": "two"}
    two.tell(requeued, 0.5)
    with storage_of(one).batch_writes():
        if one.get_trials()[0].state is TrialState.RUNNING:
            trial.set_user_attr("late", 1)
    assert one.get_trials()[0].user_attrs == {"driver": "two"}


def test_signed_trials_have_the_name_of_the_driver(pair):
    one, two = pair
    trials = [one.ask() for _ in range(4)]
    for trial in trials[:3]:
        trial.set_user_attr("driver", "one")
    one.tell(trials[1], 0.5)
    ids = [trial_id_of(trial) for trial in trials]
    assert storage_of(one).signed_trials(ids, "one") == {ids[0], ids[2]}
    assert storage_of(one).signed_trials(ids[:1], "one") == {ids[0]}
    assert storage_of(one).signed_trials(ids[3:], "one") == set()
    others = [trial_id_of(trial) for trial in two.get_trials()]
    assert storage_of(two).signed_trials(others, "one") == {others[0], others[2]}


# ------------------------------------------------------------------------------------------------------------- the writes


def write_trials(study, trials):
    """Write all fields of a trial, some of them twice."""
    storage = storage_of(study)
    for trial, (state, value) in zip(trials, [("COMPLETE", math.inf), ("PRUNED", 0.25), ("FAIL", None)], strict=True):
        trial_id = trial_id_of(trial)
        storage.set_trial_param(trial_id, "lr", 1e-3, LR)
        storage.set_trial_param(trial_id, "units", 32.0, UNITS)
        storage.set_trial_param(trial_id, "loss", 2.0, LOSS)
        storage.set_trial_user_attr(trial_id, "seed", 1)
        storage.set_trial_user_attr(trial_id, "retries", ["first", 'say "why"', "für ä"])
        storage.set_trial_user_attr(trial_id, "seed", trial.number)
        storage.set_trial_user_attr(trial_id, "score", 0.1 + 0.2)
        storage.set_trial_system_attr(trial_id, "constraint:size", -1.5)
        for step, score in ((1, 0.1 + 0.2), (2, math.inf), (3, -math.inf), (4, 1e-300), (2, 0.75)):
            storage.set_trial_intermediate_value(trial_id, step, score)
        storage.set_trial_state_values(trial_id, TrialState[state], None if value is None else [value])


@pytest.mark.parametrize("is_created_in_the_block", [False, True])
def test_deferred_writes_store_the_same_as_direct_ones(url, driver, is_created_in_the_block):
    trials = [] if is_created_in_the_block else [driver.ask() for _ in range(3)]
    with storage_of(driver).batch_writes():
        write_trials(driver, trials or [driver.ask() for _ in range(3)])
    direct = optuna.create_study(storage=open_storage(url), study_name="plain", directions=["minimize"])
    write_trials(direct, [direct.ask() for _ in range(3)])

    for trial, other, cached in zip(read(url), read(url, "plain"), driver.get_trials(), strict=True):
        for field in FIELDS:
            assert getattr(trial, field) == getattr(other, field) == getattr(cached, field), field
        assert trial.intermediate_values == other.intermediate_values == cached.intermediate_values
        assert list(trial.params) == list(other.params)
        assert trial.datetime_start <= trial.datetime_complete <= datetime.now()
        assert abs(trial.datetime_complete - cached.datetime_complete) < timedelta(seconds=1)


def test_a_score_of_nan_is_stored(url, driver):
    driver.ask().report(math.nan, 1)
    assert math.isnan(read(url)[0].intermediate_values[1])


def test_a_finished_trial_rejects_writes(driver):
    trial = driver.ask()
    with storage_of(driver).batch_writes():
        driver.tell(trial, 0.5)
        with pytest.raises(UpdateFinishedTrialError):
            trial.set_user_attr("late", 1)


def test_a_trial_finished_by_another_driver_does_not_prevent_writes_to_other_trials(pair):
    one, two = pair
    trials = [one.ask() for _ in range(3)]
    with storage_of(one).batch_writes():
        for trial in trials:
            trial.report(0.5, 1)
        two.tell(optuna.Trial(two, trial_id_of(two.get_trials()[1])), state=TrialState.PRUNED)
    assert [trial.intermediate_values for trial in two.get_trials()] == [{1: 0.5}, {}, {1: 0.5}]
    running, pruned = TrialState.RUNNING, TrialState.PRUNED
    assert [trial.state for trial in one.get_trials()] == [running, pruned, running]


def test_deferred_writes_are_stored_at_the_end_of_the_block(pair):
    one, two = pair
    trial = one.ask()
    with storage_of(one).batch_writes():
        trial.report(0.5, 1)
        trial.set_user_attr("a", 1)
        assert two.get_trials()[0].user_attrs == {}
    assert two.get_trials()[0].user_attrs == {"a": 1}
    assert two.get_trials()[0].intermediate_values == {1: 0.5}


def test_a_trial_is_created_with_all_its_contents_at_the_end_of_the_block(pair):
    one, two = pair
    with storage_of(one).batch_writes():
        trial = one.ask()
        trial.set_user_attr("driver", "one")
        trial.suggest_float("x", 0, 1)
        assert two.get_trials() == []
    (stored,) = two.get_trials()
    assert stored.state is TrialState.RUNNING
    assert stored.user_attrs == {"driver": "one"}
    assert stored.params == trial.params == one.get_trials()[0].params
    trial.report(0.5, 1)
    one.tell(trial, 0.25)
    assert two.get_trials()[0].intermediate_values == {1: 0.5}
    assert two.get_trials()[0].value == one.get_trials()[0].value == 0.25


def test_a_trial_with_a_number_that_another_driver_used_gets_no_driver(pair):
    one, two = pair
    with storage_of(one).batch_writes():
        trial = one.ask()
        trial.set_user_attr("driver", "one")
        trial.suggest_float("x", 0, 1)
        two.ask().set_user_attr("driver", "two")
    assert storage_of(one).signed_trials([trial_id_of(trial)], "one") == set()
    for study in pair:
        assert [stored.user_attrs["driver"] for stored in study.get_trials()] == ["two", ""]
        assert [set(stored.params) for stored in study.get_trials()] == [set(), {"x"}]
    assert one.ask().number == 2


def test_a_crash_between_two_writes_leaves_a_running_trial_with_the_first_ones(tmp_path, monkeypatch):
    """Without bulk writes, the order is: attributes, parameters, intermediate values, state."""
    monkeypatch.setattr("automl_cxr.storage.cached_storage.supports_bulk_writes", lambda _: False)
    url = f"sqlite:///{tmp_path / 'x'}"
    (driver,) = open_as_drivers(url, 1)
    database = storage_of(driver)._backend
    assert isinstance(database, RDBStorage)
    trials = [driver.ask() for _ in range(2)]
    stages = []

    def record_stage(_connection, _cursor, statement, *_):
        if not statement.startswith("SELECT"):
            first, second = read(url)
            stages.append((set(first.user_attrs), set(first.params), set(first.intermediate_values), first.state))
            assert first.state is TrialState.PRUNED or second.state is TrialState.RUNNING

    event.listen(database.engine, "before_cursor_execute", record_stage)
    with storage_of(driver).batch_writes():
        driver.tell(trials[1], 0.5)
        trials[0].report(0.5, 1)
        trials[0].suggest_float("x", 0, 1)
        trials[0].set_user_attr("beaten_at", 1)
        driver.tell(trials[0], state=TrialState.PRUNED)
    running = TrialState.RUNNING
    assert stages[:3] == [
        (set(), set(), set(), running),
        ({"beaten_at"}, set(), set(), running),
        ({"beaten_at"}, {"x"}, set(), running),
    ]
    assert ({"beaten_at"}, {"x"}, {1}, running) in stages
    assert [trial.state for trial in read(url)] == [TrialState.PRUNED, TrialState.COMPLETE]
