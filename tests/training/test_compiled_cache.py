"""Trials that train twins which earlier trials have left, against the same trials in a fresh process."""

import dataclasses

import keras
import numpy as np
import pytest
from keras import layers

from automl_cxr.config import OPTIMIZERS, TrialConfig
from automl_cxr.errors import TrialError
from automl_cxr.model.build import build_model
from automl_cxr.model.inference import load_model
from automl_cxr.training import compiled_cache
from automl_cxr.training.checkpoint import load_checkpoint, save_checkpoint
from automl_cxr.training.compiled_cache import compiled_network
from automl_cxr.training.compiled_clone import AdjustableDropout, CompiledClone, structure_of
from automl_cxr.training.datasets import LabelledPart
from automl_cxr.training.epoch_tracker import Objective
from automl_cxr.training.losses import build_optimizer, renew_optimizer
from automl_cxr.training.trainer import Training, predict_probabilities

N_TRAIN, N_VALID = 22, 10
SCRATCH = {
    "image_size": 16,
    "n_blocks": 2,
    "filters": 4,
    "block_dropout": 0.1,
    "dense_units": 8,
    "dropout": 0.4,
    "batch_size": 8,
    "epochs": 2,
    "augmentation": 0.5,  # of the brightness alone: the other random layers take long to trace
    **dict.fromkeys(("rotation_low", "rotation_high", "shift", "zoom", "contrast"), 0.0),
    "flip": False,
    "optimizer": "adamw",
    "weight_decay": 0.01,
    "loss": "focal",
    "learning_rate": 0.01,
    "label_smoothing": 0.1,
    "seed": 1,
}
OTHER = {
    **SCRATCH,
    "dropout": 0.2,
    "block_dropout": 0.3,
    "weight_decay": 0.001,
    "learning_rate": 0.003,
    "label_smoothing": 0.0,
    "focal_gamma": 1.2,
    "focal_alpha": "0.2,0.3,0.5",
    "batch_size": 5,
    "seed": 2,
}
TRANSFER = {
    **{name: OTHER[name] for name in ("batch_size", "learning_rate", "dropout", "seed")},
    "family": "transfer",
    "backbone": "squeezenet",
    "cut": "1",
    "weights": "none",
    "image_size": 32,
    "unfreeze": 2,
    "frozen_share": 0.5,
    "epochs": 2,
}


@pytest.fixture(autouse=True)
def fresh_store():
    """Keep nothing from test to test."""
    compiled_cache._kept.clear()


@pytest.fixture
def traces(monkeypatch):
    """Count how often Keras traces a step of training or prediction."""
    counted = []
    for step in ("train_step", "predict_step"):
        original = getattr(keras.Model, step)

        def counting(self, *data, step=step, original=original):
            counted.append(step)
            return original(self, *data)

        monkeypatch.setattr(keras.Model, step, counting)
    return counted


def parts(image_size):
    rng = np.random.default_rng(0)
    n = N_TRAIN + N_VALID
    images, labels = rng.integers(0, 256, (n, image_size, image_size), dtype=np.uint8), rng.integers(0, 3, n)
    return {
        "train": LabelledPart(images, np.arange(N_TRAIN), labels[:N_TRAIN]),
        "valid": LabelledPart(images, np.arange(N_TRAIN, n), labels[N_TRAIN:]),
    }


def training_of(values):
    config = TrialConfig.from_values(values)
    model = build_model(config, 3, steps_per_epoch=3)
    return model, Training(model, config, **parts(config.image_size), objective=Objective())


def outcome(values):
    """Train a trial: its epochs, but for their seconds, its predictions and its weights."""
    model, training = training_of(values)
    epochs = [dataclasses.replace(epoch, seconds=0.0) for epoch in training.epochs()]
    return epochs, training.best_probabilities()[0], model.get_weights()


def are_equal(some, others):
    return (
        some[0] == others[0]
        and np.array_equal(some[1], others[1])
        and all(np.array_equal(one, other) for one, other in zip(some[2], others[2], strict=True))
    )


