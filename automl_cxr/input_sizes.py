"""Sizes of the input and of the feature maps of a network in pixels, from its configuration alone.

Keras is not imported, so that a search can check its space without loading it.
"""

from __future__ import annotations

import math
from collections import Counter

from automl_cxr.architectures import FAMILIES, find_backbone
from automl_cxr.config import SCRATCH, TrialConfig
from automl_cxr.conv_spec import BatchNorm, Convolution, ConvSpecLayer, Dropout, LayerNorm, Pool, Relu, parse_conv_spec
from automl_cxr.errors import ImpossibleModelError

SIZE_HYPERPARAMETERS = (
    *("family", "image_size", "downsample", "resizer", "layers"),
    *("backbone", "second_backbone", "probe_layers"),
)
"""Hyperparameters that determine whether an image is large enough."""

_MAX_FILTERS = 512
_KIND = {Convolution: "conv", Pool: "pool", BatchNorm: "bn", LayerNorm: "ln", Relu: "relu", Dropout: "dropout"}


def inner_size(config: TrialConfig) -> int:
    """Return the height and width in pixels of the images after ``downsample`` and the resizer."""
    if not config.reads("downsample"):
        return config.image_size
    size = config.image_size // config.downsample
    return size if config.resizer == 0 else round(size * config.resizer)


def refuse_small_images(config: TrialConfig) -> None:
    """Check that the images are large enough for the network.

    The stack of a branch of family concat is not checked.

    Raises:
        ImpossibleModelError: They are not.
    """
    size, family = inner_size(config), FAMILIES[config.family]
    if size < family.smallest_image:
        remedy = "Use larger images or another family" + (", or a smaller downsample." if config.downsample > 1 else ".")
        raise ImpossibleModelError(
            f"Family '{family.name}' needs images of at least {family.smallest_image} pixels; received {size} "
            f"({_origin(config)}). {remedy}"
        )
    for branch in config.branches:
        if branch.backbone != SCRATCH:
            refuse_small_for_backbone(branch.backbone, size)
    if config.family == "scratch":
        for name, layer in conv_spec_of(config):
            size = size_after(name, layer, size, config)


def refuse_small_for_backbone(name: str, size: int) -> None:
    """Check that images of a size in pixels are large enough for a backbone.

    Raises:
        UnknownNameError: No backbone has the name.
        ImpossibleModelError: They are not.
    """
    backbone = find_backbone(name)
    if size < backbone.smallest_image:
        raise ImpossibleModelError(
            f"Backbone '{name}' needs images of at least {backbone.smallest_image} pixels; received image_size={size}. "
            "Use larger images or another backbone."
        )


def size_after(name: str, layer: ConvSpecLayer, size: int, config: TrialConfig) -> int:
    """Return the height and width in pixels of the feature maps after a layer of a convolution stack.

    Args:
        name: Name of the layer, for the message.
        layer: The layer.
        size: Height and width of its input.
        config: The configuration, for the message.

    Raises:
        ImpossibleModelError: The window of the layer is larger than its input.
    """
    if not isinstance(layer, (Convolution, Pool)):
        return size
    window = layer.kernel if isinstance(layer, Convolution) else layer.size
    if layer.padding == "same":
        return math.ceil(size / layer.stride)
    if window > size:
        raise ImpossibleModelError(
            f"Layer {name} has a window of {window}x{window} pixels; received maps of {size}x{size} at "
            f"image_size={config.image_size}. Use larger images, fewer pools or padded ones (such as pool2p)."
        )
    return (size - window) // layer.stride + 1


def _origin(config: TrialConfig) -> str:
    names = [name for name in ("downsample", "resizer") if getattr(config, name) != getattr(TrialConfig, name)]
    return ", ".join(f"{name}={getattr(config, name)}" for name in ("image_size", *names))


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
