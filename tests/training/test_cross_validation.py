import csv
import json
import shutil
from dataclasses import dataclass, replace

import keras
import numpy as np
import pytest

from automl_cxr.config import TrialConfig
from automl_cxr.data.feature_cache import FeatureCache
from automl_cxr.data.image_rows import open_images
from automl_cxr.errors import TrialError
from automl_cxr.model.inference import load_model
from automl_cxr.scoring.metrics import METRICS
from automl_cxr.scoring.predictions import Predictions
from automl_cxr.study.options import SearchOptions
from automl_cxr.study.prepare import prepare_study
from automl_cxr.training.cross_validation import cross_validate, fold_seed, load_fold_parts, predict_out_of_fold
from automl_cxr.training.datasets import LabelledPart
from automl_cxr.training.passes import predict_probabilities
from automl_cxr.training.trial import TrialTask

K = 3
SMALL = {
    "image_size": 16,
    "n_blocks": 1,
    "filters": 4,
    "dense_units": 8,
    "epochs": 2,
    "batch_size": 64,
    "augmentation": 0.5,
    "seed": 5,
}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, phantoms):
    runs = tmp_path_factory.mktemp("runs")
    request = SearchOptions(space="scratch", data=str(phantoms), name="s", image_size=16, folds=K)
    return prepare_study(request, runs=runs, storage=f"sqlite:///{runs / 'studies.db'}")


def task_of(prepared, folder, *, checkpoint=None, **values):
    folder.mkdir()
    return TrialTask(
        config=TrialConfig.from_values({**SMALL, **values}),
        images=prepared.images,
        split=prepared.store.folder / "split.json",
        folder=folder,
        checkpoint=checkpoint,
    )


def run(task):
    folds, trial = [], cross_validate(task)
    while True:
        try:
            folds.append(next(trial))
        except StopIteration as end:
            return folds, end.value


@dataclass(frozen=True)
class CompletedTrial:
    """A cross-validated trial that several tests read."""

    task: TrialTask
    folds: list
    result: object
    predictions: Predictions

    @property
    def folder(self):
        return self.task.folder


@pytest.fixture(scope="module")
def completed(prepared, tmp_path_factory):
    folder = tmp_path_factory.mktemp("completed")
    task = task_of(prepared, folder / "trial", checkpoint=folder / "00000.npz")
    folds, result = run(task)
    return CompletedTrial(task, folds, result, Predictions.from_npz(task.folder / "valid.npz"))


def test_folds_separate_patients_and_leave_out_every_image_once(prepared):
    split = prepared.store.split
    left_out = []
    for number in range(1, K + 1):
        train, valid = load_fold_parts(prepared.images, split, number)
        assert not {split.train.patients[row] for row in train.rows} & {split.train.patients[row] for row in valid.rows}
        assert sorted([*train.rows, *valid.rows]) == list(range(len(split.train.images)))
        assert valid.labels.tolist() == [split.train.labels[row] for row in valid.rows]
        assert train.labels.tolist() == [split.train.labels[row] for row in train.rows]
        left_out.extend(valid.rows)
    assert sorted(left_out) == list(range(len(split.train.images)))


def test_every_pooled_image_has_one_out_of_fold_prediction(prepared, completed):
    split, predictions = prepared.store.split, completed.predictions
    assert predictions.ids == split.train.images
    assert predictions.patients == split.train.patients
    assert predictions.labels.tolist() == list(split.train.labels)
    assert not set(predictions.ids) & set(split.test)
    assert completed.result.score == METRICS["macro_f1"].function(predictions.labels, predictions.probabilities, None)
    for fold in completed.folds:
        rows = np.asarray(split.folds) == fold.fold
        assert fold.score == METRICS["macro_f1"].function(predictions.labels[rows], predictions.probabilities[rows], None)


