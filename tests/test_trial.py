import csv
import json

import pytest

from automl_cxr.config import TrialConfig
from automl_cxr.errors import ImpossibleModelError
from automl_cxr.scoring.metrics import METRICS
from automl_cxr.scoring.predictions import Predictions
from automl_cxr.study.prepare import StudyRequest, prepare_study
from automl_cxr.trial import TrialTask, run_trial


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, phantoms):
    runs = tmp_path_factory.mktemp("runs")
    request = StudyRequest(space="scratch", data=str(phantoms), name="s", image_size=32)
    return prepare_study(request, runs=runs, storage=f"sqlite:///{runs / 'studies.db'}")


def task(prepared, folder, **values):
    small = {"image_size": 32, "n_blocks": 2, "filters": 4, "dense_units": 8, "epochs": 3, "batch_size": 8, "seed": 5}
    folder.mkdir()
    return TrialTask(
        config=TrialConfig.from_values({**small, **values}),
        images=prepared.images,
        split=prepared.store.folder / "split.json",
        folder=folder,
    )


def run(task):
    epochs, trial = [], run_trial(task)
    while True:
        try:
            epochs.append(next(trial))
        except StopIteration as end:
            return epochs, end.value


def test_a_trial_leaves_files_that_agree_with_its_result(prepared, tmp_path):
    epochs, result = run(task(prepared, tmp_path / "a"))
    folder = tmp_path / "a"
    assert {path.name for path in folder.iterdir()} == {"config.json", "history.csv", "train.log", "valid.npz", "model.keras"}
    predictions = Predictions.from_npz(folder / "valid.npz")
    split = prepared.store.split
    assert predictions.ids == split.valid.images
    assert predictions.patients == split.valid.patients
    assert predictions.labels.tolist() == list(split.valid.labels)
    assert result.score == METRICS["macro_f1"].function(predictions.labels, predictions.probabilities, None)
    assert result.score == max(epoch.score for epoch in epochs)
    assert epochs[result.best_epoch - 1].score == result.score
    assert json.loads((folder / "config.json").read_text())["seed"] == 5
    with (folder / "history.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["score"]) for row in rows] == [epoch.score for epoch in epochs]
    assert "epoch 3:" in (folder / "train.log").read_text()
    assert result.epochs == 3
    assert not result.cut_short


def test_the_same_configuration_gives_the_same_predictions(prepared, tmp_path):
    for name in ("a", "b"):
        run(task(prepared, tmp_path / name, augmentation=0.5))
    first, again = (Predictions.from_npz(tmp_path / name / "valid.npz") for name in ("a", "b"))
    assert first.probabilities == pytest.approx(again.probabilities, abs=1e-6)


def test_a_trial_may_be_left_after_any_epoch(prepared, tmp_path):
    trial = run_trial(task(prepared, tmp_path / "a"))
    next(trial)
    trial.close()
    assert not (tmp_path / "a" / "model.keras").exists()


def test_an_impossible_network_fails_before_training(prepared, tmp_path):
    with pytest.raises(ImpossibleModelError, match="Use larger images"):
        next(run_trial(task(prepared, tmp_path / "a", family="fused")))
