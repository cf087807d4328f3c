"""The end that every network here shares: feature maps in, class probabilities out."""

from __future__ import annotations

import keras
from keras import layers

from automl_cxr.config import TrialConfig

_VECTORS = {
    "average": layers.GlobalAveragePooling2D,
    "max": layers.GlobalMaxPooling2D,
    "flatten": layers.Flatten,
}


def pooled_vector(maps: keras.KerasTensor, config: TrialConfig) -> keras.KerasTensor:
    """Turn feature maps (n, h, w, c) into a vector by ``config.pooling``."""
    return _VECTORS[config.pooling](name="vector")(maps)


def classifier_head(x: keras.KerasTensor, config: TrialConfig, n_classes: int) -> keras.KerasTensor:
    """Put hidden dense layers with dropout and a softmax of ``n_classes`` on a vector."""
    for number in range(1, config.n_dense + 1):
        units = max(1, round(config.dense_units * config.dense_growth ** (number - 1)))
        x = layers.Dense(units, activation="relu", name=f"dense_{number}")(x)
        if config.dropout > 0:
            x = layers.Dropout(config.dropout, seed=config.seed + number, name=f"dropout_{number}")(x)
    if config.n_dense == 0 and config.dropout > 0:
        x = layers.Dropout(config.dropout, seed=config.seed, name="dropout")(x)
    # float32 even under a mixed-precision policy: a float16 softmax loses the small probabilities.
    return layers.Dense(n_classes, activation="softmax", dtype="float32", name="probabilities")(x)
