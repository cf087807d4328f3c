"""Transfer learning: a published network, whole or cut, with pretrained weights and a new head."""

from __future__ import annotations

from pathlib import Path

import keras

from automl_cxr.architectures import find_backbone
from automl_cxr.config import SCRATCH, TrialConfig
from automl_cxr.errors import ImpossibleModelError
from automl_cxr.input_sizes import inner_size
from automl_cxr.model.backbone_builder import build_backbone
from automl_cxr.model.backbones import preprocess
from automl_cxr.model.freezing import BACKBONE
from automl_cxr.model.head import classifier_head, pooled_vector
from automl_cxr.model.preprocessing import raw_pixels, repeat_grey, three_channels
from automl_cxr.model.table_input import table_network


def build_transfer(config: TrialConfig, n_classes: int, *, weights_folder: Path | None) -> keras.Model:
    """Build a backbone with its preprocessing, the pooling of its feature maps, and a head.

    Raises:
        ImpossibleModelError: The image is too small for the backbone, or the cut is not one of its layers.
        TrialError: The weights are missing or damaged.
    """
    if config.backbone == SCRATCH:
        raise ImpossibleModelError("Family transfer needs a published backbone; received scratch. Use family scratch.")
    pixels, x = raw_pixels(config)
    x = preprocess(three_channels(x, config), find_backbone(config.backbone))
    if config.takes_features:
        backbone = table_network(config.n_features, name=BACKBONE)
    else:
        backbone = build_backbone(
            config.backbone,
            inner_size(config),
            cut=config.cut,
            weights=config.weights,
            weights_folder=weights_folder,
            layer_name=BACKBONE,
        )
    vector = pooled_vector(backbone(x), config)
    return keras.Model(pixels, classifier_head(vector, config, n_classes), name="transfer")


def backbone_on_pixels(
    name: str, image_size: int, *, weights: str = "imagenet", weights_folder: Path | None = None
) -> keras.Model:
    """Build a model from raw grey pixels (n, image_size, image_size, 1) to the feature maps of a whole backbone.

    Its layers are in a nested model called "backbone", as in a network of family transfer.

    Raises:
        UnknownNameError: No backbone has the name.
        ImpossibleModelError: The image is too small.
        TrialError: The weights are missing or damaged.
    """
    pixels = keras.Input((image_size, image_size, 1), name="pixels")
    x = preprocess(repeat_grey(pixels, 3), find_backbone(name))
    backbone = build_backbone(name, image_size, weights=weights, weights_folder=weights_folder, layer_name=BACKBONE)
    return keras.Model(pixels, backbone(x), name=find_backbone(name).label)