@pytest.fixture(scope="module")
def alone():
    """What OTHER comes to in a process that has trained nothing before."""
    return outcome(OTHER)


def test_a_trial_after_another_equals_it_alone_to_the_last_bit(alone, traces):
    first = outcome(SCRATCH)
    traced = list(traces)
    after = outcome(OTHER)
    assert set(traced) == {"train_step", "predict_step"}
    assert traces == traced, "it was traced anew"
    assert len(compiled_cache._kept) == 1
    assert are_equal(after, alone)
    assert not are_equal(after, first)


def test_so_does_a_trial_of_two_phases(traces):
    expected = outcome(TRANSFER)
    traced = list(traces)
    outcome({**TRANSFER, "seed": 5, "dropout": 0.6, "fine_tune_rate": 0.001})
    again = outcome(TRANSFER)
    assert traces == traced
    assert len(compiled_cache._kept) == 2, "one for each phase"
    assert are_equal(again, expected)


def test_a_network_that_nobody_named_finds_the_twin_of_its_like(traces):
    def train(seed):
        config = TrialConfig(epochs=1, batch_size=8, image_size=16, seed=seed)
        pixels = keras.Input((16, 16, 1), name="pixels")
        says = layers.Dense(3, activation="softmax", name="probabilities")(layers.Flatten(name="vector")(pixels))
        network = keras.Model(pixels, says)
        list(Training(network, config, **parts(16), objective=Objective()).epochs())
        return network.name

    first = train(1)
    traced = list(traces)
    assert train(2) != first, "Keras counts its names up"
    assert traces == traced


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_every_optimizer_begins_anew(name, weight_decay):
    config = TrialConfig(optimizer=name, weight_decay=weight_decay)
    rng = np.random.default_rng(0)
    first, second = (rng.normal(size=(4, 5)).astype(np.float32) for _ in range(2))

    def steps(optimizer, variable):
        variable.assign(first)
        for _ in range(3):
            optimizer.apply([keras.ops.convert_to_tensor(second)], [variable])
        return keras.ops.convert_to_numpy(variable)

    fresh = build_optimizer(config, learning_rate=0.01)
    expected = steps(fresh, keras.Variable(first))
    used = build_optimizer(dataclasses.replace(config, weight_decay=3 * weight_decay), learning_rate=0.5)
    assert not np.array_equal(steps(used, variable := keras.Variable(first)), expected)
    renew_optimizer(used, config, learning_rate=0.01)
    assert np.array_equal(steps(used, variable), expected)


@pytest.mark.parametrize(
    "change",
    [
        {"filters": 5},
        {"dense_units": 9},
        {"image_size": 24},
        {"pooling": "max"},
        {"dropout": 0.0},
        {"augmentation": 0.6},
        {"weight_decay": 0.0},
        {"optimizer": "adam"},
        {"loss": "ce"},
        {"gradient_accumulation": 2},
    ],
    ids=str,
)
def test_what_is_built_into_the_graph_is_not_confused(change):
    def common(values):
        config = TrialConfig.from_values(values)
        return compiled_cache._common(build_model(config, 3, steps_per_epoch=3), config)

    assert common(SCRATCH) == common({**OTHER, "batch_size": SCRATCH["batch_size"]})
    assert common(SCRATCH) != common({**SCRATCH, **change})


def test_momentum_and_trained_layers_are_built_into_the_graph():
    config = TrialConfig.from_values(SCRATCH)
    slow, fast = (structure_of(build_model(config, 3, steps_per_epoch=n)) for n in (3, 300))
    assert slow != fast
    frozen, free = (
        structure_of(build_model(TrialConfig.from_values({**TRANSFER, "frozen_share": share}), 3, steps_per_epoch=3))
        for share in (0.5, 0.0)
    )
    assert frozen != free


