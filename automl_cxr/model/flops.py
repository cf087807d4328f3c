"""Counting the multiplications of a network."""

from __future__ import annotations

import math

import keras
from keras import layers

from automl_cxr.model.graph import output_of
from automl_cxr.model.keras_private import constant_arguments
from automl_cxr.model.onnx_encoder import OnnxEncoder

_MULTIPLYING = (layers.Conv2D, layers.DepthwiseConv2D, layers.SeparableConv2D, layers.Dense)
_MULTIPLYING_OPERATIONS = ("Conv", "Matmul")  # keras.ops.conv and keras.ops.matmul


def count_multiply_adds(operation: keras.Operation) -> int:
    """Count the multiplications with a kernel for one image, in a layer, in an operation or in a whole network.

    The count is the number of output positions times the number of kernel entries. Biases are additions and do not count. The
    kernel of a layer is trained or loaded; that of an operation of ``keras.ops`` is a constant, such as the filters of
    ``gabor.py``.
    """
    if isinstance(operation, keras.Model):
        return sum(count_multiply_adds(inner) for inner in operation.operations)
    if isinstance(operation, OnnxEncoder):
        return operation.multiply_adds
    if isinstance(operation, _MULTIPLYING):
        return _count(operation, [weight.shape for weight in operation.weights if len(weight.shape) > 1])
    if type(operation).__name__ in _MULTIPLYING_OPERATIONS:
        return _count(operation, [constant.shape for constant in constant_arguments(operation)])
    return 0


def _count(operation: keras.Operation, kernels: list[tuple[int, ...]]) -> int:
    return math.prod(output_of(operation).shape[1:-1]) * sum(map(math.prod, kernels))
