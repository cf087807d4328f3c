"""How fast batch normalisation follows the data."""

from __future__ import annotations

import keras
from keras import layers


def batchnorm_momentum(steps_per_epoch: int) -> float:
    """Choose the momentum of BatchNormalization's moving averages so that they follow within about half an epoch.

    Keras' 0.99 averages over about 100 steps. On a small data set that is several epochs, and validation scores of the
    first epochs, which early stopping decides by, are noise. Bounded to 0.5..0.99.
    """
    return min(0.99, max(0.5, 1 - 2 / steps_per_epoch))


def adapt_momentum(model: keras.Model, steps_per_epoch: int) -> None:
    """Set that momentum in every batch normalisation of a network and of the networks in it."""
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            adapt_momentum(layer, steps_per_epoch)
        elif isinstance(layer, layers.BatchNormalization):
            layer.momentum = batchnorm_momentum(steps_per_epoch)
