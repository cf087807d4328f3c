"""SqueezeNet 1.1, which is not part of Keras."""

from __future__ import annotations

import keras
from keras import layers

from automl_cxr.model.convolution import rectified_convolution


def build_squeezenet(input_shape: tuple[int, int, int]) -> keras.Model:
    """Build SqueezeNet 1.1 without its classifier (Iandola et al. 2016, arXiv:1602.07360).

    It has 722,496 parameters in 25 convolutions. Layers are named as in the weight file of
    github.com/DeepCognition/keras-squeezenet, with "_" instead of "/", which Keras does not allow in names. Only the 3x3
    expansions are padded, so that the smallest image has 31 pixels.

    Args:
        input_shape: Height, width and number of channels of an image.

    Returns:
        A model from images to feature maps of 512 channels, at 1/16 of the image's size.
    """
    image = keras.Input(input_shape)
    x = rectified_convolution(image, 64, kernel=3, strides=2, padding="valid", name="conv1")
    x = layers.MaxPooling2D(3, strides=2, name="pool1")(x)
    x = _fire(x, 2, squeeze=16, expand=64)
    x = _fire(x, 3, squeeze=16, expand=64)
    x = layers.MaxPooling2D(3, strides=2, name="pool3")(x)
    x = _fire(x, 4, squeeze=32, expand=128)
    x = _fire(x, 5, squeeze=32, expand=128)
    x = layers.MaxPooling2D(3, strides=2, name="pool5")(x)
    x = _fire(x, 6, squeeze=48, expand=192)
    x = _fire(x, 7, squeeze=48, expand=192)
    x = _fire(x, 8, squeeze=64, expand=256)
    x = _fire(x, 9, squeeze=64, expand=256)
    return keras.Model(image, x, name="squeezenet")


def _fire(x: keras.KerasTensor, number: int, *, squeeze: int, expand: int) -> keras.KerasTensor:
    """Apply a fire module: a 1x1 convolution to few channels, then 1x1 and 3x3 convolutions whose outputs are concatenated."""
    x = rectified_convolution(x, squeeze, kernel=1, name=f"fire{number}_squeeze1x1")
    narrow = rectified_convolution(x, expand, kernel=1, name=f"fire{number}_expand1x1")
    wide = rectified_convolution(x, expand, kernel=3, name=f"fire{number}_expand3x3")
    return layers.Concatenate(name=f"fire{number}_concat")([narrow, wide])
