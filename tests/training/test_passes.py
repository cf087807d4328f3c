import keras
import numpy as np
import pytest
from keras import layers
from keras.src import backend

from automl_cxr.config import TrialConfig
from automl_cxr.training import passes
from automl_cxr.training.datasets import LabelledPart
from automl_cxr.training.epoch_tracker import Objective
from automl_cxr.training.passes import predict_probabilities
from automl_cxr.training.sampling import epoch_order
from automl_cxr.training.trainer import Training

N_TRAIN, N_VALID, SIZE = 29, 11, 8


def parts():
    """Make random images with labels; 29 images give batches of 8 of which the last has 5."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (N_TRAIN + N_VALID, 8, 8), dtype=np.uint8)
    labels = rng.integers(0, 3, N_TRAIN + N_VALID)
    rows = rng.permutation(N_TRAIN + N_VALID)
    return tuple(LabelledPart(images, own, labels[own]) for own in (rows[:N_TRAIN], rows[N_TRAIN:]))


@pytest.fixture(params=[False, True], ids=["batch by batch", "fit"])
def uses_fit(request, monkeypatch):
    if request.param:
        monkeypatch.setattr(passes, "_SMALL_STEP", 0)
    return request.param


class CountTraces(layers.Layer):
    """Count the calls of a network in training and in inference; a compiled network is called only when it is traced."""

    def __init__(self):
        super().__init__()
        self.n_calls = {True: 0, False: 0}

    def call(self, inputs, training=False):
        self.n_calls[bool(training)] += 1
        return inputs


def network(*after_scaling, seed=0):
    keras.utils.set_random_seed(seed)
    pixels = keras.Input((8, 8, 1))
    x = layers.Rescaling(1 / 255)(pixels)
    for layer in after_scaling:
        x = layer(x)
    return keras.Model(pixels, layers.Dense(3, activation="softmax")(layers.Flatten()(x)))


def training_of(model, **values):
    config = TrialConfig.from_values(
        {"batch_size": SIZE, "epochs": 3, "patience": 9, "imbalance": "class_weights", "learning_rate": 0.01, **values}
    )
    train, valid = parts()
    return Training(model, config, train=train, valid=valid, objective=Objective())


def test_fit_and_single_batches_take_the_same_steps(monkeypatch):
    results = []
    for small_step in (passes._SMALL_STEP, 0):
        monkeypatch.setattr(passes, "_SMALL_STEP", small_step)
        keras.utils.set_random_seed(0)
        model = network(layers.Conv2D(4, 3, activation="relu"), layers.BatchNormalization(momentum=0.5))
        losses = [epoch.loss for epoch in training_of(model).epochs()]
        results.append((losses, predict_probabilities(model, parts()[1])))
    (losses, predictions), (other_losses, other_predictions) = results
    assert losses == pytest.approx(other_losses, rel=1e-5)
    assert predictions == pytest.approx(other_predictions, abs=1e-5)


def test_the_loss_of_an_epoch_is_the_mean_over_its_images(uses_fit):
    model, (train, _) = network(), parts()
    epoch, *_ = training_of(model, learning_rate=1e-30, epochs=1, imbalance="none").epochs()
    of_truth = predict_probabilities(model, train)[np.arange(N_TRAIN), train.labels]
    assert epoch.loss == pytest.approx(-np.log(of_truth).mean(), rel=1e-5)


def test_training_and_prediction_are_each_traced_once(uses_fit):
    counter = CountTraces()
    model = network(counter, layers.Dropout(0.1))
    epochs = training_of(model).epochs()
    next(epochs)
    first = dict(counter.n_calls)
    list(epochs)
    predict_probabilities(model, parts()[1], batch_size=SIZE)
    assert counter.n_calls == first
    if keras.backend.backend() == "tensorflow":
        assert first[True] == 1


def test_batch_normalisation_learns_from_full_batches_of_different_images(uses_fit):
    """Compare its moving mean with that of batches of 8 images, the last of which contains the first images of the epoch."""
    norm = layers.BatchNormalization(momentum=0.75)
    training = training_of(network(norm), learning_rate=1e-30, epochs=1)
    train, _ = parts()
    list(training.epochs())
    order = epoch_order(train.labels, 3, TrialConfig(), epoch=1)
    assert len(order) == N_TRAIN
    mean = 0.0
    for first in range(0, N_TRAIN, SIZE):
        positions = np.take(order, np.arange(first, first + SIZE), mode="wrap")
        mean = 0.75 * mean + 0.25 * train.batch(positions).mean() / 255
    assert keras.ops.convert_to_numpy(norm.moving_mean.value)[0] == pytest.approx(mean, rel=1e-5)


def test_an_epoch_with_fit_reads_no_result_before_its_end(monkeypatch):
    """Count the values that Keras copies to the host: as many for 29 steps as for one."""
    monkeypatch.setattr(passes, "_SMALL_STEP", 0)
    calls, copy = [], backend.convert_to_numpy
    monkeypatch.setattr(backend, "convert_to_numpy", lambda value: calls.append(0) or copy(value))
    counts = []
    for batch_size in (1, N_TRAIN):
        calls.clear()
        list(training_of(network(), epochs=1, batch_size=batch_size).epochs())
        counts.append(len(calls))
    assert counts[0] == counts[1]


def test_predictions_of_a_part_smaller_than_a_batch_are_those_of_its_images(uses_fit):
    model, (train, valid) = network(), parts()
    few = LabelledPart(valid.images, valid.rows[:3], valid.labels[:3])
    training_of(model).epochs()
    expected = keras.ops.convert_to_numpy(model(train.batch(np.arange(N_TRAIN)).astype(np.float32)))
    assert predict_probabilities(model, train, batch_size=SIZE) == pytest.approx(expected, abs=1e-6)
    assert predict_probabilities(model, few, batch_size=SIZE).shape == (3, 3)
