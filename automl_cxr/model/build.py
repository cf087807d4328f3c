"""The one door to the networks: a configuration in, an untrained Keras model out."""

from __future__ import annotations

import keras

from automl_cxr.config import TrialConfig
from automl_cxr.model.fused import build_fused
from automl_cxr.model.scratch import build_scratch

_BUILDERS = {"scratch": build_scratch, "fused": build_fused}


def build_model(config: TrialConfig, n_classes: int, *, steps_per_epoch: int) -> keras.Model:
    """Build the network of a configuration with weights drawn from its seed.

    What Keras itself kept of earlier models is forgotten first. TensorFlow keeps some of their graphs all the same: a process
    grows by 10 to 50 MiB with each model that it trains.

    Args:
        config: The family and its hyperparameters.
        n_classes: Columns of the output.
        steps_per_epoch: Gradient steps between two validations; batch normalisation is tuned to it.

    Returns:
        A model from raw grey pixels 0..255, shape (n, image_size, image_size, 1), to probabilities (n, n_classes).

    Raises:
        ImpossibleModelError: The configuration describes no network, with the way out.
    """
    keras.utils.clear_session()
    keras.utils.set_random_seed(config.seed)
    return _BUILDERS[config.family](config, n_classes, steps_per_epoch=steps_per_epoch)


def backend_versions() -> str:
    """Name Keras and its backend, for logs."""
    return f"Keras {keras.__version__} on {keras.backend.backend()}"
