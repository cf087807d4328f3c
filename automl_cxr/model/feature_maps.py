"""Finding the layers of a network that have feature maps, in nested models too."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import keras
from keras import layers

from automl_cxr.errors import UnknownNameError, UsageError
from automl_cxr.model.graph import inputs_of, output_of
from automl_cxr.model.keras_private import producer

_N_DIMENSIONS = 4  # n, h, w, channels
_CONVOLUTIONS = (layers.Conv2D, layers.DepthwiseConv2D, layers.SeparableConv2D)
_POOLS = (layers.MaxPooling2D, layers.AveragePooling2D)
# These layers only select or average values. Their input has the same content at a higher resolution.
_REDUCING = (*_POOLS, layers.Cropping2D, layers.Dropout, layers.SpatialDropout2D)


@dataclass(frozen=True)
class FeatureMapLayer:
    """A layer of a network with feature maps.

    Attributes:
        name: The layer's name, prefixed with the names of the nested models that contain it, such as "backbone/fire9_concat".
        tensor: Its output, (n, h, w, channels).
        layer: The layer itself.
    """

    name: str
    tensor: keras.KerasTensor = field(compare=False, repr=False)
    layer: keras.Operation = field(compare=False, repr=False)


def feature_map_layers(network: keras.Model, prefix: str = "") -> Iterator[FeatureMapLayer]:
    """Yield the layers with feature maps in the order of the network; a nested model is replaced by its layers."""
    for layer in network.operations:
        if isinstance(layer, layers.InputLayer):
            continue
        if isinstance(layer, keras.Model):
            yield from feature_map_layers(layer, f"{prefix}{layer.name}/")
        elif len(output_of(layer).shape) == _N_DIMENSIONS:
            yield FeatureMapLayer(prefix + layer.name, output_of(layer), layer)


def convolution_and_pooling_layers(network: keras.Model) -> list[FeatureMapLayer]:
    """List the convolutions and the pooling layers with windows, in the order of the network."""
    return [found for found in feature_map_layers(network) if isinstance(found.layer, (*_CONVOLUTIONS, *_POOLS))]


def find_feature_map_layer(network: keras.Model, name: str) -> FeatureMapLayer:
    """Find a layer with feature maps by its full name, or by its name without the nested model's if that is unique.

    Raises:
        UnknownNameError: No layer with feature maps has the name.
        UsageError: Several layers have it.
    """
    by_name = {found.name: found for found in feature_map_layers(network)}
    if name in by_name:
        return by_name[name]
    matches = [found for found in by_name.values() if found.name.rsplit("/", 1)[-1] == name]
    if len(matches) > 1:
        full_names = ", ".join(found.name for found in matches)
        raise UsageError(f"A layer name must be unique; '{name}' is any of {full_names}. Use one of these names.")
    if not matches:
        raise UnknownNameError(f"layer with feature maps of {network.name}", name, _full_and_short_names(list(by_name)))
    return matches[0]


def _full_and_short_names(names: list[str]) -> list[str]:
    """List full names and names without a nested model's, so that a misspelt short name gets a suggestion."""
    return [*names, *(name.rsplit("/", 1)[-1] for name in names if "/" in name)]


def last_feature_map_layers(network: keras.Model) -> list[FeatureMapLayer]:
    """Find the last feature maps of each branch, at their highest resolution.

    The search starts at the feature maps that are pooled globally or flattened. It goes back through pooling, cropping and
    dropout, which add no content, and through a concatenation of such layers, as after the taps of a fused network. The result
    is the rectified last convolution of a scratch network, the output of the last block of a published network, and one layer
    for each branch of a two-branch network.

    Raises:
        UsageError: The network has no feature maps.
    """
    found = {id(one.tensor): one for one in _last_before(network.outputs[0], "")}
    if not found:
        raise UsageError(f"A heat map needs feature maps (n, h, w, channels); network '{network.name}' has none.")
    return list(found.values())


def _last_before(tensor: keras.KerasTensor, prefix: str) -> Iterator[FeatureMapLayer]:
    """Search from a tensor towards the input for the nearest feature maps on every path."""
    operation = producer(tensor)
    if len(tensor.shape) == _N_DIMENSIONS:
        yield from _at_highest_resolution(tensor, prefix)
    elif isinstance(operation, keras.Model):
        yield from _last_before(operation.outputs[0], f"{prefix}{operation.name}/")
    else:
        for source in inputs_of(operation):
            yield from _last_before(source, prefix)


def _at_highest_resolution(tensor: keras.KerasTensor, prefix: str) -> list[FeatureMapLayer]:
    operation = producer(tensor)
    if isinstance(operation, layers.InputLayer):
        return []
    own = [FeatureMapLayer(prefix + operation.name, tensor, operation)]
    if isinstance(operation, keras.Model):
        return _at_highest_resolution(operation.outputs[0], f"{prefix}{operation.name}/") or own
    if isinstance(operation, _REDUCING):
        return _at_highest_resolution(inputs_of(operation)[0], prefix) or own
    if isinstance(operation, layers.Concatenate) and any(
        isinstance(producer(source), _REDUCING) for source in inputs_of(operation)
    ):
        return [found for source in inputs_of(operation) for found in _at_highest_resolution(source, prefix)] or own
    return own
