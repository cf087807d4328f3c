import csv
import dataclasses

import keras
import numpy as np
import pytest

from automl_cxr.errors import ImpossibleModelError
from automl_cxr.model.backbone_builder import build_backbone
from automl_cxr.model.inference import load_model
from automl_cxr.records import FoldRecord, SplitRecord
from automl_cxr.scoring.metrics import METRICS
from automl_cxr.scoring.predictions import Predictions
from automl_cxr.scoring.thresholds import choose_thresholds
from automl_cxr.training.cross_validation import cross_validate, predict_out_of_fold
from automl_cxr.training.passes import predict_probabilities
from automl_cxr.training.probe import run_probe
from automl_cxr.training.stacked_trials import run_stacked_trials
from automl_cxr.training.trial import load_parts, run_trial
from tests.training.findings import FINDINGS, SIZE, run, task_of

SMALL = {"n_blocks": 2, "filters": 8, "dense_units": 8, "epochs": 3, "batch_size": 16, "learning_rate": 0.01, "seed": 5}
PROBE = {"family": "probe", "probe_layers": "squeezenet@2+squeezenet@1", "weights": "none"}
# Normalised, because the outputs of random weights are so large that probabilities would be rounded to 0 and 1.
HEAD = {**SMALL, "family": "transfer", "backbone": "squeezenet", "cut": "1", "normalise": True}


def check_files(task, result):
    """Check that the files of a trial agree with its result and with each other; return its predictions."""
    predictions = Predictions.from_npz(task.folder / "valid.npz")
    split = SplitRecord.from_json(task.split.read_text(encoding="utf-8"))
    np.testing.assert_array_equal(predictions.labels, np.array(split.judged.labels))
    np.testing.assert_array_equal(predictions.thresholds, choose_thresholds(predictions.labels, predictions.probabilities))
    assert predictions.classes == FINDINGS
    assert result.score == METRICS["macro_auc"].function(predictions.labels, predictions.probabilities, None)
    return predictions


@pytest.mark.slow
@pytest.mark.parametrize("kernel", ["linear", "rbf"])
def test_a_probe_predicts_findings(tmp_path, kernel):
    task = task_of(tmp_path, {**PROBE, "probe_kernel": kernel, "uncertain_targets": "0.3-0.7"})
    (epoch,), result = run(run_probe(task))
    predictions = check_files(task, result)
    assert result.score > 0.9
    is_known = predictions.labels >= 0
    is_right = (predictions.probabilities >= 0.5) == (predictions.labels == 1)
    assert epoch.valid_accuracy == is_right[is_known].mean()
    _, valid = load_parts(task.images, SplitRecord.from_json(task.split.read_text()))
    saved = predict_probabilities(load_model(str(task.folder / "model.keras")), valid)
    np.testing.assert_allclose(saved, predictions.probabilities, atol=1e-5)


@pytest.mark.slow
def test_a_probe_predicts_findings_out_of_fold(tmp_path):
    task = task_of(tmp_path, PROBE, n_folds=3)
    folds, result = run(run_probe(task))
    assert [type(fold) for fold in folds] == [FoldRecord] * 3
    check_files(task, result)
    assert result.score > 0.9


@pytest.mark.slow
@pytest.mark.parametrize("monitor", ["score", "loss", "accuracy"])
def test_a_network_is_trained_and_its_best_epoch_is_saved(tmp_path, monitor):
    task = task_of(tmp_path, {**SMALL, "monitor": monitor, "loss": "asymmetric" if monitor == "score" else "ce"})
    epochs, result = run(run_trial(task))
    predictions = check_files(task, result)
    best = epochs[result.best_epoch - 1]
    sign = {"score": (1, "score"), "loss": (-1, "valid_loss"), "accuracy": (1, "valid_accuracy")}[monitor]
    assert sign[0] * getattr(best, sign[1]) == max(sign[0] * getattr(epoch, sign[1]) for epoch in epochs)
    assert best.score == result.score
    assert best.valid_loss == METRICS["log_loss"].function(predictions.labels, predictions.probabilities, None)
    assert predictions.probabilities.sum(axis=1).max() > 1, "the findings are independent"
    with (task.folder / "history.csv").open(newline="") as file:
        assert [float(row["score"]) for row in csv.DictReader(file)] == [epoch.score for epoch in epochs]


