"""The gradient of a number with respect to arrays, on whichever backend Keras runs.

Keras differentiates only to train, and leaves it to its backends for that. So this file names each of them: it is one of the
few exceptions to the rule that models are written in Keras alone (``devices.py`` and ``exported.py`` are the others).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

Differentiable = Callable[[list[Any]], tuple[Any, list[Any]]]


def gradients(function: Differentiable, values: Sequence[np.ndarray]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Differentiate what a function makes of some arrays.

    Args:
        function: Takes a list of tensors, one for each of ``values``; gives a tensor of no dimensions that depends on each of
            them, and a list of tensors to hand on.
        values: Where it is differentiated, arrays of floats.

    Returns:
        The tensors handed on; and the gradient with respect to each of ``values``, in its shape. All are float32.
    """
    tensors = [ops.convert_to_tensor(value) for value in values]
    told, slopes = _BACKENDS[keras.backend.backend()](function, tensors)
    return [_to_array(tensor) for tensor in told], [_to_array(slope) for slope in slopes]


def _to_array(tensor: Any) -> np.ndarray:
    return ops.convert_to_numpy(ops.cast(tensor, "float32"))


def _of_tensorflow(function: Differentiable, tensors: list[Any]) -> tuple[list[Any], list[Any]]:
    import tensorflow as tf

    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(tensors)
        number, told = function(tensors)
    return told, tape.gradient(number, tensors)


def _of_jax(function: Differentiable, tensors: list[Any]) -> tuple[list[Any], list[Any]]:
    import jax

    slopes, told = jax.grad(function, has_aux=True)(tensors)
    return told, slopes


def _of_torch(function: Differentiable, tensors: list[Any]) -> tuple[list[Any], list[Any]]:
    import torch

    leaves = [tensor.detach().requires_grad_() for tensor in tensors]
    with torch.enable_grad():
        number, told = function(leaves)
        slopes = torch.autograd.grad(number, leaves)
    return [tensor.detach() for tensor in told], list(slopes)


_BACKENDS = {"tensorflow": _of_tensorflow, "jax": _of_jax, "torch": _of_torch}
