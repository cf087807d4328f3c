"""Convolutional networks trained from random weights: a trunk of convolutions and pools, then a dense head."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from pathlib import Path

import keras
from keras import layers

from automl_cxr.config import TrialConfig
from automl_cxr.conv_spec import BatchNorm, Convolution, Dropout, LayerNorm, Pool, Relu, TrunkLayer, parse_conv_spec
from automl_cxr.errors import ImpossibleModelError
from automl_cxr.model.head import classifier_head, pooled_vector
from automl_cxr.model.preprocessing import raw_pixels, scaled_channels

_MOST_FILTERS = 512
_KIND = {Convolution: "conv", Pool: "pool", BatchNorm: "bn", LayerNorm: "ln", Relu: "relu", Dropout: "dropout"}


def build_scratch(config: TrialConfig, n_classes: int, *, weights_folder: Path | None = None) -> keras.Model:
    """Build the trunk that the configuration describes, one vector of its last feature maps, and a dense head.

    Raises:
        ImpossibleModelError: The image is too small for the trunk.
    """
    pixels, x = raw_pixels(config)
    maps = build_conv_stack(scaled_channels(x, config), config)
    return keras.Model(pixels, classifier_head(pooled_vector(maps, config), config, n_classes), name="scratch")


def build_conv_stack(x: keras.KerasTensor, config: TrialConfig, *, until: str | None = None) -> keras.KerasTensor:
    """Put the configuration's convolutions and pools on a tensor, up to and with the layer ``until``, or all of them.

    Raises:
        ImpossibleModelError: A layer finds fewer pixels than its window has.
    """
    described = conv_spec_of(config)
    for position, ((name, layer), following) in enumerate(pairwise([*described, None])):
        if isinstance(layer, (Convolution, Pool)) and layer.padding == "valid":
            _check_room(name, layer, x.shape[1], config)
        takes_bias = following is None or not isinstance(following[1], BatchNorm)
        x = _build_layer(layer, name, seed=config.seed + 100 + position, takes_bias=takes_bias)(x)
        if name == until:
            break
    return x


def conv_spec_of(config: TrialConfig) -> list[tuple[str, TrunkLayer]]:
    """Name the layers of the trunk, from the image on: block1_conv1, block1_bn1, block1_relu1, block1_pool, block2_conv1, ...

    A block ends where a convolution follows a pool. They come from ``config.layers``, or else are ``n_blocks`` blocks of
    ``convs_per_block`` convolutions, each normalised and rectified, a 2x2 pool and a dropout. Those pools are padded, so that
    a block leaves at least one pixel and any depth fits any image.
    """
    trunk = parse_conv_spec(config.layers) if config.layers else _plain_blocks(config)
    named: list[tuple[str, TrunkLayer]] = []
    block, has_pool, counts = 1, False, Counter[str]()
    for layer in trunk:
        if has_pool and isinstance(layer, Convolution):
            block, has_pool, counts = block + 1, False, Counter()
        has_pool = has_pool or isinstance(layer, Pool)
        kind = _KIND[type(layer)]
        counts[kind] += 1
        number = "" if kind in ("pool", "dropout") and counts[kind] == 1 else str(counts[kind])
        named.append((f"block{block}_{kind}{number}", layer))
    return named


def block_ends(config: TrialConfig) -> list[str]:
    """Name the last layer of each block of the trunk: its splice points."""
    ends = {name.split("_")[0]: name for name, _ in conv_spec_of(config)}
    return list(ends.values())


def _plain_blocks(config: TrialConfig) -> list[TrunkLayer]:
    trunk: list[TrunkLayer] = []
    for block in range(config.n_blocks):
        filters = min(_MOST_FILTERS, max(1, round(config.filters * config.filter_growth**block)))
        for _ in range(config.convs_per_block):
            trunk.append(Convolution(filters, config.kernel_size, has_relu=False))
            trunk += [BatchNorm(), Relu()] if config.batch_norm else [Relu()]
        trunk.append(Pool(2, 2, padding="same"))
        if config.block_dropout > 0:
            trunk.append(Dropout(config.block_dropout))
    return trunk


def _build_layer(layer: TrunkLayer, name: str, *, seed: int, takes_bias: bool) -> layers.Layer:
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


def _check_room(name: str, layer: Convolution | Pool, n_pixels: int, config: TrialConfig) -> None:
    window = layer.kernel if isinstance(layer, Convolution) else layer.size
    if window > n_pixels:
        raise ImpossibleModelError(
            f"Layer {name} looks at {window}x{window} pixels at once; received maps of {n_pixels}x{n_pixels} at "
            f"image_size={config.image_size}. Use larger images, fewer pools or padded ones (such as pool2p)."
        )
