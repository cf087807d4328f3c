"""Otsu's threshold as part of a network, so that a saved model contains the masking of its images."""

from __future__ import annotations

import keras
from keras import layers, ops


def keep_below_otsu(pixels: keras.KerasTensor) -> keras.KerasTensor:
    """Set pixels to 0 if their blurred value is at or above Otsu's threshold of the image.

    Two 3x3 means approximate a Gaussian blur of 1.2 pixels. The threshold (Otsu 1979) divides the sorted pixels of an image so
    that the variance between the two groups is largest. Every pixel value is a candidate, so no histogram is needed.

    Args:
        pixels: (n, h, w, 1).

    Returns:
        (n, h, w, 1).
    """
    height, width = pixels.shape[1:3]
    n_pixels = height * width
    blurred = pixels
    for number in (1, 2):
        blurred = layers.AveragePooling2D(3, strides=1, padding="same", dtype="float32", name=f"blur{number}")(blurred)
    ascending = ops.sort(ops.reshape(blurred, (-1, n_pixels)), axis=1)
    centred = ascending - ops.mean(ascending, axis=1, keepdims=True)  # keeps the sums small enough for float32
    lower_sums = ops.cumsum(centred, axis=1)[:, :-1]
    # Counted within the graph, because a constant of the image's length would be stored in the model's configuration.
    n_lower = ops.cumsum(ops.ones_like(ascending), axis=1)[:, :-1]
    # Centred values sum to 0, so the variance between the groups is proportional to sum^2 / (n_lower n_upper).
    spread = ops.square(lower_sums) / (n_lower * (n_pixels - n_lower))
    # Keras' argmax is not used: on TensorFlow it inspects the bits of zeros, which ONNX does not support.
    is_largest = spread >= ops.max(spread, axis=1, keepdims=True)
    first_upper = ops.cast(ops.min(ops.where(is_largest, n_lower, float(n_pixels)), axis=1, keepdims=True), "int32")
    threshold = ops.take_along_axis(ascending, first_upper, axis=1)
    below = ops.cast(blurred < ops.reshape(threshold, (-1, 1, 1, 1)), "float32")
    return pixels * below
