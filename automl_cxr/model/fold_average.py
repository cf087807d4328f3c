"""Several networks of one architecture as a single model that averages what they say."""

from __future__ import annotations

from collections.abc import Sequence

import keras

_NAME = "fold_{}"
_AVERAGE = "average"


def average_networks(networks: Sequence[keras.Model]) -> keras.Model:
    """Make a model of networks that take the same pixels: raw pixels in, the mean of their probabilities out.

    The networks keep their layers and weights; ``network_of_fold`` gives them back.
    """
    pixels = keras.Input(networks[0].input_shape[1:], name="pixels")
    said = [
        keras.Model(network.input, network.output, name=_NAME.format(number))(pixels)
        for number, network in enumerate(networks, start=1)
    ]
    # Under mixed precision the mean of float32 probabilities would be rounded to bfloat16.
    mean = keras.layers.Average(name="mean", dtype="float32")(said)
    return keras.Model(pixels, mean, name=_AVERAGE)


def network_of_fold(model: keras.Model, number: int) -> keras.Model:
    """Find a network in such a model, by its number from 1."""
    return model.get_layer(_NAME.format(number))


def networks_within(model: keras.Model) -> list[keras.Model]:
    """List the networks of such a model; any other model is its only network."""
    if model.name != _AVERAGE:
        return [model]
    return [layer for layer in model.layers if isinstance(layer, keras.Model)]
