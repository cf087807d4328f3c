"""Replay of complete trials, of promoted trials in one run, and of pruned trials up to their last epoch."""

import dataclasses
import json

import pytest

from automl_cxr import api
from automl_cxr.errors import DataError, StudyError
from automl_cxr.records import TrialState
from automl_cxr.results import replay
from automl_cxr.results.replay import Replay


def modification_times(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file() and ".lock" not in path.name}


@pytest.mark.slow
def test_a_complete_trial_is_reproduced_and_the_study_does_not_change(finished):
    before = modification_times(finished.folder.parent)
    number = finished.trials[1].number
    result = finished.replay(number)
    assert result.is_same, result
    assert result.differs_by <= 1e-6
    assert result.score == finished.trials[number].score
    assert list(result.replayed_scores) == [1, 2]
    assert result.predictions_differ_by <= 1e-6
    assert result.notes == ()
    assert modification_times(finished.folder.parent) == before


@pytest.fixture(scope="module")
def promoted(tmp_path_factory, phantoms):
    runs = tmp_path_factory.mktemp("promoted")
    (runs / "tiny.toml").write_text(
        'family = "scratch"\nn_blocks = 1\ndense_units = 4\naugmentation = 0.5\npatience = 9\n'
        '[learning_rate]\ntype = "float"\nlow = 1e-3\nhigh = 1e-1\nlog = true\n'
    )
    return api.search(
        str(runs / "tiny.toml"), phantoms, name="p", trials=4, epochs=3, image_size=32, batch_size=64, sampler="kt-hyperband",
        runs=runs, executor="inline", keep_models=2,
    )  # fmt: skip


@pytest.mark.long
def test_a_promoted_trial_is_trained_in_one_run(promoted):
    promoted_trial = next(
        record for record in promoted.trials if record.parent is not None and record.state is TrialState.COMPLETE
    )
    result = promoted.replay(promoted_trial.number)
    assert result.is_same, result
    assert list(result.scores) == [1, 2, 3]
    assert min(promoted_trial.scores) > 1


@pytest.mark.long
def test_a_pruned_trial_is_trained_to_its_last_epoch_and_a_difference_is_found(promoted, monkeypatch):
    pruned = next(record for record in promoted.trials if record.state is TrialState.PRUNED)
    original = replay.trial_config
    monkeypatch.setattr(replay, "trial_config", lambda *args: dataclasses.replace(original(*args), learning_rate=0.9))
    result = promoted.replay(pruned.number)
    assert result.scores.keys() == result.replayed_scores.keys() == pruned.scores.keys() == {1}
    assert not result.is_same
    assert result.differs_by > 1e-6


def test_changes_since_the_trial_are_listed(finished, monkeypatch):
    facts = {"driver": finished.searches()[0].driver, "worker": {"threads": 64, "host": "a"}, "halvings": 1}
    new_facts = {"worker": {"threads": 2, "host": "a"}, "weights_sha256": ""}
    monkeypatch.setattr(replay, "describe_versions", lambda: {**finished.searches()[0].versions, "keras": "4.0"})
    monkeypatch.setattr(replay, "describe_code", lambda: {"version": "9.9", "digest": "other"})
    notes = replay._describe_changes(finished._store, facts, new_facts)
    assert notes[0] == "it ran with threads 64; now 2"
    assert notes[1].endswith("now 4.0")
    assert "other code" in notes[2]
    assert "memory" in notes[3]
    assert len(notes) == 4


def test_different_epochs_are_an_infinite_difference():
    values = {"trial": 0, "score": 0.5, "replayed_score": 0.5, "predictions_differ_by": None, "tolerance": 1.0, "notes": ()}
    assert Replay(**values, scores={1: 0.5}, replayed_scores={1: 0.5}).is_same
    assert not Replay(**values, scores={1: 0.5, 2: 0.5}, replayed_scores={1: 0.5}).is_same


def test_the_configuration_of_a_trial_without_files_comes_from_the_storage(finished, tmp_path):
    store = finished._store
    saved = replay.trial_config(store, 0)
    file = store.trial_folder(0) / "config.json"
    text = file.read_text()
    file.unlink()
    try:
        assert replay.trial_config(store, 0) == saved
    finally:
        file.write_text(text)
    assert json.loads(text)["seed"] == store.record(0).seed


def test_trials_that_cannot_be_replayed_are_refused(finished, tmp_path, phantoms):
    with pytest.raises(StudyError, match=r"trials 0 to 3; received 9"):
        finished.replay(9)
    (tmp_path / "other").symlink_to(phantoms / "normal")
    with pytest.raises(DataError):
        finished.replay(0, data=str(tmp_path / "other"))
