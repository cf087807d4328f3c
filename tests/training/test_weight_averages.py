import keras
import numpy as np
import pytest

from automl_cxr.config import TrialConfig
from automl_cxr.model.build import build_model
from automl_cxr.training import passes
from automl_cxr.training.datasets import LabelledPart
from automl_cxr.training.epoch_tracker import Objective
from automl_cxr.training.passes import predict_probabilities
from automl_cxr.training.trainer import Training
from automl_cxr.training.weight_averages import KeepWeights, averaged_weights

SMALL = {
    "image_size": 16,
    "n_blocks": 1,
    "filters": 4,
    "dense_units": 4,
    "batch_size": 8,
    "dropout": 0.0,
    "learning_rate": 0.02,
}


def parts():
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (36, 16, 16), dtype=np.uint8), rng.integers(0, 3, 36)
    return LabelledPart(images, np.arange(24), labels[:24]), LabelledPart(images, np.arange(24, 36), labels[24:])


def train(**values):
    """Train two epochs of three steps; return the network, the checkpoint after each epoch, and the epochs."""
    config = TrialConfig.from_values({**SMALL, "epochs": 2, "patience": 2, "monitor": "loss", **values})
    train_part, valid_part = parts()
    model = build_model(config, 3, steps_per_epoch=3)
    training = Training(model, config, train=train_part, valid=valid_part, objective=Objective())
    return model, [training.checkpoint() for _ in training.epochs()], training.history


@pytest.mark.long
@pytest.mark.parametrize("by_fit", [False, True])
def test_averages_are_validated_and_training_continues_from_the_weights(by_fit, monkeypatch):
    if by_fit:
        monkeypatch.setattr(passes, "_has_small_steps", lambda model, **sizes: False)
    _, plain, _ = train()
    model, averaged, history = train(weight_average=0.5)
    for one, other in zip(plain, averaged, strict=True):
        for value, same in zip(one.model, other.model, strict=True):
            np.testing.assert_allclose(value, same, atol=1e-6)
    last = averaged[-1]
    if history[-1].epoch == last.best.epoch:
        assert not np.allclose(last.best_weights[0], last.model[0], atol=1e-5)
    valid = parts()[1]
    of_truth = predict_probabilities(model, valid)[np.arange(12), valid.labels]
    best = min(epoch.valid_loss for epoch in history)
    assert -np.log(of_truth).mean() == pytest.approx(best, rel=1e-4)


def test_the_averages_are_an_exponential_moving_average_over_steps():
    _, checkpoints, _ = train(batch_size=24, epochs=4, patience=4, weight_average=0.5)  # one step an epoch, averaged over two
    weights = [checkpoint.model[0] for checkpoint in checkpoints]
    expected = weights[0]
    for one in weights[1:]:
        expected = 0.5 * expected + 0.5 * one
    np.testing.assert_allclose(checkpoints[-1].optimizer[1], expected, atol=1e-6)
    assert not np.allclose(expected, weights[-1], atol=1e-4)


def test_averages_outlive_a_prediction_with_them():
    """With JAX, a prediction donates the arrays of the weights, which must not be those of the averages."""
    network = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    network.compile(keras.optimizers.SGD(0.1, use_ema=True), loss="mse")
    features, targets = np.ones((8, 4), np.float32), np.zeros((8, 3), np.float32)
    network.fit(features, targets, verbose=0, callbacks=[KeepWeights()])
    with averaged_weights(network):
        network.predict(features, verbose=0)
        averages = [keras.ops.convert_to_numpy(variable.value) for variable in network.trainable_variables]
    stored = [keras.ops.convert_to_numpy(variable.value) for variable in network.optimizer.variables]
    assert all(any(np.array_equal(average, value) for value in stored) for average in averages)
    network.fit(features, targets, verbose=0, callbacks=[KeepWeights()])
