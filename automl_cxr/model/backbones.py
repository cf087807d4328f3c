"""Published networks that transfer learning starts from: one row each, and building one up to a cut."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import keras
from keras import applications, layers

from automl_cxr.errors import UnknownNameError
from automl_cxr.model.squeezenet import build_squeezenet


@dataclass(frozen=True)
class Preprocessing:
    """What is done to 0..255 pixels, channel by channel: multiply by ``scale``, then add ``offset``.

    The pixels are a grey channel repeated three times, so that the order of colours, in which the schemes differ, shows in
    these numbers alone (keras/src/applications/imagenet_utils.py).
    """

    scale: tuple[float, float, float]
    offset: tuple[float, float, float]


_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's red, green and blue, 0..1
CAFFE = Preprocessing((1.0, 1.0, 1.0), (-103.939, -116.779, -123.68))  # blue, green, red
SYMMETRIC = Preprocessing((1 / 127.5,) * 3, (-1.0, -1.0, -1.0))  # "tf" in Keras
TORCH = Preprocessing(
    tuple(1 / (255 * deviation) for deviation in _DEVIATION),
    tuple(-mean / deviation for mean, deviation in zip(_MEAN, _DEVIATION, strict=True)),
)


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """All that is needed to use a published network as the first part of another.

    Attributes:
        name: What it is called here.
        constructor: Builds it without its classifier and with random weights, from ``input_shape``; with
            ``weights="imagenet"`` it downloads others, where ``has_download``.
        preprocessing: What its weights were trained on; None for 0..255 itself.
        smallest_image: Pixels of the smallest square that it takes.
        splice_points: Layers after which it is sensible to cut it, from shallow to deep: ends of blocks, of which a network
            keeps nothing but their output. The last one is its own end.
        weights_file: Name of the file of its ImageNet weights without the classifier.
        weights_source: Where this file is published.
        has_download: Whether Keras can fetch it from there.
        needs_names: Whether the weights of a file are only matched by layers' names. In a ResNet a block's shortcut and its
            last convolution have one shape, and files of older Keras list them the other way round.
    """

    name: str
    constructor: Callable[..., keras.Model]
    preprocessing: Preprocessing | None
    smallest_image: int
    splice_points: tuple[str, ...]
    weights_file: str
    weights_source: str
    has_download: bool = True
    needs_names: bool = False

    def preprocess(self, x: keras.KerasTensor, *, name: str = "preprocess") -> keras.KerasTensor:
        """Convert 0..255 pixels (n, h, w, 3), a grey channel three times, into what the backbone was trained on."""
        if self.preprocessing is None:
            return x
        return layers.Rescaling(list(self.preprocessing.scale), offset=list(self.preprocessing.offset), name=name)(x)


def _blocks(first_stage: int, *n_blocks: int) -> tuple[str, ...]:
    """Name the blocks' ends in a ResNet, such as "conv2_block3_out", of stages with so many blocks each."""
    stages = enumerate(n_blocks, start=first_stage)
    return tuple(f"conv{stage}_block{block}_out" for stage, n in stages for block in range(1, n + 1))


def _keras_row(name: str, constructor: Callable[..., keras.Model], folder: str, **values: object) -> Backbone:
    return Backbone(
        name=name,
        constructor=functools.partial(constructor, include_top=False, weights=None, pooling=None),
        weights_source=f"https://storage.googleapis.com/tensorflow/keras-applications/{folder}/{values['weights_file']}",
        **values,
    )