@pytest.mark.parametrize("rate", [0.1, 0.37, 0.5, 0.873])
@pytest.mark.parametrize("noise_shape", [None, (None, 1)])
def test_dropout_draws_the_masks_of_keras(rate, noise_shape):
    inputs = keras.Input((50,))
    plain = keras.Model(inputs, layers.Dropout(rate, seed=7, noise_shape=noise_shape, name="dropout")(inputs))
    other = keras.Model(inputs, layers.Dropout(0.6, seed=8, noise_shape=noise_shape, name="dropout")(inputs))
    twin = CompiledClone(other)
    assert isinstance(twin.model.get_layer("dropout"), AdjustableDropout)
    twin.take(plain)
    x = np.random.default_rng(0).normal(size=(64, 50)).astype(np.float32)
    for _ in range(3):
        expected, drawn = (np.asarray(model(x, training=True)) for model in (plain, twin.model))
        assert np.array_equal(drawn, expected)
    assert np.array_equal(np.asarray(twin.model(x, training=False)), x)


def test_where_there_is_no_room_the_network_itself_trains_the_same(alone, monkeypatch):
    monkeypatch.setattr(compiled_cache, "_SHARE", 0.0)
    assert are_equal(outcome(OTHER), alone)
    assert not compiled_cache._kept


def test_the_model_that_is_left_is_plain_keras(alone, tmp_path):
    model = build_model(TrialConfig.from_values(OTHER), 3, steps_per_epoch=3)
    model.set_weights(alone[2])
    model.compile()
    model.save(tmp_path / "model.keras")
    said = predict_probabilities(load_model(str(tmp_path / "model.keras")), parts(16)["valid"], batch_size=5)
    assert said == pytest.approx(alone[1], abs=1e-6)


def test_two_trainings_at_once_have_a_twin_each():
    config = TrialConfig.from_values(SCRATCH)
    network = build_model(config, 3, steps_per_epoch=3)
    lent = compiled_network(network, config, learning_rate=0.1)
    with lent as one, compiled_network(network, config, learning_rate=0.1) as other:
        assert one.model is not other.model
    with compiled_network(network, config, learning_rate=0.1) as again:
        assert again is one, "they are of one kind; the later one is kept"


def test_a_checkpoint_goes_on_in_a_twin_that_was_used_between(alone, tmp_path):
    _, begun = training_of(OTHER)
    next(begun.epochs())
    save_checkpoint(begun.checkpoint(), tmp_path / "checkpoint.npz")
    outcome(SCRATCH)
    model, promoted = training_of(OTHER)
    promoted.restore(load_checkpoint(tmp_path / "checkpoint.npz"))
    list(promoted.epochs())
    assert [dataclasses.replace(epoch, seconds=0.0) for epoch in promoted.history] == alone[0]
    assert np.array_equal(promoted.best_probabilities()[0], alone[1])
    assert all(np.array_equal(one, other) for one, other in zip(model.get_weights(), alone[2], strict=True))


def lend(filters, raised=None):
    config = TrialConfig.from_values({**SCRATCH, "filters": filters})
    with compiled_network(build_model(config, 3, steps_per_epoch=3), config, learning_rate=0.1):
        if raised is not None:
            raise raised


def test_no_more_are_kept_than_there_is_room_for(monkeypatch):
    monkeypatch.setattr(compiled_cache, "_MOST_KEPT", 2)
    lend(2)
    first = next(iter(compiled_cache._kept))
    lend(3)
    lend(4)
    assert len(compiled_cache._kept) == 2
    assert first not in compiled_cache._kept
    last = next(reversed(compiled_cache._kept.values()))
    monkeypatch.setenv("AUTOML_CXR_MEMORY_LIMIT", str(round(1.5 * last.n_bytes / compiled_cache._SHARE)))
    lend(4)
    assert list(compiled_cache._kept.values()) == [last]


def test_after_an_error_that_may_be_want_of_memory_none_is_kept():
    lend(4)
    with pytest.raises(TrialError):
        lend(4, TrialError("diverged"))
    assert len(compiled_cache._kept) == 1
    with pytest.raises(MemoryError):
        lend(5, MemoryError())
    assert not compiled_cache._kept
