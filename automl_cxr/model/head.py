"""The end that every network here shares: feature maps in, class probabilities out."""

from __future__ import annotations

import keras
import numpy as np
from keras import layers

from automl_cxr.config import TrialConfig

_VECTORS = {
    "average": layers.GlobalAveragePooling2D,
    "max": layers.GlobalMaxPooling2D,
    "flatten": layers.Flatten,
}


def pooled_vector(maps: keras.KerasTensor, config: TrialConfig) -> keras.KerasTensor:
    """Convert feature maps (n, h, w, c) into a vector by ``config.pooling``."""
    return _VECTORS[config.pooling](name="vector")(maps)


def hidden_widths(config: TrialConfig) -> tuple[int, ...]:
    """Give the units of each hidden dense layer."""
    return tuple(max(1, round(config.dense_units * config.dense_growth**number)) for number in range(config.n_dense))


def dropout_seeds(config: TrialConfig) -> tuple[int, ...]:
    """Give the seed of each dropout layer, from the vector on; none where the rate is 0."""
    if config.dropout == 0:
        return ()
    return tuple(config.seed + number for number in range(1, config.n_dense + 1)) or (config.seed,)


def kernel_initializer(config: TrialConfig, number: int) -> keras.initializers.Initializer:
    """Draw the first weights of a dense layer (Glorot and Bengio 2010) from the trial's seed and the layer's number alone.

    So a head begins from the same weights whatever network it stands on, and however many others are built before it.

    Args:
        config: ``seed``.
        number: Of the dense layer, from 1; the output layer has the last one.
    """
    # A sequence of its own: a dropout layer with the same seed would draw its first mask from the very same numbers.
    return keras.initializers.GlorotUniform(seed=int(np.random.SeedSequence((config.seed, number)).generate_state(1)[0] >> 1))


def classifier_head(x: keras.KerasTensor, config: TrialConfig, n_classes: int) -> keras.KerasTensor:
    """Put hidden dense layers with dropout and a softmax of ``n_classes`` on a vector."""
    seeds, widths = dropout_seeds(config), hidden_widths(config)
    for number, units in enumerate(widths, start=1):
        initializer = kernel_initializer(config, number)
        x = layers.Dense(units, activation="relu", kernel_initializer=initializer, name=f"dense_{number}")(x)
        if seeds:
            x = layers.Dropout(config.dropout, seed=seeds[number - 1], name=f"dropout_{number}")(x)
    if seeds and not widths:
        x = layers.Dropout(config.dropout, seed=seeds[0], name="dropout")(x)
    initializer = kernel_initializer(config, len(widths) + 1)
    # float32 even under a mixed-precision policy: a float16 softmax loses the small probabilities.
    return layers.Dense(n_classes, activation="softmax", kernel_initializer=initializer, dtype="float32", name="probabilities")(
        x
    )
