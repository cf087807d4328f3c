"""Probes: a softmax layer on the pooled outputs of layers of frozen pretrained networks."""

from __future__ import annotations

from pathlib import Path

import keras
from keras import layers

from automl_cxr.architectures import find_backbone
from automl_cxr.config import BranchConfig, TrialConfig
from automl_cxr.model.backbone_builder import build_backbone
from automl_cxr.model.backbones import preprocess
from automl_cxr.model.preprocessing import repeat_grey

PROBABILITIES = "probabilities"


def build_probe(config: TrialConfig, n_classes: int, *, weights_folder: Path | None) -> keras.Model:
    """Build the backbones of ``config.probe_layers`` up to the last layer that is used, and a softmax layer.

    The softmax layer takes the outputs of the layers, averaged over all positions and concatenated in the order of
    ``config.probe_layers``. It has random weights until ``training/probe.py`` fits it.

    Raises:
        ImpossibleModelError: The image is too small for a backbone, or these weights do not exist for it.
        TrialError: Weights are missing or damaged.
    """
    pixels = keras.Input((config.image_size, config.image_size, 1), name="pixels")
    rgb = repeat_grey(pixels, 3)
    vectors = []
    for branch in config.branches:
        network = _pooled_outputs(config, branch, weights_folder)
        vectors.append(network(preprocess(rgb, find_backbone(branch.backbone), name=f"{branch.backbone}_preprocess")))
    vector = layers.Concatenate(name="vector")(vectors) if len(vectors) > 1 else vectors[0]
    probabilities = layers.Dense(n_classes, activation="softmax", dtype="float32", name=PROBABILITIES)(vector)
    return keras.Model(pixels, probabilities, name="probe")


def _pooled_outputs(config: TrialConfig, branch: BranchConfig, weights_folder: Path | None) -> keras.Model:
    """Build a frozen model from preprocessed images to one vector: the pooled outputs of the layers of one backbone."""
    used = [layer.layer for layer in config.probed if layer.backbone == branch.backbone]
    deepest = max(used, key=find_backbone(branch.backbone).splice_points.index)
    backbone = build_backbone(
        branch.backbone, config.image_size, cut=deepest, weights=branch.weights, weights_folder=weights_folder
    )
    pooled = [layers.GlobalAveragePooling2D(name=f"{name}_pooled")(backbone.get_layer(name).output) for name in used]
    vector = layers.Concatenate(name="pooled")(pooled) if len(pooled) > 1 else pooled[0]
    network = keras.Model(backbone.input, vector, name=branch.backbone)
    network.trainable = False
    return network
