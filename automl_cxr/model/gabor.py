"""Energies of Gabor filters as a network without weights, so that a probe needs no pretrained network.

The energy of a quadrature pair of filters tells how strong the structures of one width and one direction are around a pixel,
regardless of the phase. Sources: Adelson & Bergen 1985, Spatiotemporal energy models for the perception of motion
(doi:10.1364/JOSAA.2.000284); Manjunath & Ma 1996, Texture features for browsing and retrieval of image data
(doi:10.1109/34.531803), who use one set of means for the whole image instead of one for each region.
"""

from __future__ import annotations

import keras
import numpy as np
from keras import layers, ops

N_ORIENTATIONS = 8
GRIDS = (4, 7)
"""Number of regions along each side of an image, for the layers "coarse" and "fine"."""

SMALLEST_IMAGE = 32
_SMALLEST_SCALE = 7  # pixels along a side, the size of a filter
_FILTER_SIZE = 7  # pixels
_SIGMA = 1.6  # pixels; standard deviation of the Gaussian window
_FREQUENCY = 2.2  # radians per pixel
_SMALLEST_ENERGY = 1e-3  # for values of 0 to 1; without it the logarithm would amplify the noise of uniform regions
_TINY = 1e-8


def build_gabor(input_shape: tuple[int, int, int]) -> keras.Model:
    """Build a network from images to the logarithms of mean energies. It has no weights.

    The image is filtered in 8 directions at full resolution, and again each time that averaging has halved its sides, down to 7
    pixels. The root of the energy is averaged over 4 x 4 and over 7 x 7 regions, which overlap if the size is no multiple. The
    result is one vector, (n, 1, 1, channels), so that pooling over positions does not change it. The layer "coarse" returns the
    channels of the 4 x 4 regions, scales x 16 x 8; the layer "fine" also those of the 7 x 7 regions, scales x 49 x 8. There are
    6 scales for 224 and for 320 pixels.

    Args:
        input_shape: Height, width and number of channels of an image. The channels are averaged.

    Returns:
        A model from images of values 0 to 1 to the vector.

    Raises:
        ValueError: The image is smaller than 32 pixels.
    """
    if min(input_shape[:2]) < SMALLEST_IMAGE:
        raise ValueError(f"The image must have at least {SMALLEST_IMAGE} x {SMALLEST_IMAGE} pixels; received {input_shape}.")
    image = keras.Input(input_shape)
    scale = ops.mean(image, axis=-1, keepdims=True)
    energies = []
    while min(scale.shape[1:3]) >= _SMALLEST_SCALE:
        energies.append(_energies(scale))
        scale = layers.AveragePooling2D(2)(scale)
    coarse, fine = ([_regions(energy, grid) for energy in energies] for grid in GRIDS)
    coarse = layers.Concatenate(name="coarse")(coarse)
    return keras.Model(image, layers.Concatenate(name="fine")([coarse, *fine]), name="gabor")


def gabor_filters() -> tuple[np.ndarray, np.ndarray]:
    """Return the even and the odd filters, each float32 (7, 7, 1, 8). The sum of each filter is 0."""
    along = np.arange(_FILTER_SIZE) - _FILTER_SIZE // 2
    x, y = np.meshgrid(along, along)
    window = np.exp(-(x**2 + y**2) / (2 * _SIGMA**2))
    window /= window.sum()
    angles = np.pi * np.arange(N_ORIENTATIONS) / N_ORIENTATIONS
    phase = _FREQUENCY * (x[..., None] * np.cos(angles) + y[..., None] * np.sin(angles))
    even = window[..., None] * np.cos(phase)
    even -= window[..., None] * even.sum(axis=(0, 1))  # a uniform region has no energy
    odd = window[..., None] * np.sin(phase)
    return even[:, :, None].astype(np.float32), odd[:, :, None].astype(np.float32)


def _energies(x: keras.KerasTensor) -> keras.KerasTensor:
    """Return the root of the energy in each direction, (n, h, w, 8), of grey images (n, h, w, 1)."""
    border = _FILTER_SIZE // 2
    # Reflection, because an edge between the image and zeros would have energy.
    x = ops.pad(x, ((0, 0), (border, border), (border, border), (0, 0)), mode="reflect")
    even, odd = (ops.conv(x, filters, padding="valid") for filters in gabor_filters())
    return ops.sqrt(ops.square(even) + ops.square(odd) + _TINY)


def _regions(x: keras.KerasTensor, grid: int) -> keras.KerasTensor:
    """Return the logarithm of the means of grid x grid regions of equal size, (n, 1, 1, channels)."""
    strides = tuple(side // grid for side in x.shape[1:3])
    sizes = tuple(side - (grid - 1) * stride for side, stride in zip(x.shape[1:3], strides, strict=True))
    means = layers.AveragePooling2D(sizes, strides=strides)(x)
    return layers.Reshape((1, 1, means.shape[1] * means.shape[2] * means.shape[3]))(ops.log(means + _SMALLEST_ENERGY))
