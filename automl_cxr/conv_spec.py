"""Parsing and formatting the text description of a convolution stack, such as "conv32k3 bn pool2 drop0.2 conv64k3".

Each word is a layer, in the order of the network:

    conv64k5       64 filters of 5x5, stride 1, padding "same", ReLU; conv64k5s2 has stride 2, conv64k5v has padding "valid",
                   and conv64k5l has no ReLU (l for linear; if "bn" follows, it has no bias either)
    pool3s2        max pooling over 3x3 with stride 2 and padding "valid"; pool2 is 2x2 with stride 2, pool2p is padded ("same")
    bn ln relu     batch normalisation, layer normalisation over the channels, ReLU
    drop0.25       dropout with rate 0.25

A new block begins at each convolution after a pool.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from automl_cxr.errors import UsageError

_CONVOLUTION = re.compile(r"conv(?P<filters>[1-9]\d{0,3})k(?P<kernel>[1-9]\d?)(?:s(?P<stride>[1-9]))?(?P<marks>v?l?)")
_POOL = re.compile(r"pool(?P<size>[1-9])(?:s(?P<stride>[1-9]))?(?P<padded>p?)")
_DROPOUT = re.compile(r"drop(?P<rate>0?\.\d+)")


@dataclass(frozen=True)
class Convolution:
    """A convolution with ``filters`` kernels of ``kernel`` x ``kernel`` pixels."""

    filters: int
    kernel: int
    stride: int = 1
    padding: str = "same"
    has_relu: bool = True


@dataclass(frozen=True)
class Pool:
    """Max pooling over windows of ``size`` x ``size`` pixels."""

    size: int
    stride: int
    padding: str = "valid"


@dataclass(frozen=True)
class BatchNorm:
    """Batch normalisation."""


@dataclass(frozen=True)
class LayerNorm:
    """Layer normalisation over the channels of each position."""


@dataclass(frozen=True)
class Relu:
    """ReLU as a separate layer."""


@dataclass(frozen=True)
class Dropout:
    """Dropout with rate ``rate``, 0..1."""

    rate: float


ConvSpecLayer = Convolution | Pool | BatchNorm | LayerNorm | Relu | Dropout
_PLAIN: dict[str, ConvSpecLayer] = {"bn": BatchNorm(), "ln": LayerNorm(), "relu": Relu()}


def parse_conv_spec(text: str) -> tuple[ConvSpecLayer, ...]:
    """Parse a text description into layers.

    Raises:
        UsageError: A word does not describe a layer, or there is no convolution.
    """
    parsed = tuple(_parse_word(word) for word in text.split())
    if not any(isinstance(layer, Convolution) for layer in parsed):
        raise UsageError(f"Layers must include a convolution, such as conv32k3; received '{text}'.")
    return parsed


def format_conv_spec(layers: Sequence[ConvSpecLayer]) -> str:
    """Format layers as the text from which ``parse_conv_spec`` returns them."""
    return " ".join(_format_word(layer) for layer in layers)


def _format_word(layer: ConvSpecLayer) -> str:
    match layer:
        case Convolution():
            stride = "" if layer.stride == 1 else f"s{layer.stride}"
            marks = ("v" if layer.padding == "valid" else "") + ("" if layer.has_relu else "l")
            return f"conv{layer.filters}k{layer.kernel}{stride}{marks}"
        case Pool():
            stride = "" if layer.stride == layer.size else f"s{layer.stride}"
            return f"pool{layer.size}{stride}{'p' if layer.padding == 'same' else ''}"
        case Dropout():
            return f"drop{layer.rate:.9f}".rstrip("0")
        case _:
            return next(word for word, plain in _PLAIN.items() if plain == layer)


def _parse_word(word: str) -> ConvSpecLayer:
    if word in _PLAIN:
        return _PLAIN[word]
    if match := _CONVOLUTION.fullmatch(word):
        return Convolution(
            filters=int(match["filters"]),
            kernel=int(match["kernel"]),
            stride=int(match["stride"] or 1),
            padding="valid" if "v" in match["marks"] else "same",
            has_relu="l" not in match["marks"],
        )
    if match := _POOL.fullmatch(word):
        size = int(match["size"])
        return Pool(size, int(match["stride"] or size), "same" if match["padded"] else "valid")
    if match := _DROPOUT.fullmatch(word):
        return Dropout(float(match["rate"]))
    raise UsageError(f"A layer must be like conv32k3, pool2, bn, ln, relu or drop0.25; received '{word}'.")
