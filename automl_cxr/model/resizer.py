"""The learnable resizer of Talebi & Milanfar 2021, "Learning to Resize Images for Computer Vision Tasks", arXiv:2103.09950."""

from __future__ import annotations

import keras
from keras import layers

RESIZER = "resizer"  # name of the nested model
_FILTERS = 16


def learnable_resizer(from_size: int, to_size: int, *, n_channels: int) -> keras.Model:
    """Build a model that adds the output of a small residual network to a bilinearly resized image.

    With three channels it has 12,163 parameters, 128 of them moving averages.

    Args:
        from_size: Height and width of the input in pixels.
        to_size: Height and width of the output in pixels.
        n_channels: Number of channels of both.
    """
    image = keras.Input((from_size, from_size, n_channels))
    x = layers.LeakyReLU(0.2)(layers.Conv2D(_FILTERS, 7, padding="same")(image))
    x = layers.LeakyReLU(0.2)(layers.Conv2D(_FILTERS, 1, padding="same")(x))
    small = layers.Resizing(to_size, to_size)(layers.BatchNormalization()(x))
    x = layers.LeakyReLU(0.2)(_normalised_convolution(small))
    x = layers.Add()([small, _normalised_convolution(x)])
    x = layers.Add()([small, _normalised_convolution(x)])
    x = layers.Conv2D(n_channels, 7, padding="same")(x)
    return keras.Model(image, layers.Add()([layers.Resizing(to_size, to_size)(image), x]), name=RESIZER)


def _normalised_convolution(x: keras.KerasTensor) -> keras.KerasTensor:
    return layers.BatchNormalization()(layers.Conv2D(_FILTERS, 3, padding="same", use_bias=False)(x))
