"""A convolution with ReLU, as published convolutional networks use it."""

from __future__ import annotations

import keras
from keras import layers


def rectified_convolution(
    x: keras.KerasTensor, filters: int, *, kernel: int, name: str, strides: int = 1, padding: str = "same"
) -> keras.KerasTensor:
    """Apply a convolution with ReLU; its initial weights follow He et al. 2015."""
    return layers.Conv2D(
        filters,
        kernel,
        strides=strides,
        padding=padding,
        activation="relu",
        kernel_initializer="he_normal",
        name=name,
    )(x)
