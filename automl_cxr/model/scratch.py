"""Convolutional networks that are trained from random weights: a convolution stack and a dense head."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from pathlib import Path

import keras
from keras import layers

from automl_cxr.config import TrialConfig
from automl_cxr.conv_spec import BatchNorm, Convolution, ConvSpecLayer, Dropout, LayerNorm, Pool, Relu, parse_conv_spec
from automl_cxr.errors import ImpossibleModelError
from automl_cxr.model.head import classifier_head, pooled_vector
from automl_cxr.model.preprocessing import raw_pixels, scaled_channels

_MAX_FILTERS = 512
_KIND = {Convolution: "conv", Pool: "pool", BatchNorm: "bn", LayerNorm: "ln", Relu: "relu", Dropout: "dropout"}


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
        if isinstance(layer, (Convolution, Pool)) and layer.padding == "valid":
            _check_size(name, layer, x.shape[1], config)
        takes_bias = following is None or not isinstance(following[1], BatchNorm)
        x = _build_layer(layer, name, seed=config.seed + 100 + position, takes_bias=takes_bias)(x)
        if name == until:
            break
    return x


def conv_spec_of(config: TrialConfig) -> list[tuple[str, ConvSpecLayer]]:
    """List the layers of the convolution stack with their names: block1_conv1, block1_bn1, block1_relu1, block1_pool, ...

    A new block begins at each convolution after a pool. The layers are those of ``config.layers``. If that is empty, they are
    ``n_blocks`` blocks of ``convs_per_block`` convolutions, each with normalisation and ReLU, a 2x2 pool and a dropout. These
    pools are padded, so that the output of a block has at least one pixel and any number of blocks fits any image.
    """
    stack = parse_conv_spec(config.layers) if config.layers else _plain_blocks(config)
    named: list[tuple[str, ConvSpecLayer]] = []
    block, has_pool, counts = 1, False, Counter[str]()
    for layer in stack:
        if has_pool and isinstance(layer, Convolution):
            block, has_pool, counts = block + 1, False, Counter()
        has_pool = has_pool or isinstance(layer, Pool)
        kind = _KIND[type(layer)]
        counts[kind] += 1
        number = "" if kind in ("pool", "dropout") and counts[kind] == 1 else str(counts[kind])
        named.append((f"block{block}_{kind}{number}", layer))
    return named


def block_ends(config: TrialConfig) -> list[str]:
    """List the last layer of each block of the convolution stack: its splice points."""
    ends = {name.split("_")[0]: name for name, _ in conv_spec_of(config)}
    return list(ends.values())


def _plain_blocks(config: TrialConfig) -> list[ConvSpecLayer]:
    stack: list[ConvSpecLayer] = []
    for block in range(config.n_blocks):
        filters = min(_MAX_FILTERS, max(1, round(config.filters * config.filter_growth**block)))
        for _ in range(config.convs_per_block):
            stack.append(Convolution(filters, config.kernel_size, has_relu=False))
            stack += [BatchNorm(), Relu()] if config.batch_norm else [Relu()]
        stack.append(Pool(2, 2, padding="same"))
        if config.block_dropout > 0:
            stack.append(Dropout(config.block_dropout))
    return stack


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


def _check_size(name: str, layer: Convolution | Pool, n_pixels: int, config: TrialConfig) -> None:
    window = layer.kernel if isinstance(layer, Convolution) else layer.size
    if window > n_pixels:
        raise ImpossibleModelError(
            f"Layer {name} has a window of {window}x{window} pixels; received maps of {n_pixels}x{n_pixels} at "
            f"image_size={config.image_size}. Use larger images, fewer pools or padded ones (such as pool2p)."
        )
