"""The classifier head of every network: from feature maps to the probabilities of classes or findings."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import layers, ops

from automl_cxr.config import TrialConfig

_POOLING_LAYERS = {
    "average": layers.GlobalAveragePooling2D,
    "max": layers.GlobalMaxPooling2D,
    "flatten": layers.Flatten,
}

PROBABILITIES = "probabilities"
"""Name of the output layer."""

_SMALLEST_VARIANCE = 1e-6  # of the features of an image, or of a feature map; added to their variance


def pooled_vector(maps: keras.KerasTensor, config: TrialConfig) -> keras.KerasTensor:
    """Convert feature maps (n, h, w, c) into a vector by ``config.pooling`` and ``config.normalise``."""
    pooling = _POOLING_LAYERS[config.pooling]
    if not config.normalise:
        return pooling(name="vector")(maps)
    return normalised(pooling(name="pooled")(maps), name="vector")


def normalised(vector: keras.KerasTensor, *, name: str) -> keras.KerasTensor:
    """Normalise each vector (n, d) to mean 0 and variance 1 over its d features.

    The layer has no weights, so that vectors of frozen layers remain the same in every epoch and can be cached.
    """
    return layers.LayerNormalization(center=False, scale=False, epsilon=_SMALLEST_VARIANCE, name=name)(vector)


def hidden_widths(config: TrialConfig) -> tuple[int, ...]:
    """Return the number of units of each hidden dense layer."""
    return tuple(max(1, round(config.dense_units * config.dense_growth**number)) for number in range(config.n_dense))


def dropout_seeds(config: TrialConfig) -> tuple[int, ...]:
    """Return the seed of each dropout layer in order; empty if the rate is 0."""
    if config.dropout == 0:
        return ()
    return tuple(config.seed + number for number in range(1, config.n_dense + 1)) or (config.seed,)


def kernel_initializer(config: TrialConfig, number: int) -> keras.initializers.Initializer:
    """Return the initializer of a dense layer (Glorot and Bengio 2010), seeded with the trial's seed and the layer's number.

    Therefore the initial weights of a head do not depend on the network below it or on networks that were built earlier.

    Args:
        config: The configuration; ``seed`` is used.
        number: Number of the dense layer, from 1; the output layer has the last number.
    """
    # A separate seed sequence: a dropout layer with the same seed would draw its first mask from the same numbers.
    return keras.initializers.GlorotUniform(seed=int(np.random.SeedSequence((config.seed, number)).generate_state(1)[0] >> 1))


def classifier_head(x: keras.KerasTensor, config: TrialConfig, n_classes: int) -> keras.KerasTensor:
    """Apply hidden dense layers with dropout, and the output layer, to a vector (n, d)."""
    seeds, widths = dropout_seeds(config), hidden_widths(config)
    for number, units in enumerate(widths, start=1):
        initializer = kernel_initializer(config, number)
        x = layers.Dense(units, activation="relu", kernel_initializer=initializer, name=f"dense_{number}")(x)
        if seeds:
            x = layers.Dropout(config.dropout, seed=seeds[number - 1], name=f"dropout_{number}")(x)
    if seeds and not widths:
        x = layers.Dropout(config.dropout, seed=seeds[0], name="dropout")(x)
    initializer = kernel_initializer(config, len(widths) + 1)
    return output_layer(config, n_classes, kernel_initializer=initializer)(x)


def output_layer(config: TrialConfig, n_classes: int, **options: Any) -> layers.Dense:
    """Build the layer of the probabilities: softmax over the classes, or a sigmoid for each finding.

    Args:
        config: The configuration; ``task`` is used.
        n_classes: Number of classes or findings.
        options: Further arguments of the layer.
    """
    activation = "sigmoid" if config.is_multilabel else "softmax"
    # float32 under a mixed-precision policy too, because 16 bits round small probabilities to 0.
    return layers.Dense(n_classes, activation=activation, dtype="float32", name=PROBABILITIES, **options)


def deviation(maps: keras.KerasTensor) -> keras.KerasTensor:
    """Return the standard deviation of feature maps (n, h, w, channels) over all positions, (n, channels)."""
    # The gradient of a square root is infinite at 0, the variance of a uniform feature map.
    return ops.sqrt(ops.var(maps, axis=(1, 2)) + _SMALLEST_VARIANCE)
