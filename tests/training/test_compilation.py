"""The training step is compiled by XLA with the backends and devices on which this makes it faster."""

import keras
import numpy as np
import pytest

from automl_cxr.config import TrialConfig
from automl_cxr.model.build import build_model
from automl_cxr.model.devices import has_gpu
from automl_cxr.training.compilation import compile_network
from automl_cxr.training.schedules import plan_phases

EVERY_CHANGE = {"augmentation": 0.5, "shear": 5.0, "fill": "reflect", "brightening": "multiply"}


@pytest.mark.slow
def test_the_training_step_with_augmentation_is_compiled():
    """JAX compiles on every device. TensorFlow on a CPU is faster without XLA, and Keras does not compile with PyTorch."""
    values = {"image_size": 16, "layers": "conv4k3", "pooling": "average", "batch_size": 4, "precision": "float32"}
    config = TrialConfig.from_values({**values, **EVERY_CHANGE})
    network = build_model(config, 3, steps_per_epoch=1)
    compile_network(network, config, plan_phases(config)[0], n_steps=1)
    backend = keras.backend.backend()
    assert network.jit_compile == (backend == "jax" or (backend == "tensorflow" and has_gpu()))
    pixels = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 1)).astype(np.float32)
    targets = np.eye(3, dtype=np.float32)[[0, 1, 2, 0]]
    before = [weight.copy() for weight in network.get_weights()]
    assert np.isfinite(network.train_on_batch(pixels, targets))
    assert any(not np.array_equal(*pair) for pair in zip(before, network.get_weights(), strict=True))
