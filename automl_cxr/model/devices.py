"""The devices of this process: a share of a GPU, one GPU, or several.

A search sets the environment variable AUTOML_CXR_GPUS of its workers to the number of GPUs that a trial may use; Ray makes only
these visible. Keras has no setting for a share of a GPU's memory, and trains on several devices with JAX only. Therefore this
module calls TensorFlow, JAX and PyTorch directly.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import math
import os
import platform
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

import keras

from automl_cxr.errors import TrialError, UsageError
from automl_cxr.hardware import GPUS, cpu_model, describe_machine, n_usable_cores
from automl_cxr.model.compilation_cache import use_compilation_cache
from automl_cxr.model.keras_private import skip_checks_for_tensorflow

_TENSOR_FRACTION = 0.9  # of a share; the driver's context and the compiled kernels are not counted by any backend
_MIB = 2**20
_FIRST_WITH_BFLOAT16 = 8  # compute capability of NVIDIA GPUs
_COMPUTE_CAPABILITY_MAJOR = 75  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR of CUDA's driver
_FULL_PRECISION: ContextVar[bool] = ContextVar("full_precision", default=False)


def has_gpu() -> bool:
    """Return whether Keras' backend computes on a GPU."""
    configure_backend()  # the next lines start the backend
    if keras.backend.backend() == "torch":
        return keras.ops.zeros(()).device.type != "cpu"
    return _lists("gpu")


def has_bfloat16() -> bool:
    """Return whether Keras' backend multiplies bfloat16 faster than float32: on a TPU, and on NVIDIA GPUs since 2020 (Ampere).

    Within ``full_precision`` the result is false.
    """
    if _FULL_PRECISION.get():
        return False
    if has_gpu():
        return _compute_capability() >= _FIRST_WITH_BFLOAT16
    return keras.backend.backend() != "torch" and _lists("tpu")


def _lists(kind: str) -> bool:
    try:
        return bool(keras.distribution.list_devices(kind))
    except RuntimeError:  # JAX raises an error if it has no such device
        return False


