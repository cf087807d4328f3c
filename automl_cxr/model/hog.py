"""Histograms of oriented gradients as a network without weights, so that a probe needs no pretrained network.

Source: Dalal & Triggs 2005, Histograms of oriented gradients for human detection (doi:10.1109/CVPR.2005.177). Orientations are
assigned to histogram bins by the positive part of a cosine instead of linear interpolation, and the normalised histograms are
square-rooted, which makes their distances those of Hellinger (Arandjelovic & Zisserman 2012).
"""

from __future__ import annotations

import math

import keras
import numpy as np
from keras import layers, ops

N_ORIENTATIONS = 9
N_CELLS = 8
"""Number of cells along each side of an image; an image whose size is no multiple of 8 loses up to 7 pixels, or has 9 cells."""

SMALLEST_IMAGE = 32
_THUMBNAIL = 28  # pixels
_TINY = 1e-6
_LITTLE_CONTRAST = 1e-4  # added to the sum of squares of a block, so that the noise of a uniform region is not amplified


def build_hog(input_shape: tuple[int, int, int]) -> keras.Model:
    """Build a network from images to a descriptor. It has no weights.

    The descriptor is one vector, (n, 1, 1, channels), so that pooling over positions does not change it. It is a thumbnail, the
    image averaged to about 28 x 28 pixels, then the histograms of gradients at half resolution, then those at full resolution.
    For 8 x 8 cells the histograms have 7 x 7 blocks of 2 x 2 cells with 9 orientations, 1764 channels. The layers "thumbnail",
    "coarse" and "fine" return the first part, the first two parts, and the whole descriptor.

    Args:
        input_shape: Height, width and number of channels of an image. The channels are averaged.

    Returns:
        A model from images of values 0 to 1 to the descriptor.

    Raises:
        ValueError: The image is smaller than 32 pixels.
    """
    if min(input_shape[:2]) < SMALLEST_IMAGE:
        raise ValueError(f"The image must have at least {SMALLEST_IMAGE} x {SMALLEST_IMAGE} pixels; received {input_shape}.")
    image = keras.Input(input_shape)
    grey = ops.mean(image, axis=-1, keepdims=True)
    thumbnail = layers.AveragePooling2D(max(1, input_shape[0] // _THUMBNAIL))(grey)
    thumbnail = layers.Reshape((1, 1, math.prod(thumbnail.shape[1:])), name="thumbnail")(thumbnail)
    coarse = layers.Concatenate(name="coarse")([thumbnail, _histograms(layers.AveragePooling2D(2)(grey))])
    fine = layers.Concatenate(name="fine")([coarse, _histograms(grey)])
    return keras.Model(image, fine, name="hog")


def _histograms(x: keras.KerasTensor) -> keras.KerasTensor:
    """Return the normalised histograms of blocks of 2 x 2 cells, (n, 1, 1, channels), of grey images (n, h, w, 1)."""
    cells = _histograms_of_cells(x)
    blocks = layers.Concatenate()(
        [layers.Cropping2D(((top, 1 - top), (left, 1 - left)))(cells) for top in (0, 1) for left in (0, 1)]
    )
    n_channels = blocks.shape[-1]
    # A product with ones returns the sum of squares once for each channel, because TensorFlow Lite computes a division that
    # broadcasts wrongly. The ones are a NumPy array, because a tensor would become an input of an exported ONNX file.
    norm = ops.sqrt(ops.matmul(ops.square(blocks), np.ones((n_channels, n_channels), np.float32)) + _LITTLE_CONTRAST)
    return layers.Reshape((1, 1, math.prod(blocks.shape[1:])))(ops.sqrt(blocks / norm))


def _histograms_of_cells(x: keras.KerasTensor) -> keras.KerasTensor:
    """Return the mean gradient magnitude by orientation in each cell, (n, cells, cells, orientations), of grey images."""
    # Central differences are 0 at the border.
    along_x = _difference(x, axis=1)
    along_y = _difference(x, axis=0)
    magnitude = ops.sqrt(ops.square(along_x) + ops.square(along_y)) + _TINY
    # Twice the angle, because opposite directions are the same orientation.
    cosine = (ops.square(along_x) - ops.square(along_y)) / magnitude
    sine = 2.0 * along_x * along_y / magnitude
    angles = [2 * math.pi * number / N_ORIENTATIONS for number in range(N_ORIENTATIONS)]
    bins = [ops.relu(cosine * math.cos(angle) + sine * math.sin(angle)) for angle in angles]
    cell = x.shape[1] // N_CELLS
    return layers.AveragePooling2D(cell)(layers.Concatenate()(bins))


def _difference(x: keras.KerasTensor, *, axis: int) -> keras.KerasTensor:
    """Return the difference of the next and the previous pixel along an axis (0 vertical, 1 horizontal)."""
    none = (0, 0)
    following = layers.Cropping2D(tuple((2, 0) if axis == one else none for one in (0, 1)))(x)
    preceding = layers.Cropping2D(tuple((0, 2) if axis == one else none for one in (0, 1)))(x)
    border = tuple((1, 1) if axis == one else none for one in (0, 1))
    return layers.ZeroPadding2D(border)(following - preceding)
