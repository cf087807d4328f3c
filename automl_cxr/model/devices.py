"""What this process computes on: a share of a GPU, one GPU, or several.

A search tells its workers in the variable AUTOML_CXR_GPUS how many GPUs a trial may use, and Ray shows them no others. Keras
leaves it to its backends to keep within a share, and to all but JAX to train on several devices. So this file, and no other,
calls TensorFlow and PyTorch themselves.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import math
import os
import platform
from collections.abc import Iterator
from typing import Any

import keras

from automl_cxr.errors import TrialError, UsageError
from automl_cxr.hardware import GPUS, cpu_model, describe_machine, n_usable_cores

_FOR_VALUES = 0.9  # of a share; the driver's context and the compiled kernels take the rest, which no backend counts
_MIB = 2**20


def has_gpu() -> bool:
    """Tell whether Keras' backend computes on a GPU."""
    keep_within_share()  # the backend starts here, if it has not
    if keras.backend.backend() == "torch":
        return keras.ops.zeros(()).device.type != "cpu"
    try:
        return bool(keras.distribution.list_devices("gpu"))
    except RuntimeError:  # JAX raises when asked for devices that it has not
        return False


def gpus_given() -> float:
    """Tell how many GPUs this process may use: below 1 a share of one, 1 where nobody says.

    Raises:
        UsageError: The variable holds no such number.
    """
    text = os.environ.get(GPUS, "1")
    try:
        gpus = float(text)
    except ValueError:
        gpus = math.nan
    if not (0 < gpus <= 1 or (gpus.is_integer() and gpus > 1)):
        raise UsageError(f"{GPUS} must be a part of a GPU or a whole number of them; received '{text}'. Leave it unset.")
    return gpus


def n_devices() -> int:
    """Count the devices that a batch is divided among."""
    return max(1, int(gpus_given()))


@functools.cache
def keep_within_share() -> None:
    """Limit this process to its share of a GPU's memory, so that it cannot starve its neighbours there.

    Call it before anything is computed, because a backend decides about its memory when it starts; ``has_gpu`` does so by
    itself. Later calls do nothing. Without a GPU, or with a whole one, there is nothing to limit.

    Raises:
        TrialError: The memory of the GPU cannot be learnt.
    """
    if gpus_given() < 1:
        _LIMITS[keras.backend.backend()](_FOR_VALUES * gpus_given())


def data_parallel() -> contextlib.AbstractContextManager[Any]:
    """Divide every batch among this process's devices, which hold the same weights, as long as the context lasts.

    Build, compile, train and predict a model in it. A batch must hold a multiple of ``n_devices()`` images; its gradient is
    that of one device. Batch normalisation takes its statistics over the whole batch on JAX, and over each device's part of it
    on TensorFlow. With one device it changes nothing.

    Raises:
        TrialError: The backend cannot do it, or has fewer devices.
    """
    return contextlib.nullcontext() if n_devices() == 1 else _distribution(n_devices()).scope()


def refuse_accumulation(n_parts: int) -> None:
    """Refuse what TensorFlow cannot do: compute a batch in parts (its optimizers decide in a graph's branch whether to step,
    where devices may not exchange gradients) and divide these parts among devices.

    Raises:
        TrialError: Always, if it is so.
    """
    if n_parts > 1 and n_devices() > 1 and keras.backend.backend() == "tensorflow":
        raise TrialError(
            f"TensorFlow computes a batch in parts on one GPU only; received {n_parts} parts on {n_devices()} GPUs. "
            "Take a smaller --batch-size, --gpus-per-trial 1, or KERAS_BACKEND=jax."
        )


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
    name = str(gpus[0]) if gpus else "gpu"
    return name if n_devices() == 1 else f"{n_devices()} x {name}"


@functools.cache
def _distribution(n: int) -> Any:
    """Make Keras' or TensorFlow's own object for data parallelism over the first devices; its ``scope()`` is the context."""
    backend = keras.backend.backend()
    if backend not in ("jax", "tensorflow"):
        raise TrialError(
            f"A trial on several GPUs needs JAX or TensorFlow; received {n} GPUs on {backend}. "
            "Ask for --gpus-per-trial 1, or set KERAS_BACKEND."
        )
    devices = keras.distribution.list_devices()
    if len(devices) < n:
        raise TrialError(
            f"A trial was given {n} GPUs, but {backend} sees {len(devices)} ({', '.join(devices)}). "
            f"Install {backend} with support for these GPUs, or ask for --gpus-per-trial 1."
        )
    if backend == "jax":
        return keras.distribution.DataParallel(devices=devices[:n])
    import tensorflow as tf

    return tf.distribute.MirroredStrategy(devices[:n])


def _limit_jax(fraction: float) -> None:
    os.environ["XLA_PYTHON_CLIENT_MEM_FRACTION"] = f"{fraction:.4f}"


def _limit_tensorflow(fraction: float) -> None:
    import tensorflow as tf

    for number, gpu in enumerate(tf.config.list_physical_devices("GPU")):
        limit = tf.config.LogicalDeviceConfiguration(memory_limit=int(fraction * _gpu_bytes(number) / _MIB))
        tf.config.set_logical_device_configuration(gpu, [limit])


def _limit_torch(fraction: float) -> None:
    import torch

    for number in range(torch.cuda.device_count()):
        torch.cuda.set_per_process_memory_fraction(fraction, number)


_LIMITS = {"jax": _limit_jax, "tensorflow": _limit_tensorflow, "torch": _limit_torch}


def _gpu_bytes(number: int) -> int:
    """Ask CUDA's driver how much memory a visible GPU has; the question takes none of it, and TensorFlow has none to answer it.

    Raises:
        TrialError: There is no driver, or it does not say.
    """
    device, n_bytes = ctypes.c_int(), ctypes.c_size_t()
    try:
        driver = ctypes.CDLL("libcuda.so.1")
        errors = (
            driver.cuInit(0),
            driver.cuDeviceGet(ctypes.byref(device), number),
            driver.cuDeviceTotalMem_v2(ctypes.byref(n_bytes), device),
        )
    except (OSError, AttributeError) as error:
        errors = (error,)
    if any(errors):
        raise TrialError(
            f"To share a GPU its memory must be known, and CUDA's driver does not tell it ({next(filter(None, errors))}). "
            "Ask for --gpus-per-trial 1."
        )
    return n_bytes.value


@contextlib.contextmanager
def full_precision() -> Iterator[None]:
    """Multiply with all digits of float32 as long as the context lasts; GPUs round to TensorFloat-32 by themselves."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        was_rounding = tf.config.experimental.tensor_float_32_execution_enabled()
        tf.config.experimental.enable_tensor_float_32_execution(False)
        try:
            yield
        finally:
            tf.config.experimental.enable_tensor_float_32_execution(was_rounding)
    elif backend == "torch":
        import torch

        with torch.backends.cudnn.flags(allow_tf32=False):  # of matrix products PyTorch keeps all digits by itself
            yield
    else:
        import jax

        with jax.default_matmul_precision("float32"):
            yield
