import csv
import dataclasses
import json
import math
import zipfile

import keras
import pytest

from automl_cxr.config import TrialConfig
from automl_cxr.errors import ImpossibleModelError, InfeasibleError
from automl_cxr.model.inference import load_model
from automl_cxr.scoring.metrics import METRICS
from automl_cxr.scoring.objectives import Requirement
from automl_cxr.scoring.predictions import Predictions
from automl_cxr.study.options import SearchOptions
from automl_cxr.study.prepare import prepare_study
from automl_cxr.training.passes import predict_probabilities
from automl_cxr.training.trial import TrialTask, load_parts, run_trial


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, phantoms):
    runs = tmp_path_factory.mktemp("runs")
    request = SearchOptions(space="scratch", data=str(phantoms), name="s", image_size=32)
    return prepare_study(request, runs=runs, storage=f"sqlite:///{runs / 'studies.db'}")


def task(prepared, folder, **values):
    small = {"image_size": 32, "n_blocks": 2, "filters": 4, "dense_units": 8, "epochs": 3, "batch_size": 8, "seed": 5}
    folder.mkdir()
    return TrialTask(
        config=TrialConfig.from_values({**small, **values}),
        images=prepared.images,
        split=prepared.store.folder / "split.json",
        folder=folder,
        classes=prepared.store.spec.classes,
    )


def run(task):
    epochs, trial = [], run_trial(task)
    while True:
        try:
            epochs.append(next(trial))
        except StopIteration as end:
            return epochs, end.value


@pytest.mark.slow
def test_the_files_of_a_trial_agree_with_its_result(prepared, tmp_path):
    epochs, result = run(task(prepared, tmp_path / "a", augmentation=0.5))
    folder = tmp_path / "a"
    assert {path.name for path in folder.iterdir()} == {
        "config.json",
        "history.csv",
        "train.log",
        "valid.npz",
        "scores.json",
        "model.keras",
    }
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
    assert result.weights_sha256 == ""
    assert not result.cut_short
    with zipfile.ZipFile(folder / "model.keras") as archive:
        assert b"automl_cxr" not in archive.read("config.json"), "Keras could not load the model without this package"


@pytest.mark.slow
def test_the_saved_model_holds_no_state_of_the_optimizer(prepared, tmp_path):
    _, result = run(task(prepared, tmp_path / "a", epochs=1, dense_units=2000, n_dense=2))
    size = (tmp_path / "a" / "model.keras").stat().st_size
    assert 4 * result.n_parameters < size < 5 * result.n_parameters


@pytest.mark.long
def test_the_same_configuration_gives_the_same_predictions(prepared, tmp_path):
    for name in ("a", "b"):
        run(task(prepared, tmp_path / name, augmentation=0.5))
    first, again = (Predictions.from_npz(tmp_path / name / "valid.npz") for name in ("a", "b"))
    assert first.probabilities == pytest.approx(again.probabilities, abs=1e-6)


@pytest.mark.slow
def test_a_trial_can_be_closed_after_any_epoch(prepared, tmp_path):
    trial = run_trial(task(prepared, tmp_path / "a"))
    next(trial)
    trial.close()
    assert not (tmp_path / "a" / "model.keras").exists()


def test_an_invalid_network_fails_before_training(prepared, tmp_path):
    with pytest.raises(ImpossibleModelError, match="Use larger images"):
        next(run_trial(task(prepared, tmp_path / "a", family="fused")))


@pytest.mark.slow
def test_the_log_describes_the_network_and_its_phases(prepared, tmp_path):
    run(task(prepared, tmp_path / "a", epochs=1))
    log = (tmp_path / "a" / "train.log").read_text()
    assert "scratch: 471 parameters" in log
    assert "phase 1: 447 trainable parameters, at most 1 epochs, highest learning rate 0.001\n" in log


def network_with_a_backbone(config, n_classes, *, steps_per_epoch, weights_folder):
    keras.utils.set_random_seed(config.seed)
    features = keras.Input((32, 32, 1))
    backbone = keras.Model(features, keras.layers.Conv2D(2, 3, name="conv")(features), name="backbone")
    pixels = keras.Input((32, 32, 1))
    x = keras.layers.GlobalAveragePooling2D(name="vector")(backbone(keras.layers.Rescaling(1 / 255)(pixels)))
    return keras.Model(pixels, keras.layers.Dense(n_classes, activation="softmax")(x))


@pytest.mark.slow
def test_the_files_distinguish_two_phases(prepared, tmp_path, monkeypatch):
    monkeypatch.setattr("automl_cxr.training.trial.build_model", network_with_a_backbone)
    two_phases = {
        "family": "transfer",
        "weights": "none",
        "unfreeze": 1,
        "frozen_share": 0.5,
        "epochs": 3,
        "fine_tune_rate": 1e-4,
    }
    _, result = run(task(prepared, tmp_path / "a", **two_phases))
    assert result.epochs == 3
    log = (tmp_path / "a" / "train.log").read_text()
    reads = ["backbone@vector, float32", "pixels: the first layers of the backbone are trained"]
    assert result.features == "; ".join(reads)
    assert all(f"inputs of phase {phase}: {what}\n" in log for phase, what in enumerate(reads, start=1))
    assert "phase 1: 9 trainable parameters, at most 2 epochs, highest learning rate 0.001\n" in log
    assert "phase 2: 29 trainable parameters, at most 1 epochs, highest learning rate 0.0001\n" in log
    with (tmp_path / "a" / "history.csv").open(newline="") as file:
        rows = [(row["epoch"], row["phase"], float(row["learning_rate"])) for row in csv.DictReader(file)]
    cosine = [0.5 * (1 + math.cos(math.pi * done)) for done in (0.25, 0.75, 0.5)]  # in the middle of each epoch of its phase
    expected = [("1", "1", 1e-3 * cosine[0]), ("2", "1", 1e-3 * cosine[1]), ("3", "2", 1e-4 * cosine[2])]
    assert [row[:2] for row in rows] == [row[:2] for row in expected]
    assert [row[2] for row in rows] == pytest.approx([row[2] for row in expected])


