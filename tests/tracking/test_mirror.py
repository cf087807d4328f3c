"""Trials in experiment trackers: equal to the record of the study, sent once, and never in the way of a search."""

import threading

import pytest

from automl_cxr.api.study import Study
from automl_cxr.errors import StudyError, UnknownNameError, UsageError
from automl_cxr.tracking import trackers
from automl_cxr.tracking.mirror import MirroringListener, TrialMirror
from automl_cxr.tracking.tracked_trial import read_tracked_trial
from tests.fast_trials import RecordingListener


@pytest.fixture
def searched(prepare, quick_search):
    prepared = prepare()
    quick_search(prepared, trials=3)
    return prepared.store


@pytest.fixture
def mlflow_uri(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    return (tmp_path / "mlruns").as_uri()


def runs_of(uri, study):
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name(study)
    runs = client.search_runs([experiment.experiment_id])
    return client, {int(run.data.tags["automl_cxr.trial"]): run for run in runs}


def test_runs_of_mlflow_have_the_parameters_curves_and_files_of_the_trials(searched, mlflow_uri):
    (sentence,) = Study(searched).track(f"mlflow:{mlflow_uri}")
    assert sentence.endswith("3 trials tracked.")
    client, runs = runs_of(mlflow_uri, searched.name)
    assert sorted(runs) == [0, 1, 2]
    for record in searched.records():
        run = runs[record.number]
        assert run.info.status == "FINISHED"
        assert {**run.data.params, "trial_seed": None} == {**{k: str(v) for k, v in record.params.items()}, "trial_seed": None}
        assert run.data.metrics["final.macro_f1"] == pytest.approx(record.score)
        curve = client.get_metric_history(run.info.run_id, "score")
        assert {point.step: point.value for point in curve} == pytest.approx(dict(record.scores))
        assert {file.path for file in client.list_artifacts(run.info.run_id)} == {"config.json"}


def test_trials_are_sent_once_and_a_lost_record_of_them_replaces_their_runs(searched, mlflow_uri):
    study, target = Study(searched), f"mlflow:{mlflow_uri}"
    study.track(target)
    _, first = runs_of(mlflow_uri, searched.name)
    study.track(target)
    _, second = runs_of(mlflow_uri, searched.name)
    assert {number: run.info.run_id for number, run in first.items()} == {n: run.info.run_id for n, run in second.items()}
    for file in (searched.folder / "tracking").iterdir():
        file.unlink()
    study.track(target)
    client, third = runs_of(mlflow_uri, searched.name)
    experiment = client.get_experiment_by_name(searched.name).experiment_id
    assert len(client.search_runs([experiment])) == len(third) == 3


def test_event_files_contain_the_curves(searched, tmp_path):
    from tensorboardX.proto.event_pb2 import Event

    Study(searched).track(f"tensorboard:{tmp_path / 'events'}")
    for record in searched.records():
        folder = tmp_path / "events" / searched.name / f"{record.number:05d}"
        (file,) = folder.glob("events.*")
        values = {}
        for content in read_events(file):
            event = Event.FromString(content)
            values |= {(value.tag, event.step): value.simple_value for value in event.summary.value if value.tag == "score"}
        assert values == pytest.approx({("score", step): score for step, score in record.scores.items()}, rel=1e-6)


def read_events(file):
    """Yield the records of a file: length (8 bytes), checksum (4), content, checksum (4)."""
    content, position = file.read_bytes(), 0
    while position < len(content):
        length = int.from_bytes(content[position : position + 8], "little")
        yield content[position + 12 : position + 12 + length]
        position += length + 16


def test_curves_of_a_trial_are_those_of_its_history(searched):
    (searched.trial_folder(0) / "history.csv").write_text(
        "epoch,phase,loss,score,valid_loss,features\n1,1,1.5,0.25,nan,pixels\n2,1,0.5,0.75,0.125,pixels\n", encoding="utf-8"
    )
    trial = read_tracked_trial(searched, searched.records()[0])
    assert trial.curves == [
        (1, {"phase": 1.0, "loss": 1.5, "score": 0.25}),
        (2, {"phase": 1.0, "loss": 0.5, "score": 0.75, "valid_loss": 0.125}),
    ], "values that are not finite are left out"
    assert [file.name for file in trial.files] == ["config.json", "history.csv"]
    assert trial.tags["state"] == "complete"


class Broken:
    def send(self, trial):
        raise ConnectionError(f"http://user:secret@host refuses {trial.name}")


class Slow:
    def __init__(self):
        self.may_continue = threading.Event()

    def send(self, trial):
        assert self.may_continue.wait(30)


def test_a_tracker_that_fails_does_not_stop_a_search_and_is_told(prepare, quick_search, monkeypatch):
    monkeypatch.setattr("automl_cxr.tracking.mirror.open_tracker", lambda _: Broken())
    prepared, recording = prepare(), RecordingListener()
    with TrialMirror(prepared.store, ["mlflow:http://user:secret@host"]) as mirror:
        quick_search(prepared, trials=2, listener=MirroringListener(recording, mirror))
    assert recording.ended == [0, 1]
    (sentence,) = mirror.describe()
    assert "0 trials tracked, 2 not (ConnectionError: " in sentence
    assert "secret" not in sentence
    with pytest.raises(StudyError, match="2 not"):
        Study(prepared.store).track("mlflow:http://user:secret@host")


def test_a_slow_tracker_does_not_slow_a_search(prepare, quick_search, monkeypatch):
    slow = Slow()
    monkeypatch.setattr("automl_cxr.tracking.mirror.open_tracker", lambda _: slow)
    prepared, recording = prepare(), RecordingListener()
    with TrialMirror(prepared.store, ["wandb"]) as mirror:
        quick_search(prepared, trials=3, listener=MirroringListener(recording, mirror))
        assert recording.ended == [0, 1, 2], "while no trial is sent"
        slow.may_continue.set()
    assert mirror.describe() == ["wandb: 3 trials tracked."]


def test_unknown_trackers_and_missing_libraries_are_refused(monkeypatch):
    with pytest.raises(UnknownNameError, match="mlflow"):
        trackers.open_tracker("mlflw:x")
    monkeypatch.setitem(__import__("sys").modules, "wandb", None)
    with pytest.raises(UsageError, match=r"automl-cxr\[wandb\]"):
        trackers.open_tracker("wandb")
