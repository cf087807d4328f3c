"""The input of networks that take a row of a table of features instead of an image.

The row is treated as a feature map with one position, so that all later layers are those of networks that take images.
"""

from __future__ import annotations

import keras
from keras import layers

from automl_cxr.architectures import TABLE


def table_input(n_features: int) -> tuple[keras.KerasTensor, keras.KerasTensor]:
    """Build the input of a network.

    Returns:
        The input (n, n_features, 1), and the same numbers as feature maps (n, 1, 1, n_features).
    """
    rows = keras.Input((n_features, 1), name="features_input")
    return rows, layers.Reshape((1, 1, n_features), name="as_maps")(rows)


def table_network(n_features: int, *, name: str = TABLE) -> keras.Model:
    """Build the network that takes the place of a backbone: it returns its input, (n, 1, 1, n_features)."""
    maps = keras.Input((1, 1, n_features))
    return keras.Model(maps, layers.Identity(name=TABLE)(maps), name=name)
