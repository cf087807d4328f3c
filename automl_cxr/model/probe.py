"""Probes: an output layer on the pooled outputs of layers of frozen networks, or on their kernel with training images."""

from __future__ import annotations

from pathlib import Path

import keras
from keras import layers, ops

from automl_cxr.architectures import find_backbone
from automl_cxr.config import BranchConfig, TrialConfig
from automl_cxr.model.backbone_builder import build_backbone
from automl_cxr.model.backbones import preprocess
from automl_cxr.model.head import deviation, output_layer
from automl_cxr.model.preprocessing import repeat_grey
from automl_cxr.model.table_input import table_input

STANDARDISED, CENTRES = "standardised", "centres"
_NO_EPSILON = 1e-12  # added to the variances
N_CENTRES = 512
"""Number of training images whose kernel with an image is the input of the output layer, for ``probe_kernel="rbf"``."""


def build_probe(config: TrialConfig, n_classes: int, *, weights_folder: Path | None) -> keras.Model:
    """Build the backbones of ``config.probe_layers`` up to the last layer that is used, and the output layer.

    The outputs of the layers are pooled over all positions, by ``config.probe_pooling``, with ``config.probe_mirrored`` also
    averaged over the image and its mirror image, and concatenated in the order of ``config.probe_layers``. The output layer
    takes this vector, or its kernel. With a table of features, its rows are the vectors. The layers after the vector have
    random weights until ``training/probe.py`` fits them.

    Raises:
        ImpossibleModelError: The image is too small for a backbone, or these weights do not exist for it.
        TrialError: Weights are missing or damaged.
    """
    if config.takes_features:
        rows, maps = table_input(config.n_features)
        vector = layers.GlobalAveragePooling2D(name="pooled")(maps)
        return _with_output(rows, vector, config, n_classes)
    pixels = keras.Input((config.image_size, config.image_size, 1), name="pixels")
    rgb = repeat_grey(pixels, 3)
    vectors = []
    for branch in config.branches:
        network = _pooled_outputs(config, branch, weights_folder)
        label = find_backbone(branch.backbone).label
        x = preprocess(rgb, find_backbone(branch.backbone), name=f"{label}_preprocess")
        vector = network(x)
        if config.probe_mirrored:
            vector = layers.Average(name=f"{label}_views")([vector, network(ops.flip(x, axis=2))])
        vectors.append(vector)
    vector = layers.Concatenate(name="vector")(vectors) if len(vectors) > 1 else vectors[0]
    return _with_output(pixels, vector, config, n_classes)


def _with_output(source: keras.KerasTensor, vector: keras.KerasTensor, config: TrialConfig, n_classes: int) -> keras.Model:
    inputs = vector if config.probe_kernel == "linear" else _kernel(vector)
    return keras.Model(source, output_layer(config, n_classes)(inputs), name="probe")


def rbf_gamma(n_features: int) -> float:
    """Return gamma for standardised features: 1 / d, the value "scale" of scikit-learn's support vector machines."""
    return 1.0 / n_features


def _kernel(vector: keras.KerasTensor) -> keras.KerasTensor:
    """Return the radial basis function kernel, (n, ``N_CENTRES``), of a vector (n, d) with the centres."""
    # Not Keras' Normalization: its statistics are missing in exported ONNX files.
    x = layers.BatchNormalization(
        center=False, scale=False, epsilon=_NO_EPSILON, trainable=False, dtype="float32", name=STANDARDISED
    )(vector)
    gamma = rbf_gamma(vector.shape[-1])
    norm = gamma * ops.sum(ops.square(x), axis=-1, keepdims=True)
    exponent = layers.Dense(N_CENTRES, dtype="float32", name=CENTRES)(x) - norm
    return ops.exp(ops.minimum(exponent, 0.0))


def _pooled_outputs(config: TrialConfig, branch: BranchConfig, weights_folder: Path | None) -> keras.Model:
    """Build a frozen model from preprocessed images to one vector: the pooled outputs of the layers of one backbone."""
    used = [layer.layer for layer in config.probed if layer.backbone == branch.backbone]
    deepest = max(used, key=find_backbone(branch.backbone).splice_points.index)
    backbone = build_backbone(
        branch.backbone, config.image_size, cut=deepest, weights=branch.weights, weights_folder=weights_folder
    )
    pooled = []
    for name in used:
        maps = backbone.get_layer(name).output
        pooled.append(layers.GlobalAveragePooling2D(name=f"{name}_pooled")(maps))
        if config.has_deviations(branch.backbone):
            pooled.append(deviation(maps))
    vector = layers.Concatenate(name="pooled")(pooled) if len(pooled) > 1 else pooled[0]
    network = keras.Model(backbone.input, vector, name=find_backbone(branch.backbone).label)
    network.trainable = False
    return network
