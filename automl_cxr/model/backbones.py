"""Published networks of the registry as Keras models: construction with random weights, and their preprocessing."""

from __future__ import annotations

from typing import Any

import keras
from keras import layers

from automl_cxr.architectures import Backbone, load_function

_KERAS = "keras.applications:"


def build_full_network(backbone: Backbone, image_size: int, *, weights: str | None = None) -> keras.Model:
    """Build a backbone up to its last feature maps, without a classifier.

    Args:
        backbone: Row of the registry.
        image_size: Height and width of the input in pixels.
        weights: None for random weights, or "imagenet", with which Keras downloads them (``backbone.has_download``).

    Returns:
        A model from images (n, image_size, image_size, 3) to feature maps (n, h, w, channels).
    """
    options: dict[str, Any] = {}
    if backbone.constructor.startswith(_KERAS):
        options = {"include_top": False, "weights": weights, "pooling": None}
    return load_function(backbone.constructor)(input_shape=(image_size, image_size, 3), **options)


def preprocess(x: keras.KerasTensor, backbone: Backbone, *, name: str = "preprocess") -> keras.KerasTensor:
    """Convert pixel values 0..255 (n, h, w, 3) of three equal channels to the range that a backbone was trained on."""
    scheme = backbone.preprocessing
    if scheme is None:
        return x
    return layers.Rescaling(list(scheme.scale), offset=list(scheme.offset), name=name)(x)
