"""Bulk writes into Optuna's tables store what Optuna's public calls store, after the same checks, or nothing."""

from collections import Counter
from datetime import datetime

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import RDBStorage
from optuna.trial import TrialState
from sqlalchemy import event

from automl_cxr.optuna_private import storage_of, study_id_of, trial_id_of
from automl_cxr.storage import bulk_writes
from automl_cxr.storage.bulk_writes import supports_bulk_writes, write_in_bulk
from automl_cxr.storage.trial_writes import TrialWrite, WriteKind
from automl_cxr.storage.urls import open_storage
from tests.storage.test_cached_storage import open_as_drivers, read, write_trials


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def url(request, tmp_path):
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'studies.db'}"
    server = request.getfixturevalue("postgres")
    server.empty()
    return server.url


@pytest.fixture
def driver(url):
    return open_as_drivers(url, 1)[0]


def database_of(study) -> RDBStorage:
    return storage_of(study)._backend


def write(study, trial, kind, name, value):
    return trial_id_of(trial), TrialWrite(trial.number, kind, name, value)


def test_the_installed_optuna_has_the_schema_of_the_module(driver):
    version = database_of(driver).get_current_version()
    assert supports_bulk_writes(database_of(driver)), (
        f"Optuna {optuna.__version__} has the database schema {version}. Check the tables and change SCHEMA_REVISION in "
        "automl_cxr/storage/bulk_writes.py; until then searches use slower public calls."
    )


def test_a_bulk_write_is_one_statement_for_each_table(driver):
    trials = [driver.ask() for _ in range(3)]
    counts = Counter()

    @event.listens_for(database_of(driver).engine, "before_cursor_execute")
    def count(_connection, _cursor, statement, *_):
        counts[statement.split()[0]] += 1

    with storage_of(driver).batch_writes():
        write_trials(driver, trials)
    tables = {"params", "user attributes", "system attributes", "intermediate values", "values"}
    assert (counts["INSERT"], counts["UPDATE"]) == (len(tables), 1)


def test_another_schema_is_written_with_public_calls(url, driver, monkeypatch):
    monkeypatch.setattr(bulk_writes, "SCHEMA_REVISION", "another")
    trials = [driver.ask() for _ in range(3)]
    with storage_of(driver).batch_writes():
        write_trials(driver, trials)
    assert [trial.state for trial in read(url)] == [TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL]
    assert "_write_in_bulk" not in str(storage_of(driver)._write_at_once)


@pytest.mark.parametrize("is_known", [True, False])
def test_a_parameter_of_another_kind_is_rejected_and_nothing_is_written(url, driver, is_known):
    first, second = driver.ask(), driver.ask()
    first.suggest_float("lr", 0, 1)
    known = {"lr": FloatDistribution(0, 1)} if is_known else {}
    writes = [
        write(driver, second, WriteKind.USER_ATTR, "a", 1),
        write(driver, second, WriteKind.PARAM, "lr", (1.0, CategoricalDistribution((0, 1)))),
    ]
    with pytest.raises(ValueError, match="distribution"):
        write_in_bulk(database_of(driver), study_id_of(driver), writes, known)
    assert read(url)[1].user_attrs == read(url)[1].params == {}


def test_a_finished_trial_rejects_the_writes_to_other_trials_too(url, driver):
    finished, running = driver.ask(), driver.ask()
    driver.tell(finished, 0.5)
    writes = [
        write(driver, running, WriteKind.INTERMEDIATE_VALUE, 1, 0.5),
        write(driver, finished, WriteKind.STATE, None, (TrialState.FAIL, None, datetime.now())),
    ]
    with pytest.raises(UpdateFinishedTrialError):
        write_in_bulk(database_of(driver), study_id_of(driver), writes, {})
    assert [trial.state for trial in read(url)] == [TrialState.COMPLETE, TrialState.RUNNING]
    assert read(url)[1].intermediate_values == {}


def test_a_missing_trial_is_an_error(driver):
    writes = [(12345, TrialWrite(0, WriteKind.USER_ATTR, "a", 1))]
    with pytest.raises(KeyError):
        write_in_bulk(database_of(driver), study_id_of(driver), writes, {})


def test_public_calls_read_bulk_writes_of_the_same_process(url, driver):
    trial = driver.ask()
    with storage_of(driver).batch_writes():
        trial.report(0.5, 1)
        trial.set_user_attr("a", 1)
    other = optuna.load_study(study_name="s", storage=open_storage(url))
    assert other.trials[0].user_attrs == {"a": 1}
