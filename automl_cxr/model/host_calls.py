"""Calls of functions of NumPy arrays within a network, on every backend of Keras. They have no gradient.

Keras has no such operation. Therefore this module calls the backends directly, as ``gradients.py`` does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

ArrayFunction = Callable[[np.ndarray], np.ndarray]


def call_on_host(function: ArrayFunction, x: Any, shape: tuple[int, ...]) -> Any:
    """Apply a function to a tensor.

    Args:
        function: Takes and returns float32 arrays (n, ...). In compiled graphs it is called when they run.
        x: Tensor of the backend, float32 (n, ...).
        shape: Shape of the result for one row.

    Returns:
        Tensor of the backend, float32 (n, \\*shape).
    """
    return _BACKENDS[keras.backend.backend()](function, x, shape)


def _in_tensorflow(function: ArrayFunction, x: Any, shape: tuple[int, ...]) -> Any:
    import tensorflow as tf

    result = tf.numpy_function(function, [x], tf.float32, stateful=False)
    result.set_shape((x.shape[0], *shape))
    return tf.stop_gradient(result)


def _in_jax(function: ArrayFunction, x: Any, shape: tuple[int, ...]) -> Any:
    import jax

    result = jax.ShapeDtypeStruct((x.shape[0], *shape), np.float32)
    return jax.pure_callback(lambda array: function(np.asarray(array)), result, jax.lax.stop_gradient(x))


def _in_torch(function: ArrayFunction, x: Any, _shape: tuple[int, ...]) -> Any:
    import torch

    return torch.from_numpy(function(x.detach().cpu().numpy())).to(x.device)


_BACKENDS = {"tensorflow": _in_tensorflow, "jax": _in_jax, "torch": _in_torch}