def n_assigned_gpus() -> float:
    """Return the number of GPUs that this process may use: below 1 for a share of one; 1 if the variable is not set.

    Raises:
        UsageError: The variable is neither a fraction of 1 nor a whole number.
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
    """Return the number of devices that a batch is divided among."""
    return max(1, int(n_assigned_gpus()))


@functools.cache
def configure_backend() -> None:
    """Limit this process to its share of a GPU's memory, so that other processes on the GPU can use theirs; use the cache of
    compiled functions; and avoid the import of TensorFlow with other backends.

    Call it before any computation, because a backend reserves its memory when it starts; ``has_gpu`` calls it too. Later calls
    do nothing. Without a GPU, or with a whole one, there is no limit.

    Raises:
        TrialError: The memory of the GPU cannot be determined.
    """
    use_compilation_cache()
    if keras.backend.backend() != "tensorflow":
        skip_checks_for_tensorflow()
    if n_assigned_gpus() < 1:
        _LIMITS[keras.backend.backend()](_TENSOR_FRACTION * n_assigned_gpus())


def data_parallel() -> contextlib.AbstractContextManager[Any]:
    """Return a context in which every batch is divided among this process's devices, which have equal weights.

    Build, compile, train and predict a model in the context. The size of a batch must be a multiple of ``n_devices()``; its
    gradient is the same as on one device. Batch normalisation computes its statistics over the whole batch on JAX, and over
    each device's part of it on TensorFlow. With one device the context has no effect.

    Raises:
        TrialError: The backend does not support several devices, or has fewer.
    """
    return contextlib.nullcontext() if n_devices() == 1 else _distribution(n_devices()).scope()


def check_gradient_accumulation(n_parts: int) -> None:
    """Refuse gradient accumulation on several devices with TensorFlow.

    Keras' optimizers decide in a conditional branch of TensorFlow's graph whether to make a step, and devices cannot exchange
    gradients in such a branch.

    Args:
        n_parts: Number of parts that a batch is computed in.

    Raises:
        TrialError: A batch has several parts, and TensorFlow would divide them among several devices.
    """
    if n_parts > 1 and n_devices() > 1 and keras.backend.backend() == "tensorflow":
        raise TrialError(
            f"TensorFlow computes a batch in parts on one GPU only; received {n_parts} parts on {n_devices()} GPUs. "
            "Use a smaller --batch-size, --gpus-per-trial 1, or KERAS_BACKEND=jax."
        )


def describe_worker() -> dict[str, Any]:
    """Describe what affects the last digits of a training result: host, processor, threads per operation, device, backend."""
    return {
        "host": platform.node(),
        "cpu": cpu_model(),
        "threads": n_threads(),
        "device": _gpu_name() if has_gpu() else "cpu",
        "backend": keras.backend.backend(),
    }


def n_threads() -> int:
    """Return the number of threads that an operation is divided among, which affects the order of its sums."""
    return int(os.environ.get("TF_NUM_INTRAOP_THREADS") or os.environ.get("OMP_NUM_THREADS") or n_usable_cores())


def _gpu_name() -> str:
    gpus = describe_machine()["gpus"]
    name = str(gpus[0]) if gpus else "gpu"
    return name if n_devices() == 1 else f"{n_devices()} x {name}"


@functools.cache
def _distribution(n: int) -> Any:
    """Return an object of Keras or TensorFlow whose ``scope()`` is a context for data parallelism over ``n`` devices."""
    backend = keras.backend.backend()
    if backend not in ("jax", "tensorflow"):
        raise TrialError(
            f"A trial on several GPUs needs JAX or TensorFlow; received {n} GPUs on {backend}. "
            "Set --gpus-per-trial 1 or KERAS_BACKEND."
        )
    devices = keras.distribution.list_devices()
    if len(devices) < n:
        raise TrialError(
            f"A trial on {n} GPUs needs as many devices; {backend} found {len(devices)} ({', '.join(devices)}). "
            f"Install {backend} with support for these GPUs, or set --gpus-per-trial 1."
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
    """Return the memory of a visible GPU, from CUDA's driver.

    The query does not reserve any of the memory, unlike starting a backend. TensorFlow has no function for it.

    Raises:
        TrialError: There is no driver, or its query fails.
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
            f"To share a GPU, its memory must be known; the query of CUDA's driver failed ({next(filter(None, errors))}). "
            "Set --gpus-per-trial 1."
        )
    return n_bytes.value


@functools.cache
def _compute_capability() -> int:
    """Return the major number of the first visible GPU's compute capability; 0 if it is not an NVIDIA GPU."""
    device, value = ctypes.c_int(), ctypes.c_int()
    try:
        driver = ctypes.CDLL("libcuda.so.1")
        errors = (
            driver.cuInit(0),
            driver.cuDeviceGet(ctypes.byref(device), 0),
            driver.cuDeviceGetAttribute(ctypes.byref(value), _COMPUTE_CAPABILITY_MAJOR, device),
        )
    except (OSError, AttributeError):
        return 0
    return 0 if any(errors) else value.value


@contextlib.contextmanager
def full_precision() -> Iterator[None]:
    """Multiply with the full precision of float32 within the context; by default GPUs round to TensorFloat-32.

    Models that are loaded within the context compute in float32, also if they were trained in mixed precision.
    """
    token = _FULL_PRECISION.set(True)
    try:
        with _without_rounding():
            yield
    finally:
        _FULL_PRECISION.reset(token)


@contextlib.contextmanager
def _without_rounding() -> Iterator[None]:
    """Multiply float32 without rounding to TensorFloat-32 within the context."""
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

        with torch.backends.cudnn.flags(allow_tf32=False):  # PyTorch's matrix products have full precision by default
            yield
    else:
        import jax

        with jax.default_matmul_precision("float32"):
            yield
