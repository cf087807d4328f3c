import keras
import numpy as np
import pytest
from keras import layers

from automl_cxr.config import TrialConfig
from automl_cxr.training import device_inputs, passes, trainer
from automl_cxr.training.checkpoint import load_checkpoint, save_checkpoint
from automl_cxr.training.datasets import FeaturePart, LabelledPart
from automl_cxr.training.device_inputs import StoredRows, inputs_on_device, store_inputs
from automl_cxr.training.epoch_tracker import Objective
from automl_cxr.training.phase_inputs import PhaseInputs
from automl_cxr.training.trainer import Training

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (40, 8, 8), dtype=np.uint8)
LABELS = RNG.integers(0, 3, 40)
TRAIN, VALID = (LabelledPart(IMAGES, rows, LABELS[rows]) for rows in np.split(RNG.permutation(40), [29]))
CONFIG = TrialConfig(batch_size=8, epochs=2, patience=9, learning_rate=0.01)


def network():
    keras.utils.set_random_seed(0)
    pixels = keras.Input((8, 8, 1))
    x = layers.Conv2D(4, 3)(layers.Rescaling(1 / 255)(pixels))
    x = layers.Dropout(0.2, seed=1)(layers.BatchNormalization(momentum=0.5)(x))
    return keras.Model(pixels, layers.Dense(3, activation="softmax")(layers.Flatten()(x)))


def training_of(model):
    return Training(model, CONFIG, train=TRAIN, valid=VALID, objective=Objective())


@pytest.fixture
def store(monkeypatch):
    """Store the inputs on the device although it is a CPU, and run ``fit`` as on a GPU."""
    monkeypatch.setattr(trainer, "inputs_on_device", store_inputs)
    monkeypatch.setattr(passes, "_SMALL_STEP", 0)


def test_stored_images_give_the_same_training(monkeypatch):
    monkeypatch.setattr(passes, "_SMALL_STEP", 0)
    from_host = training_of(network())
    expected = [epoch.loss for epoch in from_host.epochs()], from_host.best_probabilities()
    monkeypatch.setattr(trainer, "inputs_on_device", store_inputs)
    stored = training_of(network())
    assert [epoch.loss for epoch in stored.epochs()] == pytest.approx(expected[0], rel=1e-5)
    assert stored.best_probabilities()[0] == pytest.approx(expected[1][0], abs=1e-5)
    assert stored.best_probabilities()[1] == ""


@pytest.mark.slow
def test_a_checkpoint_of_stored_images_continues_from_the_host_and_is_not_larger(store, monkeypatch, tmp_path):
    whole = [epoch.loss for epoch in training_of(network()).epochs()]
    training = training_of(network())
    next(training.epochs())
    save_checkpoint(training.checkpoint(), tmp_path / "checkpoint.npz")
    checkpoint = load_checkpoint(tmp_path / "checkpoint.npz")
    assert not any(array.dtype == np.uint8 or array.shape[:1] == (40,) for array in checkpoint.model)
    monkeypatch.setattr(trainer, "inputs_on_device", lambda inputs: inputs)
    continued = training_of(network())
    continued.restore(checkpoint)
    assert [epoch.loss for epoch in continued.epochs()] == pytest.approx(whole[1:], rel=1e-5)


def test_a_network_with_two_inputs_gets_the_rows_of_both():
    values = RNG.random((40, 5)).astype(np.float16)
    inputs = [keras.Input((5,)), keras.Input((8, 8, 1))]
    model = keras.Model(inputs, layers.Concatenate()([inputs[0], layers.Flatten()(inputs[1])]))
    parts = [FeaturePart((values, IMAGES[..., None]), part.rows, part.labels) for part in (TRAIN, VALID)]
    stored = store_inputs(PhaseInputs(network=model, train=parts[:1], valid=parts[1], description=""))
    positions = np.array([3, 0, 10])
    expected = model.predict_on_batch(list(parts[1].batch(positions)))
    assert np.array_equal(stored.network.predict_on_batch(stored.valid.batch(positions)), expected)


def test_all_pixel_values_are_stored_exactly():
    pixels = np.arange(256, dtype=np.uint8)[:, None]
    found = keras.ops.convert_to_numpy(StoredRows(pixels, name="pixels")(np.arange(256, dtype=np.int32)))
    assert (found.dtype, found[:, 0].tolist()) == (np.float32, list(range(256)))


@pytest.mark.parametrize(
    ("has_gpu", "available", "n_views", "is_stored"),
    [
        (True, 10**6, 1, True),
        (False, 10**6, 1, False),
        (True, 10**4, 1, False),
        (True, None, 1, False),
        (True, 10**6, 2, False),
    ],
)
def test_arrays_are_stored_on_a_gpu_in_which_they_fit(has_gpu, available, n_views, is_stored, monkeypatch):
    monkeypatch.setattr(device_inputs, "has_gpu", lambda: has_gpu)
    monkeypatch.setattr(device_inputs, "available_memory_bytes", lambda: available)
    inputs = PhaseInputs(network=network(), train=[TRAIN] * n_views, valid=VALID, description="")
    assert (inputs_on_device(inputs) is not inputs) == is_stored
