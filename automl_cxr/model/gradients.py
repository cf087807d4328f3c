"""The gradient of a number with respect to arrays, on every backend of Keras.

Keras has no function for gradients outside of training. Therefore this module calls the backends directly, as ``devices.py``
and ``export_check.py`` do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

Differentiable = Callable[[list[Any]], tuple[Any, list[Any]]]


def gradients(function: Differentiable, values: Sequence[np.ndarray]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Differentiate a function with respect to arrays.

    Args:
        function: Takes a list of tensors, one for each of ``values``; returns a scalar tensor that depends on each of them, and
            a list of auxiliary tensors.
        values: The point at which it is differentiated, arrays of floats.

    Returns:
        The auxiliary tensors; and the gradient with respect to each of ``values``, in its shape. All arrays are float32.
    """
    tensors = [ops.convert_to_tensor(value) for value in values]
    auxiliary, grads = _BACKENDS[keras.backend.backend()](function, tensors)
    return [_to_array(tensor) for tensor in auxiliary], [_to_array(gradient) for gradient in grads]


def _to_array(tensor: Any) -> np.ndarray:
    return ops.convert_to_numpy(ops.cast(tensor, "float32"))


def _of_tensorflow(function: Differentiable, tensors: list[Any]) -> tuple[list[Any], list[Any]]:
    import tensorflow as tf

    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(tensors)
        number, auxiliary = function(tensors)
    return auxiliary, tape.gradient(number, tensors)


def _of_jax(function: Differentiable, tensors: list[Any]) -> tuple[list[Any], list[Any]]:
    import jax

    grads, auxiliary = jax.grad(function, has_aux=True)(tensors)
    return auxiliary, grads


def _of_torch(function: Differentiable, tensors: list[Any]) -> tuple[list[Any], list[Any]]:
    import torch

    leaves = [tensor.detach().requires_grad_() for tensor in tensors]
    with torch.enable_grad():
        number, auxiliary = function(leaves)
        grads = torch.autograd.grad(number, leaves)
    return [tensor.detach() for tensor in auxiliary], list(grads)


_BACKENDS = {"tensorflow": _of_tensorflow, "jax": _of_jax, "torch": _of_torch}
