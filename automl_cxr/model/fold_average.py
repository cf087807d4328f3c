"""The networks of cross-validation folds as a single model that averages their probabilities."""

from __future__ import annotations

from collections.abc import Sequence

import keras

from automl_cxr.model.augmentation import without_augmentation

_NAME = "fold_{}"
_AVERAGE = "average"


def average_networks(networks: Sequence[keras.Model]) -> keras.Model:
    """Build a model from raw pixels to the mean of the probabilities of several networks.

    The networks' layers are shared, not copied, except for augmentation, which is left out. ``network_of_fold`` returns each
    network.
    """
    pixels = keras.Input(networks[0].input_shape[1:], name="pixels")
    probabilities = [
        keras.Model(network.input, network.output, name=_NAME.format(number))(pixels)
        for number, network in enumerate(map(without_augmentation, networks), start=1)
    ]
    # Under mixed precision the mean of float32 probabilities would be rounded to bfloat16.
    mean = keras.layers.Average(name="mean", dtype="float32")(probabilities)
    return keras.Model(pixels, mean, name=_AVERAGE)


def network_of_fold(model: keras.Model, number: int) -> keras.Model:
    """Return a network of a model of ``average_networks``, by its number from 1."""
    return model.get_layer(_NAME.format(number))


def networks_within(model: keras.Model) -> list[keras.Model]:
    """List the networks of a model of ``average_networks``; for any other model, the model itself."""
    if model.name != _AVERAGE:
        return [model]
    return [layer for layer in model.layers if isinstance(layer, keras.Model)]
