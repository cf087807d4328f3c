"""The private names of other libraries that this package uses still exist. Each message names the file to change."""

from importlib.metadata import version

import optuna
import pytest
from optuna.storages import InMemoryStorage

from automl_cxr import optuna_private

OPTUNA = f"Optuna {version('optuna')} has changed a private name. Change automl_cxr/optuna_private.py:"
KERASTUNER = f"KerasTuner {version('keras-tuner')} has changed a private name. Change automl_cxr/engine/kerastuner_proposer.py:"


@pytest.fixture
def study(tmp_path):
    return optuna.create_study(study_name="s", storage=f"sqlite:///{tmp_path / 'x'}")


def test_a_study_has_its_storage(study):
    try:
        storage = optuna_private.storage_of(study)
        assert storage.get_all_studies()[0].study_name == "s"
    except AttributeError as error:
        pytest.fail(f"{OPTUNA} storage_of ({error}).")


def test_studies_and_trials_have_the_ids_of_the_storage(study):
    try:
        storage, study_id = optuna_private.storage_of(study), optuna_private.study_id_of(study)
        assert study_id == storage.get_study_id_from_name("s"), f"{OPTUNA} study_id_of."
        assert study_id == optuna_private.study_id_of(storage.get_all_studies()[0]), f"{OPTUNA} study_id_of."
        trial = study.ask()
        trial_id = storage.get_trial_id_from_study_id_trial_number(study_id, trial.number)
        assert optuna_private.trial_id_of(trial) == trial_id, f"{OPTUNA} trial_id_of."
        assert optuna_private.trial_id_of(study.get_trials()[0]) == trial_id, f"{OPTUNA} trial_id_of."
    except AttributeError as error:
        pytest.fail(f"{OPTUNA} study_id_of, trial_id_of ({error}).")


def test_a_frozen_trial_takes_a_number_and_an_id():
    trial = optuna_private.with_trial_id(optuna.trial.create_trial(value=0.5), 3, 7)
    assert (trial.number, optuna_private.trial_id_of(trial)) == (3, 7), f"{OPTUNA} with_trial_id."


def test_enqueued_values_have_the_expected_attributes(study):
    study.enqueue_trial({"x": 0.25})
    (trial,) = study.get_trials()
    message = f"{OPTUNA} enqueued_values, enqueued_attrs; Optuna stores {trial.system_attrs}."
    assert optuna_private.enqueued_values(trial) == {"x": 0.25}, message
    waiting = optuna.trial.create_trial(
        state=optuna.trial.TrialState.WAITING, system_attrs=optuna_private.enqueued_attrs({"x": 0.75})
    )
    study.add_trial(waiting)
    assert [study.ask().suggest_float("x", 0, 1) for _ in range(2)] == [0.25, 0.75], message


def test_the_database_storage_is_found_below_the_cache(study):
    storage = optuna_private.uncached_storage(optuna_private.storage_of(study))
    assert isinstance(storage, optuna.storages.RDBStorage), f"{OPTUNA} uncached_storage; received {type(storage).__name__}."
    other = InMemoryStorage()
    assert optuna_private.uncached_storage(other) is other


def test_a_grid_of_kerastuner_gives_the_next_combination():
    import keras_tuner

    from automl_cxr.engine.kerastuner_proposer import _next_combination

    hyperparameters = keras_tuner.HyperParameters()
    hyperparameters.Int("x", 0, 1, default=0)
    oracle = keras_tuner.oracles.GridSearchOracle(
        objective=keras_tuner.Objective("score", "max"), hyperparameters=hyperparameters
    )
    try:
        assert _next_combination(oracle, {"x": 0}) == {"x": 1}
        assert _next_combination(oracle, {"x": 1}) is None
    except AttributeError as error:
        pytest.fail(f"{KERASTUNER} _next_combination ({error}).")
