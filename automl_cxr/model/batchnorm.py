"""The momentum of batch normalisation for small data sets."""

from __future__ import annotations

import keras
from keras import layers


def batchnorm_momentum(steps_per_epoch: int) -> float:
    """Return a momentum with which the moving averages of BatchNormalization follow the data within about half an epoch.

    Keras' default of 0.99 averages over about 100 steps. On a small data set that is several epochs, so that the validation
    scores of the first epochs, which early stopping uses, are noise. The result is between 0.5 and 0.99.
    """
    return min(0.99, max(0.5, 1 - 2 / steps_per_epoch))


def adapt_momentum(model: keras.Model, steps_per_epoch: int) -> None:
    """Set ``batchnorm_momentum`` in every batch normalisation of a network and of its nested models."""
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            adapt_momentum(layer, steps_per_epoch)
        elif isinstance(layer, layers.BatchNormalization):
            layer.momentum = batchnorm_momentum(steps_per_epoch)
