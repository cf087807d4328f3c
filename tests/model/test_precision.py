import keras
import numpy as np
import pytest

from automl_cxr.config import TrialConfig
from automl_cxr.model import precision
from automl_cxr.model.build import build_model
from automl_cxr.model.devices import full_precision, has_bfloat16
from automl_cxr.model.inference import load_model
from automl_cxr.model.precision import in_float32, resolved_precision

HEAD = {"family": "transfer", "backbone": "squeezenet"}


@pytest.fixture(autouse=True)
def restore_policy():
    yield
    keras.config.set_dtype_policy("float32")


@pytest.mark.parametrize(
    ("values", "on_new_gpu", "on_old_gpu"),
    [
        ({}, "mixed_bfloat16", "float32"),
        ({"precision": "mixed"}, "mixed_bfloat16", "mixed_bfloat16"),
        ({"precision": "float32"}, "float32", "float32"),
        (HEAD, "float32", "float32"),  # only a head is trained, on cached features
        ({**HEAD, "precision": "mixed"}, "mixed_bfloat16", "mixed_bfloat16"),
        ({**HEAD, "unfreeze": 2}, "mixed_bfloat16", "float32"),
        ({"family": "probe"}, "float32", "float32"),
    ],
)
def test_the_precision_depends_on_the_device_and_on_the_trained_layers(values, on_new_gpu, on_old_gpu, monkeypatch):
    config = TrialConfig.from_values(values)
    assert resolved_precision(config) == "float32"  # on a CPU
    monkeypatch.setattr(precision, "has_gpu", lambda: True)
    assert resolved_precision(config) == on_old_gpu
    monkeypatch.setattr(precision, "has_bfloat16", lambda: True)
    assert resolved_precision(config) == on_new_gpu


def test_a_model_trained_in_mixed_precision_computes_in_float32_on_a_cpu(monkeypatch, tmp_path):
    values = {"image_size": 16, "n_blocks": 2, "filters": 4, "dense_units": 8, "resizer": 1.0, "augmentation": 0.5}
    with monkeypatch.context() as patch:
        patch.setattr(precision, "has_gpu", lambda: True)
        mixed = build_model(TrialConfig.from_values({**values, "precision": "mixed"}), 3, steps_per_epoch=4)
    exact = build_model(TrialConfig.from_values({**values, "precision": "float32"}), 3, steps_per_epoch=4)
    exact.set_weights(mixed.get_weights())
    mixed.save(tmp_path / "model.keras")
    images = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 1), dtype=np.uint8)
    expected = exact.predict_on_batch(images)
    assert not np.array_equal(mixed.predict_on_batch(images), expected)
    assert np.array_equal(load_model(str(tmp_path / "model.keras")).predict_on_batch(images), expected)
    assert in_float32(exact) is exact


def test_no_bfloat16_is_used_in_full_precision(monkeypatch):
    monkeypatch.setattr("automl_cxr.model.devices.has_gpu", lambda: True)
    monkeypatch.setattr("automl_cxr.model.devices._compute_capability", lambda: 9)
    assert has_bfloat16()
    with full_precision():
        assert not has_bfloat16()
    assert has_bfloat16()


def test_the_probabilities_and_the_loss_of_a_mixed_network_are_float32(monkeypatch):
    monkeypatch.setattr(precision, "has_gpu", lambda: True)
    model = build_model(TrialConfig(image_size=16, n_blocks=1, precision="mixed"), 3, steps_per_epoch=4)
    assert model.get_layer("block1_conv1").compute_dtype == "bfloat16"
    output = model.layers[-1]
    assert (output.compute_dtype, output.variable_dtype) == ("float32", "float32")
    losses = keras.losses.CategoricalCrossentropy()(np.eye(3, dtype=np.float32), model(np.zeros((3, 16, 16, 1), np.float32)))
    assert keras.backend.standardize_dtype(losses.dtype) == "float32"