def test_a_cross_validated_trial_writes_the_files_of_any_other(completed):
    assert {path.name for path in completed.folder.iterdir()} == {
        "config.json", "history.csv", "train.log", "valid.npz", "scores.json", "model.keras",
    }  # fmt: skip
    assert json.loads((completed.folder / "config.json").read_text())["seed"] == 5
    with (completed.folder / "history.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["fold"], row["epoch"]) for row in rows] == [(str(k), str(e)) for k in (1, 2, 3) for e in (1, 2)]
    for fold in completed.folds:
        assert fold.score == max(float(row["score"]) for row in rows if row["fold"] == str(fold.fold))
    log = (completed.folder / "train.log").read_text()
    assert [line for line in log.splitlines() if line.startswith("fold")] == [f"fold {k} of 3" for k in (1, 2, 3)]
    assert (completed.result.epochs, completed.result.best_epoch, completed.result.cut_short) == (6, None, False)


def test_the_saved_model_is_the_mean_of_the_networks_of_the_folds(prepared, completed):
    model = load_model(str(completed.folder / "model.keras"))
    pixels = open_images(prepared.images)
    part = LabelledPart(pixels, np.arange(len(pixels)), np.zeros(len(pixels), int))
    networks = [model.get_layer(f"fold_{number}") for number in range(1, K + 1)]
    predictions = [predict_probabilities(network, part) for network in networks]
    assert predict_probabilities(model, part) == pytest.approx(np.mean(predictions, axis=0), abs=1e-6)
    for number, probabilities in enumerate(predictions, start=1):
        left_out = np.asarray(prepared.store.split.folds) == number
        assert probabilities[left_out] == pytest.approx(completed.predictions.probabilities[left_out], abs=1e-5)
    assert len({probabilities.tobytes() for probabilities in predictions}) == K, "each has its own seed and images"
    assert model.input_shape == (None, 16, 16, 1)
    again = predict_out_of_fold(model, prepared.images, prepared.store.split)
    assert again == pytest.approx(completed.predictions.probabilities, abs=1e-5)


def test_the_parameters_of_all_networks_are_counted(completed):
    n_parameters = sum(epoch.n_parameters for epoch in completed.folds) // K
    assert completed.result.n_parameters == n_parameters == load_model(str(completed.folder / "model.keras")).count_params()
    assert [fold.facts for fold in completed.folds] == [
        {"n_parameters": n_parameters, "folds": K, "epochs": 2 * fold} for fold in (1, 2, 3)
    ]


def test_each_fold_has_its_own_seed():
    assert len({fold_seed(seed, fold) for seed in range(20) for fold in range(1, 11)}) == 200
    assert fold_seed(5, 1) == fold_seed(5, 1)


def copy_finished(completed, folder, *folds):
    """Copy the results of some folds, as saved by an interrupted attempt; return the path of its checkpoint."""
    folder.mkdir()
    for fold in folds:
        shutil.copy(completed.task.checkpoint.with_name(f"00000-fold-{fold}-finished.npz"), folder)
    return folder / "00000.npz"


@pytest.mark.long
def test_an_interrupted_trial_continues_in_the_middle_of_a_fold(prepared, completed, tmp_path, monkeypatch):
    from automl_cxr.training import trainer

    fit, trained = trainer.fit_epoch, []

    def fit_or_raise(*arguments, epoch, learning_rate):
        trained.append(epoch)
        if trained == [1, 2]:
            raise KeyboardInterrupt  # killed in the second epoch of the second fold
        return fit(*arguments, epoch=epoch, learning_rate=learning_rate)

    monkeypatch.setattr("automl_cxr.training.trial._CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr("automl_cxr.training.trainer.fit_epoch", fit_or_raise)
    checkpoint = copy_finished(completed, tmp_path / "checkpoints", 1)
    interrupted = cross_validate(task_of(prepared, tmp_path / "interrupted", checkpoint=checkpoint))
    assert next(interrupted) == completed.folds[0], "finished folds are reported again"
    with pytest.raises(KeyboardInterrupt):
        next(interrupted)
    assert {path.name for path in checkpoint.parent.iterdir()} == {"00000-fold-1-finished.npz", "00000-fold-2.npz"}
    folds, result = run(task_of(prepared, tmp_path / "again", checkpoint=checkpoint))
    assert trained == [1, 2, 2, 1, 2], "finished epochs are not trained again"
    assert folds == completed.folds
    assert result.score == completed.result.score
    again = Predictions.from_npz(tmp_path / "again" / "valid.npz")
    assert again.probabilities == pytest.approx(completed.predictions.probabilities, abs=1e-6)
    assert {path.name for path in checkpoint.parent.iterdir()} == {f"00000-fold-{k}-finished.npz" for k in (1, 2, 3)}


@pytest.mark.long
def test_after_the_time_limit_each_fold_is_trained_for_one_epoch(prepared, completed, tmp_path):
    checkpoint = copy_finished(completed, tmp_path / "checkpoints", 1, 2)
    folds, result = run(replace(task_of(prepared, tmp_path / "a", checkpoint=checkpoint), seconds=0.0))
    assert (len(folds), result.epochs, result.cut_short) == (K, 2 + 2 + 1, True)


def test_a_damaged_fold_is_reported(prepared, tmp_path):
    (tmp_path / "00007-fold-1-finished.npz").write_bytes(b"nothing")
    with pytest.raises(TrialError, match="cannot be read"):
        next(cross_validate(task_of(prepared, tmp_path / "a", checkpoint=tmp_path / "00007.npz")))


def test_the_checkpoints_of_folds_are_removed_with_their_trial(prepared, completed):
    checkpoints = prepared.store.checkpoints
    copy_finished(completed, checkpoints, 1, 3)
    prepared.store.remove_other_checkpoints(lambda: {0})
    assert len(list(checkpoints.iterdir())) == 2
    prepared.store.remove_other_checkpoints(set)
    assert not list(checkpoints.iterdir())


def network_with_a_backbone(config, n_classes, **_):
    keras.utils.set_random_seed(3)
    image = keras.Input((16, 16, 1))
    backbone = keras.Model(image, keras.layers.Conv2D(4, 3, name="conv")(image), name="backbone")
    backbone.trainable = False
    pixels = keras.Input((16, 16, 1))
    x = keras.layers.GlobalAveragePooling2D(name="vector")(backbone(keras.layers.Rescaling(1 / 255)(pixels)))
    return keras.Model(pixels, keras.layers.Dense(n_classes, activation="softmax")(x))


@pytest.mark.slow
def test_all_folds_use_features_of_one_pass(prepared, tmp_path, monkeypatch):
    monkeypatch.setattr("automl_cxr.training.trial.build_model", network_with_a_backbone)
    monkeypatch.setenv("AUTOML_CXR_CACHE", str(tmp_path / "cache"))
    task = task_of(prepared, tmp_path / "trial", family="concat", backbone="scratch", augmentation=0.0, epochs=3)
    _, result = run(task)
    assert result.features == "backbone@vector, float32"
    assert [entry.shape for entry in FeatureCache().entries()] == [(len(prepared.store.split.folds), 4)]
    saved = Predictions.from_npz(tmp_path / "trial" / "valid.npz").probabilities
    model = load_model(str(tmp_path / "trial" / "model.keras"))
    assert predict_out_of_fold(model, task.images, prepared.store.split) == pytest.approx(saved, abs=1e-5)
