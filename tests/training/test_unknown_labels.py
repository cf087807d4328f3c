"""The gradient of an unknown label is exactly 0 in every kind of training."""

import dataclasses

import keras
import numpy as np
import pytest

from automl_cxr.config import TrialConfig
from automl_cxr.model.build import build_model
from automl_cxr.model.head import classifier_head
from automl_cxr.tasks import UNCERTAIN, UNKNOWN
from automl_cxr.training import passes
from automl_cxr.training.compilation import compile_network
from automl_cxr.training.datasets import FeaturePart, LabelledPart
from automl_cxr.training.epoch_tracker import Objective
from automl_cxr.training.finding_regressions import fit_findings
from automl_cxr.training.schedules import plan_phases
from automl_cxr.training.stack_grouping import stack_group_of
from automl_cxr.training.stacked_heads import StackedHeads, untrained_state
from automl_cxr.training.targets import Targets, training_targets
from automl_cxr.training.trainer import Training
from tests.training.findings import draw_findings

LOSSES = ("ce", "focal", "asymmetric")
CONFIG = TrialConfig(
    task="multilabel", image_size=32, n_blocks=1, filters=4, dense_units=8, dropout=0.0, batch_size=16, epochs=1, seed=2
)
HEAD = dataclasses.replace(CONFIG, family="transfer")
HIDDEN = 2  # the finding whose labels are all unknown


def hidden_labels():
    _, labels = draw_findings()
    labels[:, HIDDEN] = UNKNOWN
    labels[::3, HIDDEN] = UNCERTAIN  # ignored
    labels[::4, 0] = UNKNOWN
    return labels


def output_weights(model):
    kernel, bias = model.get_layer("probabilities").get_weights()
    return kernel.copy(), bias.copy()


def assert_only_known_findings_have_changed(before, after):
    for old, new in zip(before, after, strict=True):
        np.testing.assert_array_equal(old[..., HIDDEN], new[..., HIDDEN])
        assert (old[..., 0] != new[..., 0]).any()


@pytest.mark.slow
@pytest.mark.parametrize("road", ["steps", "fit", "accumulation"])
def test_training_does_not_change_the_output_of_a_finding_without_known_labels(monkeypatch, road):
    if road == "fit":
        monkeypatch.setattr(passes, "_SMALL_STEP", 0)
    config = dataclasses.replace(CONFIG, gradient_accumulation=2 if road == "accumulation" else 1)
    images, _ = draw_findings()
    part = LabelledPart(images, np.arange(60), hidden_labels())
    model = build_model(config, 3, steps_per_epoch=4)
    before = output_weights(model)
    list(Training(model, config, train=part, valid=part, objective=Objective()).epochs())
    assert_only_known_findings_have_changed(before, output_weights(model))


@pytest.mark.parametrize("loss", LOSSES)
def test_a_step_does_not_depend_on_the_targets_of_unknown_labels(loss):
    images, labels = draw_findings(16)[0][..., None].astype(np.float32), hidden_labels()[:16]
    config = dataclasses.replace(CONFIG, loss=loss)
    targets = training_targets(labels, 3, config)
    results = []
    for values in (targets.values, np.where(targets.weights == 0, 1 - targets.values, targets.values)):
        model = build_model(config, 3, steps_per_epoch=1)
        compile_network(model, config, plan_phases(config)[0], n_steps=1)
        model.train_on_batch(images, values, sample_weight=targets.weights)
        results.append(model.get_weights())
    for first, second in zip(*results, strict=True):
        np.testing.assert_array_equal(first, second)


def test_images_without_a_known_label_do_not_change_any_trained_weight():
    images, _ = draw_findings(16)
    config = dataclasses.replace(CONFIG, batch_norm=False)
    targets = training_targets(np.full((16, 3), UNKNOWN), 3, config)
    model = build_model(config, 3, steps_per_epoch=1)
    before = model.get_weights()
    compile_network(model, config, plan_phases(config)[0], n_steps=1)
    assert model.train_on_batch(images[..., None].astype(np.float32), targets.values, sample_weight=targets.weights) == 0
    for first, second in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(first, second)


def test_stacked_heads_do_not_change_the_output_of_a_finding_without_known_labels():
    vectors = np.random.default_rng(0).normal(size=(60, 20)).astype(np.float32)
    part = FeaturePart((vectors,), np.arange(60), hidden_labels())
    configs = [dataclasses.replace(HEAD, loss=loss, seed=seed, imbalance="none") for seed, loss in enumerate(LOSSES)]
    states = []
    for config in configs:
        pixels = keras.Input((20,))
        states.append(untrained_state(keras.Model(pixels, classifier_head(pixels, config, 3)), config))
    heads = StackedHeads(configs, states, stack_group_of(configs[0], states[0], part, 3))
    heads.train_epoch(part, epoch=1, learning_rates=np.full((3, 4), 0.01))
    for head, state in enumerate(states):
        assert_only_known_findings_have_changed(state.weights[-2:], heads.weights(head)[-2:])


def test_logistic_regressions_do_not_depend_on_the_targets_of_unknown_labels():
    features, labels = np.random.default_rng(0).normal(size=(60, 8)), hidden_labels()
    patients = [str(row) for row in range(60)]
    targets = training_targets(labels, 3, CONFIG)
    other = Targets(np.where(targets.weights == 0, 1 - targets.values, targets.values), targets.weights)
    first, second = (fit_findings(features, labels, one, patients, seed=0) for one in (targets, other))
    np.testing.assert_array_equal(first.kernel, second.kernel)
    np.testing.assert_array_equal(first.bias, second.bias)
    assert not first.kernel[:, HIDDEN].any()
    assert first.predict(features)[:, HIDDEN] == pytest.approx(0.5)
