import dataclasses

import keras
import numpy as np
import pytest

from automl_cxr.config import TrialConfig
from automl_cxr.model.head import classifier_head
from automl_cxr.training.datasets import FeaturePart, LabelledPart
from automl_cxr.training.epoch_tracker import Objective
from automl_cxr.training.passes import predict_probabilities
from automl_cxr.training.schedules import plan_phases, rates_of_steps
from automl_cxr.training.stack_grouping import HeadShape, divide_stack_group, pad_shapes, stack_group_of
from automl_cxr.training.stacked_heads import StackedHeads, untrained_state
from automl_cxr.training.trainer import Training

EPOCHS = 3
PLAIN = TrialConfig(
    family="transfer", image_size=16, batch_size=8, epochs=EPOCHS, dropout=0.3, dense_units=9, learning_rate=0.01, seed=1
)
OTHERS = (
    {"dense_units": 14, "loss": "focal", "focal_gamma": 1.5, "focal_alpha": "0.2,0.3,0.5", "seed": 2},
    {"n_dense": 2, "dense_growth": 0.5, "weight_decay": 0.02, "imbalance": "none", "label_smoothing": 0.1, "seed": 3},
    {"n_dense": 0, "dropout": 0.5, "seed": 4},
    {"dense_units": 40, "dropout": 0.0, "warmup": 0.2, "scaled_rate": True, "seed": 5},
    {"dense_units": 9, "gradient_clip": 0.2, "warmup": 0.3, "schedule": "constant", "seed": 6},
)


def vectors(n=70):
    """Return vectors of 20 numbers as images of 4 x 5 pixels, so that a network without convolutions can be trained on them."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, n)
    images = rng.integers(0, 255, (n, 4, 5), dtype=np.uint8)
    images[np.arange(n), 0, labels] = 250
    return images, labels


def network(config):
    pixels = keras.Input((4, 5, 1))
    vector = keras.layers.Flatten()(keras.layers.Rescaling(1 / 255)(pixels))
    return keras.Model(pixels, classifier_head(vector, config, 3))


def train_separately(config):
    """Return the loss of each epoch, and the predictions for the validation part after it."""
    images, labels = vectors()
    train, valid = (LabelledPart(images, rows, labels[rows]) for rows in (np.arange(60)[::-1], np.arange(60, 70)))
    model = network(config)
    epochs = Training(model, config, train=train, valid=valid, objective=Objective()).epochs()
    return [(epoch.loss, predict_probabilities(model, valid)) for epoch in epochs]


def train_stacked(configs):
    images, labels = vectors()
    features = (images.reshape(len(images), -1) / np.float32(255)).astype(np.float32)
    train, valid = (FeaturePart((features,), rows, labels[rows]) for rows in (np.arange(60)[::-1], np.arange(60, 70)))
    states = [untrained_state(network(config), config) for config in configs]
    (group,) = {stack_group_of(config, state, train, 3) for config, state in zip(configs, states, strict=True)}
    heads, results = StackedHeads(configs, states, group), []
    for epoch in range(1, EPOCHS + 1):
        monitored = [0.0] * (epoch - 1)
        rates = [rates_of_steps(config, plan_phases(config)[0], monitored, n_steps=group.n_steps) for config in configs]
        losses = heads.train_epoch(train, epoch=epoch, learning_rates=np.stack(rates))
        results.append((losses, heads.probabilities(valid)))
    return results


def assert_equal_to_separate_training(configs, heads):
    stacked = train_stacked(configs)
    for head in heads:
        for (losses, predictions), (loss, probabilities) in zip(stacked, train_separately(configs[head]), strict=True):
            assert losses[head] == pytest.approx(loss, abs=1e-5)
            np.testing.assert_allclose(predictions[head], probabilities, atol=1e-5)


@pytest.mark.long
def test_stacked_heads_equal_separate_training():
    assert_equal_to_separate_training([PLAIN, *(dataclasses.replace(PLAIN, **values) for values in OTHERS)], heads=range(6))


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adamw", "rmsprop", "sgd", "adadelta"])
def test_stacked_heads_equal_separate_training_with_every_optimizer(optimizer):
    one = dataclasses.replace(PLAIN, optimizer=optimizer, weight_decay=0.05)
    assert_equal_to_separate_training([one, dataclasses.replace(one, learning_rate=0.002, dense_units=12, seed=6)], heads=[1])


def test_a_head_that_diverges_does_not_affect_others():
    images, labels = vectors()
    part = FeaturePart((images.reshape(len(images), -1).astype(np.float32),), np.arange(70), labels)
    configs = [PLAIN, dataclasses.replace(PLAIN, seed=2)]
    states = [untrained_state(network(config), config) for config in configs]
    states[0].weights[0][0, 0] = np.nan
    heads = StackedHeads(configs, states, stack_group_of(PLAIN, states[0], part, 3))
    losses, predictions = heads.train_epoch(part, epoch=1, learning_rates=np.full((2, 9), 0.01)), heads.probabilities(part)
    assert np.isnan(losses[0])
    assert np.isfinite(losses[1])
    assert np.isfinite(predictions[1]).all()


def test_a_group_is_divided_into_parts_that_fit_into_memory(monkeypatch):
    images, labels = vectors()
    part = FeaturePart((images.reshape(len(images), -1).astype(np.float32),), np.arange(70), labels)
    group = stack_group_of(PLAIN, untrained_state(network(PLAIN), PLAIN), part, 3)
    assert divide_stack_group([PLAIN] * 5, group) == [slice(0, 5)]
    n_weights = (20 + 1) * 9 + (9 + 1) * 3
    monkeypatch.setattr("automl_cxr.training.stack_grouping._MAX_BYTES", 2 * 16 * n_weights)
    assert divide_stack_group([PLAIN] * 5, group) == [slice(0, 2), slice(2, 4), slice(4, 5)]


def test_heads_of_similar_width_are_padded_to_one_shape(monkeypatch):
    shapes = [HeadShape.of(dataclasses.replace(PLAIN, dense_units=units), 20, 3) for units in (9, 30, 10, 31, 9)]
    monkeypatch.setattr("automl_cxr.training.stack_grouping._TRACING_COST", 100)
    assert [shape.widths for shape in pad_shapes(shapes)] == [(10,), (31,), (10,), (31,), (10,)]
    monkeypatch.setattr("automl_cxr.training.stack_grouping._TRACING_COST", 10_000)
    assert {shape.widths for shape in pad_shapes(shapes)} == {(31,)}


def test_a_state_can_be_trained_further_in_another_stack():
    images, labels = vectors()
    part = FeaturePart((images.reshape(len(images), -1) / np.float32(255),), np.arange(70), labels)
    configs = [PLAIN, dataclasses.replace(PLAIN, seed=2, dense_units=30, optimizer="adam")]

    def train(members, states, epochs):
        heads = StackedHeads(members, states, stack_group_of(members[0], states[0], part, 3))
        losses = [heads.train_epoch(part, epoch=epoch, learning_rates=np.full((len(members), 9), 0.01))[0] for epoch in epochs]
        state, _ = heads.state(0), heads.close()
        return losses, state

    states = [untrained_state(network(config), config) for config in configs]
    expected, _ = train(configs[:1], states[:1], (1, 2, 3))
    first, state = train(configs, states, (1,))
    second, _ = train(configs[:1], [state], (2, 3))
    assert [*first, *second] == pytest.approx(expected, abs=1e-5)