@pytest.mark.long
def test_training_continues_from_a_checkpoint(tmp_path):
    values = {**SMALL, "uncertain_targets": "0.5-0.9", "dropout": 0.3}
    whole, first, second = (task_of(tmp_path, values, name=name) for name in ("whole", "first", "second"))
    epochs, _ = run(run_trial(whole))
    checkpoint = tmp_path / "checkpoint.npz"
    run(run_trial(dataclasses.replace(first, until=1, checkpoint=checkpoint)))
    continued, _ = run(run_trial(dataclasses.replace(second, resume=checkpoint, reported=1)))
    assert [epoch.loss for epoch in continued] == pytest.approx([epoch.loss for epoch in epochs[1:]], abs=1e-6)
    again, uninterrupted = (Predictions.from_npz(task.folder / "valid.npz") for task in (second, whole))
    np.testing.assert_allclose(again.probabilities, uninterrupted.probabilities, atol=1e-6)


@pytest.mark.long
def test_networks_of_folds_predict_findings(tmp_path):
    task = task_of(tmp_path, {**SMALL, "epochs": 1}, n_folds=2)
    folds, result = run(cross_validate(task))
    assert len(folds) == 2
    predictions = check_files(task, result)
    split = SplitRecord.from_json(task.split.read_text())
    of_model = predict_out_of_fold(load_model(str(task.folder / "model.keras")), task.images, split)
    np.testing.assert_allclose(of_model, predictions.probabilities, atol=1e-5)


@pytest.mark.long
def test_stacked_trials_of_findings_equal_separate_trials(tmp_path):
    keras.utils.set_random_seed(0)
    build_backbone("squeezenet", SIZE).save_weights(tmp_path / "squeezenet.weights.h5")
    base = {**HEAD, "weights": str(tmp_path / "squeezenet.weights.h5"), "epochs": 2}
    several = [
        {"loss": "asymmetric", "label_smoothing": 0.1, "uncertain_targets": "ones"},
        {"loss": "focal", "dense_units": 7, "focal_alpha": "0.5,1,2", "uncertain_targets": "0.5-0.9", "seed": 2},
        {"imbalance": "none", "n_dense": 0, "seed": 3},
    ]
    tasks = [task_of(tmp_path, {**base, **values}, name=f"stacked{number}") for number, values in enumerate(several)]
    for task, trial in zip(tasks, run_stacked_trials(tasks), strict=True):
        epochs, result = run(trial)
        predictions = check_files(task, result)
        (task.folder.parent / f"alone-{task.folder.name}").mkdir()
        alone = dataclasses.replace(task, folder=task.folder.parent / f"alone-{task.folder.name}")
        epochs_alone, _ = run(run_trial(alone))
        assert [epoch.loss for epoch in epochs] == pytest.approx([epoch.loss for epoch in epochs_alone], abs=1e-5)
        separate = Predictions.from_npz(alone.folder / "valid.npz")
        np.testing.assert_allclose(predictions.probabilities, separate.probabilities, atol=1e-5)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"imbalance": "undersample"}, "imbalance must be class_weights or none"),
        ({"task": "multiclass", "loss": "asymmetric"}, "needs several findings"),
        ({"loss": "focal", "focal_alpha": "1,2"}, "1 number or 3"),
        ({"uncertain_targets": "ones,zeros"}, "1 entry or 3"),
    ],
)
def test_impossible_hyperparameters_are_refused_before_training(tmp_path, values, message):
    task = task_of(tmp_path, {**SMALL, **values})
    for runner in (run_trial, cross_validate):
        with pytest.raises(ImpossibleModelError, match=message):
            next(runner(task))
    assert not list(task.folder.glob("*.log")) or not (task.folder / "train.log").read_text()