def test_a_trial_on_features_saves_predictions_of_the_whole_network(prepared, tmp_path, monkeypatch):
    monkeypatch.setattr("automl_cxr.training.trial.build_model", network_with_a_backbone)
    epochs, result = run(task(prepared, tmp_path / "a", family="transfer", weights="none", epochs=3))
    assert {epoch.facts["features"] for epoch in epochs} == {result.features} == {"backbone@vector, float32"}
    assert "predictions of the whole network from pixels differ by at most" in (tmp_path / "a" / "train.log").read_text()
    saved = Predictions.from_npz(tmp_path / "a" / "valid.npz").probabilities
    _, valid = load_parts(prepared.images, prepared.store.split)
    model = load_model(str(tmp_path / "a" / "model.keras"))
    assert saved == pytest.approx(predict_probabilities(model, valid), abs=1e-5)
    assert result.score == max(epoch.score for epoch in epochs)


@pytest.mark.slow
@pytest.mark.parametrize(("monitor", "column", "choose"), [("loss", "valid_loss", min), ("accuracy", "valid_accuracy", max)])
def test_the_monitored_value_selects_the_epoch_and_the_objective_scores_it(prepared, tmp_path, monitor, column, choose):
    epochs, result = run(task(prepared, tmp_path / "a", monitor=monitor, learning_rate=0.01, epochs=4))
    assert getattr(epochs[result.best_epoch - 1], column) == choose(getattr(epoch, column) for epoch in epochs)
    predictions = Predictions.from_npz(tmp_path / "a" / "valid.npz")
    assert result.score == METRICS["macro_f1"].function(predictions.labels, predictions.probabilities, None)


@pytest.mark.long
def test_the_deadline_cuts_a_trial_short_unless_it_had_ended(prepared, tmp_path):
    after_deadline = {"seconds": -1.0}
    _, result = run(dataclasses.replace(task(prepared, tmp_path / "a"), **after_deadline))
    assert (result.epochs, result.cut_short) == (1, True)
    _, result = run(dataclasses.replace(task(prepared, tmp_path / "b", epochs=1), **after_deadline))
    assert (result.epochs, result.cut_short) == (1, False)


@pytest.mark.slow
def test_several_objectives_are_reported_after_each_epoch_and_at_the_end(prepared, tmp_path):
    names = ("macro_f1", "parameters", "latency", "sensitivity_at_90_specificity")
    changed_task = dataclasses.replace(task(prepared, tmp_path / "a", epochs=2), objectives=names, normal_class=0)
    changed_task = dataclasses.replace(
        changed_task, requirements=(Requirement.parse("fnfr<=1"), Requirement.parse("multiply_adds<=1e9"))
    )
    epochs, result = run(changed_task)
    for epoch in epochs:
        score, parameters, latency, sensitivity = epoch.values
        assert score == epoch.score
        assert parameters == epoch.n_parameters
        assert latency is None, "latency is measured at the end"
        assert 0 <= sensitivity <= 1
    score, parameters, latency, sensitivity = result.values
    assert (score, parameters) == (result.score, result.n_parameters)
    assert sensitivity == epochs[result.best_epoch - 1].values[3]
    assert 0.001 < latency < 1000
    assert set(result.violations) == {"fnfr<=1", "multiply_adds<=1000000000"}
    assert all(violation <= 0 for violation in result.violations.values())
    with (tmp_path / "a" / "history.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["parameters"]) for row in rows] == [result.n_parameters] * 2
    assert [row["latency"] for row in rows] == ["", ""]


def test_a_network_that_violates_a_bound_on_its_size_is_not_built(prepared, tmp_path, monkeypatch):
    monkeypatch.setattr("automl_cxr.training.trial.build_model", None)
    changed_task = dataclasses.replace(
        task(prepared, tmp_path / "a"),
        requirements=(Requirement.parse("parameters<=10"), Requirement.parse("multiply_adds<=1e12")),
    )
    with pytest.raises(InfeasibleError, match=r"^parameters [\d,]+ > 10$") as caught:
        run(changed_task)
    assert caught.value.stopped_by == "constraint"
    assert caught.value.violations["parameters<=10"] > 0 > caught.value.violations["multiply_adds<=1000000000000"]


def test_a_network_that_cannot_fit_in_memory_is_not_built(prepared, tmp_path, monkeypatch):
    monkeypatch.setattr("automl_cxr.training.trial.build_model", None)
    monkeypatch.setenv("AUTOML_CXR_MEMORY_LIMIT", "10000")
    with pytest.raises(InfeasibleError, match="one image at a time") as caught:
        run(task(prepared, tmp_path / "a"))
    assert caught.value.stopped_by == "memory"


@pytest.mark.slow
def test_a_bound_on_a_score_is_evaluated_at_the_end(prepared, tmp_path):
    changed_task = dataclasses.replace(
        task(prepared, tmp_path / "a", epochs=1), requirements=(Requirement.parse("macro_f1>=1.5"),)
    )
    _, result = run(changed_task)
    assert result.violations == {"macro_f1>=1.5": 1.5 - result.score}
    assert result.values == ()
