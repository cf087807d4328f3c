"""What is written into Optuna's tables in one piece is what Optuna would have written, after the same checks."""

import math
from collections import Counter
from datetime import datetime, timedelta

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState
from sqlalchemy import event

from automl_cxr.storage.cached_storage import CachedDriverStorage
from automl_cxr.storage.database_piece import EndWrite, ParamWrite, StepWrite, UserAttrWrite, write_piece
from automl_cxr.storage.urls import open_storage

PARTS = ("number", "state", "values", "params", "distributions", "user_attrs", "system_attrs", "constraints")
LR, UNITS = FloatDistribution(1e-5, 1e-2, log=True), IntDistribution(16, 64, step=16)
LOSS = CategoricalDistribution(("focal", 2, None, True))


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def url(request, tmp_path):
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'studies.db'}"
    server = request.getfixturevalue("postgres")
    server.empty()
    return server.url


def driven(url, name="s"):
    optuna.create_study(storage=open_storage(url), study_name=name, directions=["minimize"])
    backend = open_storage(url)
    storage = CachedDriverStorage(backend, backend.get_study_id_from_name(name), patience=0, on_away=print)
    return optuna.load_study(study_name=name, storage=storage)


def fill(study, trials):
    """Write everything that a trial may hold, some of it twice."""
    storage = study._storage
    for trial, (state, value) in zip(trials, [("COMPLETE", math.inf), ("PRUNED", 0.25), ("FAIL", None)], strict=True):
        trial_id = trial._trial_id
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


def test_what_is_written_reads_back_as_if_optuna_had_written_it(url):
    study = driven(url)
    trials = [study.ask() for _ in range(3)]
    with study._storage.together():
        fill(study, trials)
    theirs = optuna.create_study(storage=open_storage(url), study_name="plain", directions=["minimize"])
    fill(theirs, [theirs.ask() for _ in range(3)])

    ours, others = (optuna.load_study(study_name=name, storage=url).get_trials() for name in ("s", "plain"))
    for trial, other, known in zip(ours, others, study.get_trials(), strict=True):
        for part in PARTS:
            assert getattr(trial, part) == getattr(other, part) == getattr(known, part), part
        assert trial.intermediate_values == other.intermediate_values == known.intermediate_values
        assert list(trial.params) == list(other.params)
        assert trial.datetime_start <= trial.datetime_complete <= datetime.now()
        assert abs(trial.datetime_complete - known.datetime_complete) < timedelta(seconds=1)


def test_nan_is_a_score_that_reads_back(url):
    study = driven(url)
    trial = study.ask()
    trial.report(math.nan, 1)
    assert math.isnan(optuna.load_study(study_name="s", storage=url).trials[0].intermediate_values[1])


def test_a_piece_is_one_statement_for_each_table(url):
    study = driven(url)
    trials = [study.ask() for _ in range(3)]
    counted = Counter()

    @event.listens_for(study._storage._backend._backend.engine, "before_cursor_execute")
    def count(_connection, _cursor, statement, *_):
        counted[statement.split()[0]] += 1

    with study._storage.together():
        fill(study, trials)
    assert counted["INSERT"] == len({"params", "user attributes", "system attributes", "scores", "values"})
    assert counted["UPDATE"] == 1
    assert counted["SELECT"] <= 1 + len({"lr", "units", "loss"}), "of a parameter that this process meets first"


def stored(url):
    return optuna.load_study(study_name="s", storage=url).get_trials()


def test_a_parameter_of_another_kind_is_refused_and_nothing_is_written(url):
    study = driven(url)
    first, second = study.ask(), study.ask()
    first.suggest_float("lr", 0, 1)
    for storage in (study._storage._backend, open_storage(url)):  # one that remembers, and one that has to look
        storage.get_all_trials(study._study_id)
        attr = UserAttrWrite(second._trial_id, "a", 1)
        with pytest.raises(ValueError, match="distribution"):
            write_piece(
                storage, study._study_id, [attr, ParamWrite(second._trial_id, "lr", 1.0, CategoricalDistribution((0, 1)))]
            )
    assert stored(url)[1].user_attrs == stored(url)[1].params == {}


def test_a_trial_that_has_ended_takes_nothing_and_neither_do_its_neighbours(url):
    study = driven(url)
    ended, running = study.ask(), study.ask()
    study.tell(ended, 0.5)
    with pytest.raises(UpdateFinishedTrialError):
        write_piece(
            study._storage._backend,
            study._study_id,
            [StepWrite(running._trial_id, 1, 0.5), EndWrite(ended._trial_id, TrialState.FAIL, None, datetime.now())],
        )
    assert [trial.state for trial in stored(url)] == [TrialState.COMPLETE, TrialState.RUNNING]
    assert stored(url)[1].intermediate_values == {}


def test_there_must_be_such_a_trial(url):
    study = driven(url)
    with pytest.raises(KeyError):
        write_piece(study._storage._backend, study._study_id, [UserAttrWrite(12345, "a", 1)])