_ROWS = (
    _keras_row(
        "vgg16",
        applications.VGG16,
        "vgg16",
        preprocessing=CAFFE,
        smallest_image=32,
        splice_points=tuple(f"block{block}_pool" for block in range(1, 6)),
        weights_file="vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5",
    ),
    _keras_row(
        "resnet50",
        applications.ResNet50,
        "resnet",
        preprocessing=CAFFE,
        smallest_image=32,
        splice_points=_blocks(2, 3, 4, 6, 3),
        weights_file="resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5",
        needs_names=True,
    ),
    _keras_row(
        "resnet152",
        applications.ResNet152,
        "resnet",
        preprocessing=CAFFE,
        smallest_image=32,
        splice_points=_blocks(2, 3, 8, 36, 3),
        weights_file="resnet152_weights_tf_dim_ordering_tf_kernels_notop.h5",
        needs_names=True,
    ),
    _keras_row(
        "resnet50v2",
        applications.ResNet50V2,
        "resnet",
        preprocessing=SYMMETRIC,
        smallest_image=32,
        splice_points=(*_blocks(2, 3, 4, 6, 3), "post_relu"),
        weights_file="resnet50v2_weights_tf_dim_ordering_tf_kernels_notop.h5",
        needs_names=True,
    ),
    _keras_row(
        "resnet101v2",
        applications.ResNet101V2,
        "resnet",
        preprocessing=SYMMETRIC,
        smallest_image=32,
        splice_points=(*_blocks(2, 3, 4, 23, 3), "post_relu"),
        weights_file="resnet101v2_weights_tf_dim_ordering_tf_kernels_notop.h5",
        needs_names=True,
    ),
    _keras_row(
        "inceptionv3",
        applications.InceptionV3,
        "inception_v3",
        preprocessing=SYMMETRIC,
        smallest_image=75,
        splice_points=tuple(f"mixed{block}" for block in range(11)),
        weights_file="inception_v3_weights_tf_dim_ordering_tf_kernels_notop.h5",
    ),
    _keras_row(
        "xception",
        applications.Xception,
        "xception",
        preprocessing=SYMMETRIC,
        smallest_image=71,
        # Keras numbers the sums that end blocks 2 to 13 anew in every process; the ReLU that follows a sum has a name.
        splice_points=(
            "block1_conv2_act",
            *(f"block{block + 1}_sepconv1_act" for block in range(2, 13)),
            "block14_sepconv2_act",
        ),
        weights_file="xception_weights_tf_dim_ordering_tf_kernels_notop.h5",
    ),
    _keras_row(
        "densenet121",
        applications.DenseNet121,
        "densenet",
        preprocessing=TORCH,
        smallest_image=32,
        splice_points=(
            *("conv2_block6_concat", "pool2_pool", "conv3_block12_concat", "pool3_pool"),
            *("conv4_block24_concat", "pool4_pool", "conv5_block16_concat", "relu"),
        ),
        weights_file="densenet121_weights_tf_dim_ordering_tf_kernels_notop.h5",
    ),
    _keras_row(
        "mobilenetv2",
        applications.MobileNetV2,
        "mobilenet_v2",
        preprocessing=SYMMETRIC,
        smallest_image=32,
        # A block that changes the size or the channels ends in its projection, the others in a sum.
        splice_points=(
            "expanded_conv_project_BN",
            *(f"block_{n}_{'project_BN' if n in (1, 3, 6, 10, 13, 16) else 'add'}" for n in range(1, 17)),
            "out_relu",
        ),
        weights_file="mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224_no_top.h5",
    ),
    _keras_row(
        "efficientnetv2b0",
        applications.EfficientNetV2B0,
        "efficientnet_v2",
        preprocessing=None,  # its first layers are its own
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
    ),
    Backbone(
        name="squeezenet",
        constructor=build_squeezenet,
        preprocessing=CAFFE,
        smallest_image=31,
        splice_points=tuple(f"fire{module}_concat" for module in range(2, 10)),
        weights_file="squeezenet_v1.1_imagenet_notop.h5",
        weights_source="https://github.com/DeepCognition/keras-squeezenet",
        has_download=False,
    ),
)
BACKBONES: Mapping[str, Backbone] = {row.name: row for row in _ROWS}


def find_backbone(name: str) -> Backbone:
    """Look up a backbone.

    Raises:
        UnknownNameError: There is none of this name.
    """
    if name not in BACKBONES:
        raise UnknownNameError("backbone", name, BACKBONES)
    return BACKBONES[name]
