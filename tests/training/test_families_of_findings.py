"""Trials of findings of the other families, in two phases, from a trained network, and the measurement of their time."""

import dataclasses

import pytest

from automl_cxr.config import TrialConfig
from automl_cxr.model.build import build_model
from automl_cxr.scoring.metrics import METRICS
from automl_cxr.scoring.predictions import Predictions
from automl_cxr.training.step_times import measure_seconds_per_image
from automl_cxr.training.trial import run_trial
from tests.training.findings import FINDINGS, SIZE, run, task_of

SMALL = {"n_blocks": 2, "filters": 4, "dense_units": 8, "batch_size": 16, "learning_rate": 0.01, "seed": 5}
# Normalised, because the outputs of random weights are so large that probabilities would be rounded to 0 and 1.
HEAD = {**SMALL, "family": "transfer", "backbone": "squeezenet", "cut": "1", "weights": "none", "normalise": True}
CONCAT = {**HEAD, "family": "concat", "second_backbone": "scratch", "second_cut": "1"}
FAMILIES = {
    "fused": {**SMALL, "family": "fused", "image_size": 67, "epochs": 1},
    "concat": {**CONCAT, "epochs": 1},
    "two phases": {**HEAD, "unfreeze": 2, "frozen_share": 0.5, "epochs": 2},
    "two phases of concat": {**CONCAT, "unfreeze": 2, "frozen_share": 0.5, "epochs": 2},
}


@pytest.mark.long
@pytest.mark.parametrize("values", FAMILIES.values(), ids=FAMILIES)
def test_every_family_predicts_findings(tmp_path, values):
    task = task_of(tmp_path, values)
    epochs, result = run(run_trial(task))
    predictions = Predictions.from_npz(task.folder / "valid.npz")
    assert predictions.classes == FINDINGS
    assert predictions.labels.shape == predictions.probabilities.shape
    assert [epoch.epoch for epoch in epochs] == list(range(1, values["epochs"] + 1))
    assert result.score == METRICS["macro_auc"].function(predictions.labels, predictions.probabilities, None)


def test_a_network_of_findings_starts_with_weights_of_a_study_of_classes(tmp_path):
    classes = TrialConfig.from_values({**SMALL, "image_size": SIZE, "epochs": 1})
    trained = build_model(classes, 2, steps_per_epoch=1)
    trained.save(tmp_path / "model.keras")
    values = {**CONCAT, "backbone": "scratch", "weights": str(tmp_path / "model.keras"), "cut": "2", "task": "multilabel"}
    network = build_model(TrialConfig.from_values({**values, "image_size": SIZE, "epochs": 1}), 3, steps_per_epoch=1)
    assert network.output_shape == (None, 3)
    saved = [kernel for layer in trained.layers if layer.name.endswith("conv1") for kernel in layer.get_weights()]
    loaded = [array.tobytes() for array in network.get_weights()]
    assert len(saved) > 0
    assert all(kernel.tobytes() in loaded for kernel in saved if kernel.any())


@pytest.mark.slow
def test_the_time_of_networks_of_findings_is_measured():
    scratch = TrialConfig.from_values({**SMALL, "task": "multilabel", "image_size": SIZE, "loss": "asymmetric"})
    larger = dataclasses.replace(scratch, filters=16)
    seconds, seconds_of_larger = measure_seconds_per_image([scratch, larger], 3)
    assert 0 < seconds < seconds_of_larger
