"""Counting the multiplications of a network."""

from __future__ import annotations

import math

import keras
from keras import layers

_MULTIPLYING = (layers.Conv2D, layers.DepthwiseConv2D, layers.SeparableConv2D, layers.Dense)


def count_multiply_adds(layer: keras.Operation) -> int:
    """Count the multiplications with a parameter for one image, in a layer or in all layers of a network.

    The count is the number of output positions times the number of kernel entries. Biases are additions and do not count.
    """
    if isinstance(layer, keras.Model):
        return sum(count_multiply_adds(inner) for inner in layer.layers)
    if not isinstance(layer, _MULTIPLYING):
        return 0
    kernels = sum(math.prod(weight.shape) for weight in layer.weights if len(weight.shape) > 1)
    return math.prod(layer.output.shape[1:-1]) * kernels
