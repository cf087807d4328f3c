import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from automl_cxr.errors import TrialError, UsageError
from automl_cxr.model import devices
from automl_cxr.model.inference import load_model
from automl_cxr.scoring.predictions import Predictions
from automl_cxr.training.datasets import LabelledPart
from automl_cxr.training.passes import predict_probabilities

TRAIN_ON_TWO = Path(__file__).with_name("train_on_two_devices.py")


@pytest.fixture(scope="module", params=["tensorflow", "jax"])
def two_devices(request, tmp_path_factory):
    """Train on one CPU device and on two, in a separate process for each backend; return backend, folder and figures."""
    if importlib.util.find_spec(request.param) is None:
        pytest.skip(f"needs {request.param}")
    folder = tmp_path_factory.mktemp(request.param)
    child = subprocess.run(
        [sys.executable, TRAIN_ON_TWO, folder],
        env={**os.environ, "KERAS_BACKEND": request.param, "PYTHONPATH": os.pathsep.join(sys.path)},
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert child.returncode == 0, child.stderr
    return request.param, folder, json.loads((folder / "figures.json").read_text(encoding="utf-8"))


@pytest.mark.long
def test_two_devices_train_like_one(two_devices):
    _, _, figures = two_devices
    assert figures["devices"] == 2
    assert figures["moved"] > 0.01
    assert figures["weights"] < 1e-5
    assert figures["predictions"] < 1e-5


@pytest.mark.long
def test_training_on_two_devices_continues_from_its_checkpoint(two_devices):
    _, _, figures = two_devices
    assert figures["promoted"] < 1e-6
    assert figures["promoted to one device"] < 1e-5


@pytest.mark.long
def test_a_model_trained_on_two_devices_predicts_on_one(two_devices):
    _, folder, _ = two_devices
    predictions = Predictions.from_npz(folder / "trial" / "valid.npz")
    images = np.load(folder / "images.npy")
    part = LabelledPart(images, np.arange(len(images))[-len(predictions.labels) :], predictions.labels)
    predicted = predict_probabilities(load_model(str(folder / "trial" / "model.keras")), part)
    assert predicted == pytest.approx(predictions.probabilities, abs=1e-5)


@pytest.mark.long
def test_unsupported_numbers_of_devices_and_parts_are_refused(two_devices):
    backend, _, figures = two_devices
    assert f"{backend} found 2 (cpu:0, cpu:1)" in figures["refused three devices"]
    assert ("on one GPU only" in figures["refused in parts"]) == (backend == "tensorflow")


@pytest.mark.parametrize("text", ["many", "", "0", "-1", "1.5", "nan", "inf"])
def test_an_invalid_number_of_gpus_is_refused(text, monkeypatch):
    monkeypatch.setenv("AUTOML_CXR_GPUS", text)
    with pytest.raises(UsageError, match="AUTOML_CXR_GPUS must be"):
        devices.n_assigned_gpus()


@pytest.mark.parametrize(("text", "n"), [("0.25", 1), ("1", 1), ("1.0", 1), ("2", 2), ("4.0", 4)])
def test_a_share_of_a_gpu_counts_as_one_device(text, n, monkeypatch):
    monkeypatch.setenv("AUTOML_CXR_GPUS", text)
    assert devices.n_devices() == n


def test_pytorch_supports_one_device_only(monkeypatch):
    monkeypatch.setenv("AUTOML_CXR_GPUS", "2")
    monkeypatch.setattr(keras.backend, "backend", lambda: "torch")
    with pytest.raises(TrialError, match=r"needs JAX or TensorFlow; received 2 GPUs on torch\. Set --gpus-per-trial 1"):
        devices.data_parallel()


@pytest.fixture
def share(monkeypatch):
    """Assign a quarter of a GPU to a process without a limit so far."""
    monkeypatch.setenv("AUTOML_CXR_GPUS", "0.25")
    devices.configure_backend.cache_clear()
    yield
    devices.configure_backend.cache_clear()


@pytest.mark.parametrize("starts_the_backend", [devices.configure_backend, devices.has_gpu, devices.describe_worker])
def test_the_share_of_jax_is_set_before_it_starts(starts_the_backend, share, monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    monkeypatch.setattr(devices, "use_compilation_cache", lambda: None)  # it needs the backend itself
    monkeypatch.setenv("XLA_PYTHON_CLIENT_MEM_FRACTION", "replaced during the test")
    starts_the_backend()
    assert os.environ["XLA_PYTHON_CLIENT_MEM_FRACTION"] == "0.2250"


def test_a_process_cannot_use_more_than_its_share(share):
    n_bytes = n_bytes_of_gpu()
    script = f"""
from automl_cxr.model.devices import has_gpu
import keras
assert has_gpu(), "Keras' backend has no GPU support"
keras.ops.convert_to_numpy(keras.ops.zeros({n_bytes // 10 // 4})[:1])
try:
    keras.ops.convert_to_numpy(keras.ops.zeros({n_bytes // 2 // 4})[:1])
except Exception as error:
    print("refused:", type(error).__name__)
"""
    child = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert "refused:" in child.stdout, child.stderr


def n_bytes_of_gpu():
    try:
        return devices._gpu_bytes(0)
    except TrialError as error:
        pytest.skip(f"needs an NVIDIA GPU: {error}")
