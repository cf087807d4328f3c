"""Verification of a study's files. Each test damages one file."""

import json
import shutil

import numpy as np
import optuna
import pytest

from automl_cxr import api
from automl_cxr.errors import DataError, StudyError
from automl_cxr.scoring.predictions import Predictions


@pytest.fixture
def study(finished, tmp_path):
    """Return a copy of the finished study that the tests may damage."""
    shutil.copytree(finished.folder.parent, tmp_path / "runs")
    return api.open_study("done", runs=tmp_path / "runs")


def problems_of(study, number):
    result = study.verify(number)
    assert [check.trial for check in result.trials] == [number]
    assert result.is_sound == (not result.trials[0].problems)
    return " | ".join(result.trials[0].problems)


def test_an_unchanged_study_is_sound(finished):
    result = finished.verify()
    assert result.is_sound, result
    assert [check.trial for check in result.trials] == [0, 1, 2, 3]
    assert all(check.score == pytest.approx(check.rescored, abs=1e-9) for check in result.trials)
    with_model = [check for check in result.trials if check.predictions_differ_by is not None]
    assert len(with_model) == 3
    assert all(check.predictions_differ_by <= 1e-5 for check in with_model)


def test_a_missing_file_is_found(study):
    (study._store.trial_folder(1) / "history.csv").unlink()
    assert problems_of(study, 1) == "history.csv is missing"
    assert problems_of(study, 0) == ""


def test_a_changed_configuration_is_found(study):
    file = study._store.trial_folder(1) / "config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps({**config, "dense_units": config["dense_units"] + 1, "seed": 3}))
    problems = problems_of(study, 1)
    assert "config.json was changed after" in problems
    assert f"config.json has dense_units {config['dense_units'] + 1}, the storage {config['dense_units']}" in problems
    assert "config.json has seed 3" in problems
    file.write_text("{")
    assert "config.json was changed after" in problems_of(study, 1)


def test_predictions_that_contradict_the_score_are_found(study):
    file = study._store.trial_folder(1) / "valid.npz"
    saved = study._store.predictions(1)
    perfect = np.eye(len(saved.classes))[saved.labels]
    Predictions(saved.ids, saved.labels, perfect, saved.classes, saved.patients).to_npz(file)
    assert "the score of its predictions is 1.000000, the score in the storage is" in problems_of(study, 1)
    saved.take(slice(1, None)).to_npz(file)
    assert "not those of the validation part" in problems_of(study, 1)
    file.write_bytes(b"no archive")
    assert "Predictions must be an npz file" in problems_of(study, 1)


def test_a_replaced_model_is_found(study):
    store = study._store
    first, second = [check.trial for check in study.verify().trials if check.predictions_differ_by is not None][:2]
    for name in ("model.keras", "config.json"):
        shutil.copy(store.trial_folder(first) / name, store.trial_folder(second) / name)
    assert "the predictions of its model differ from the saved ones" in problems_of(study, second)
    (store.trial_folder(second) / "model.keras").write_bytes(b"nothing")
    assert "is damaged" in problems_of(study, second)


def test_trials_that_cannot_be_verified_are_refused(study, tmp_path):
    with pytest.raises(StudyError, match="received 9"):
        study.verify(9)
    study._store.study.add_trial(optuna.trial.create_trial(state=optuna.trial.TrialState.FAIL))
    with pytest.raises(StudyError, match="trial 4 is failed"):
        study.verify(4)
    with pytest.raises(DataError, match="must exist"):
        study.verify(data=str(tmp_path / "nowhere"))
