"""What this process computes on."""

from __future__ import annotations

import keras


def has_gpu() -> bool:
    """Tell whether Keras' backend computes on a GPU."""
    if keras.backend.backend() == "torch":
        return keras.ops.zeros(()).device.type != "cpu"
    try:
        return bool(keras.distribution.list_devices("gpu"))
    except RuntimeError:  # JAX raises when asked for devices that it has not
        return False
