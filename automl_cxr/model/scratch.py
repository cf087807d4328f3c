"""Convolutional networks that are trained from random weights: a convolution stack and a dense head."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import keras
from keras import layers

from automl_cxr.config import TrialConfig
from automl_cxr.conv_spec import BatchNorm, Convolution, ConvSpecLayer, Dropout, LayerNorm, Pool, Relu
from automl_cxr.input_sizes import conv_spec_of, size_after
from automl_cxr.model.head import classifier_head, pooled_vector
from automl_cxr.model.preprocessing import raw_pixels, scaled_channels


def build_scratch(config: TrialConfig, n_classes: int, *, weights_folder: Path | None = None) -> keras.Model:
    """Build the convolution stack of a configuration, the pooling of its last feature maps, and a dense head.

    ``weights_folder`` is not used.

    Raises:
        ImpossibleModelError: The image is too small for the convolution stack.
    """
    pixels, x = raw_pixels(config)
    maps = build_conv_stack(scaled_channels(x, config), config)
    return keras.Model(pixels, classifier_head(pooled_vector(maps, config), config, n_classes), name="scratch")


def build_conv_stack(x: keras.KerasTensor, config: TrialConfig, *, until: str | None = None) -> keras.KerasTensor:
    """Apply the convolution stack of a configuration to a tensor.

    Args:
        x: Images (n, h, w, channels).
        config: The configuration.
        until: Name of the last layer to apply; all layers if it is None.

    Raises:
        ImpossibleModelError: The window of a layer is larger than its input.
    """
    described = conv_spec_of(config)
    for position, ((name, layer), following) in enumerate(pairwise([*described, None])):
        size_after(name, layer, x.shape[1], config)
        takes_bias = following is None or not isinstance(following[1], BatchNorm)
        x = _build_layer(layer, name, seed=config.seed + 100 + position, takes_bias=takes_bias)(x)
        if name == until:
            break
    return x


def _build_layer(layer: ConvSpecLayer, name: str, *, seed: int, takes_bias: bool) -> layers.Layer:
    match layer:
        case Convolution():
            return layers.Conv2D(
                layer.filters,
                layer.kernel,
                strides=layer.stride,
                padding=layer.padding,
                activation="relu" if layer.has_relu else None,
                use_bias=takes_bias or layer.has_relu,
                kernel_initializer="he_normal",
                name=name,
            )
        case Pool():
            return layers.MaxPooling2D(layer.size, strides=layer.stride, padding=layer.padding, name=name)
        case BatchNorm():
            return layers.BatchNormalization(name=name)
        case LayerNorm():
            return layers.LayerNormalization(name=name)
        case Relu():
            return layers.ReLU(name=name)
        case Dropout():
            return layers.Dropout(layer.rate, seed=seed, name=name)
