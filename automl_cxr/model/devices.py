"""What this process computes on."""

from __future__ import annotations

import os
import platform
from typing import Any

import keras

from automl_cxr.machine import cpu_model, describe_machine, n_usable_cores


def has_gpu() -> bool:
    """Tell whether Keras' backend computes on a GPU."""
    if keras.backend.backend() == "torch":
        return keras.ops.zeros(()).device.type != "cpu"
    try:
        return bool(keras.distribution.list_devices("gpu"))
    except RuntimeError:  # JAX raises when asked for devices that it has not
        return False


def describe_worker() -> dict[str, Any]:
    """Tell what decides the last digits of a training in this process: host, processor, threads of an operation, device."""
    return {
        "host": platform.node(),
        "cpu": cpu_model(),
        "threads": n_threads(),
        "device": _gpu_name() if has_gpu() else "cpu",
        "backend": keras.backend.backend(),
    }


def n_threads() -> int:
    """Count the threads that an operation is divided among, which decide the order of its sums."""
    return int(os.environ.get("TF_NUM_INTRAOP_THREADS") or os.environ.get("OMP_NUM_THREADS") or n_usable_cores())


def _gpu_name() -> str:
    gpus = describe_machine()["gpus"]
    return str(gpus[0]) if gpus else "gpu"
