"""Where a network has feature maps: layers by name, within backbones too, and the last ones before positions are lost."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import keras
from keras import layers

from automl_cxr.errors import UnknownNameError, UsageError
from automl_cxr.model.graph import inputs_of, output_of

_N_DIMENSIONS = 4  # n, h, w, channels
_CONVOLUTIONS = (layers.Conv2D, layers.DepthwiseConv2D, layers.SeparableConv2D)
_POOLS = (layers.MaxPooling2D, layers.AveragePooling2D)
# What only leaves some of its input out, or averages it: the maps before it say the same at more positions.
_THINNING = (*_POOLS, layers.Cropping2D, layers.Dropout, layers.SpatialDropout2D)


@dataclass(frozen=True)
class FeatureMapLayer:
    """A layer of a network with feature maps.

    Attributes:
        name: The layer's, after that of the network within the network that it lies in, such as "backbone/fire9_concat".
        tensor: What it makes, (n, h, w, channels).
        layer: The layer itself.
    """

    name: str
    tensor: keras.KerasTensor = field(compare=False, repr=False)
    layer: keras.Operation = field(compare=False, repr=False)


def feature_map_layers(network: keras.Model, prefix: str = "") -> Iterator[FeatureMapLayer]:
    """List every layer with feature maps, from the pixels up; a backbone's layers stand where the backbone does."""
    for layer in network.operations:
        if isinstance(layer, layers.InputLayer):
            continue
        if isinstance(layer, keras.Model):
            yield from feature_map_layers(layer, f"{prefix}{layer.name}/")
        elif len(output_of(layer).shape) == _N_DIMENSIONS:
            yield FeatureMapLayer(prefix + layer.name, output_of(layer), layer)


def convolution_and_pooling_layers(network: keras.Model) -> list[FeatureMapLayer]:
    """List every convolution and every pool over windows, from the pixels up."""
    return [place for place in feature_map_layers(network) if isinstance(place.layer, (*_CONVOLUTIONS, *_POOLS))]


def find_feature_map_layer(network: keras.Model, name: str) -> FeatureMapLayer:
    """Find a layer with feature maps by its name; that of the backbone before it may be left out where one layer alone has it.

    Raises:
        UnknownNameError: No layer with feature maps has the name.
        UsageError: Several have it.
    """
    places = {place.name: place for place in feature_map_layers(network)}
    if name in places:
        return places[name]
    found = [place for place in places.values() if place.name.rsplit("/", 1)[-1] == name]
    if len(found) > 1:
        raise UsageError(f"A layer must be named alone; '{name}' is any of {', '.join(place.name for place in found)}.")
    if not found:
        raise UnknownNameError(f"layer with feature maps of {network.name}", name, _spellings(list(places)))
    return found[0]


def _spellings(names: list[str]) -> list[str]:
    """List full names, and the bare ones, which a slip of the pen is nearer to."""
    return [*names, *(name.rsplit("/", 1)[-1] for name in names if "/" in name)]


def last_feature_map_layers(network: keras.Model) -> list[FeatureMapLayer]:
    """Find the last feature maps of each branch: those that are pooled or flattened, followed back to the most positions.

    Followed back through pools, cropping and dropout, which add nothing, and through a concatenation of such, as of the taps
    of a fused network. So this is the rectified last convolution of a plain network, the last block's output of a published
    one, and one place for each branch of two.

    Raises:
        UsageError: The network has no feature maps.
    """
    found = {id(place.tensor): place for place in _last_before(network.outputs[0], "")}
    if not found:
        raise UsageError(f"A heat map needs feature maps (n, h, w, channels); network '{network.name}' has none.")
    return list(found.values())


def _last_before(tensor: keras.KerasTensor, prefix: str) -> Iterator[FeatureMapLayer]:
    """Walk back from a tensor to the nearest feature maps on every path."""
    maker = tensor._keras_history.operation
    if len(tensor.shape) == _N_DIMENSIONS:
        yield from _with_most_positions(tensor, prefix)
    elif isinstance(maker, keras.Model):
        yield from _last_before(maker.outputs[0], f"{prefix}{maker.name}/")
    else:
        for source in inputs_of(maker):
            yield from _last_before(source, prefix)


def _with_most_positions(tensor: keras.KerasTensor, prefix: str) -> list[FeatureMapLayer]:
    maker = tensor._keras_history.operation
    if isinstance(maker, layers.InputLayer):
        return []
    here = [FeatureMapLayer(prefix + maker.name, tensor, maker)]
    if isinstance(maker, keras.Model):
        return _with_most_positions(maker.outputs[0], f"{prefix}{maker.name}/") or here
    if isinstance(maker, _THINNING):
        return _with_most_positions(inputs_of(maker)[0], prefix) or here
    if isinstance(maker, layers.Concatenate) and any(
        isinstance(source._keras_history.operation, _THINNING) for source in inputs_of(maker)
    ):
        return [place for source in inputs_of(maker) for place in _with_most_positions(source, prefix)] or here
    return here
