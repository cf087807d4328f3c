"""Where a network finds the evidence for a class: Grad-CAM (Selvaraju et al. 2017, https://arxiv.org/abs/1610.02391).

Channel k of feature maps A weighs as much as the class's score y, before the softmax, rises with it: the mean over positions
of dy/dA_k (equation 1). The weighted sum of the channels, where it is above 0, is the heat map (equation 2).

Here every sum is multiplied by its number of positions, so that it is evidence per area of the picture. Branches that are
pooled at different resolutions are then channels of one layer, as they are for the head, and their sums may be added: under
global average pooling and a dense layer the result is the class activation map of the joined vector (Zhou et al. 2016).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from automl_cxr.model.feature_maps import FeatureMapLayer, find_feature_map_layer, last_feature_map_layers
from automl_cxr.model.gradients import gradients
from automl_cxr.model.graph import inputs_of, output_of

_LEAST_POSITIONS = 56  # a side of the grid that heat maps are drawn on; finer maps keep their own


class GradCam:
    """The heat maps of one network.

    Args:
        network: From raw grey pixels 0..255 (n, h, w, 1) to probabilities.
        layer: Name of a layer with feature maps; by default the last ones of each branch.

    Attributes:
        places: Where the heat maps are taken from, by name.

    Raises:
        UnknownNameError: No layer with feature maps has the name.
        UsageError: Several have it, or the network has no feature maps.
    """

    def __init__(self, network: keras.Model, layer: str | None = None) -> None:
        found = last_feature_map_layers(network) if layer is None else [find_feature_map_layer(network, layer)]
        self.places = tuple(place.name for place in found)
        self._shapes = [place.tensor.shape[1:] for place in found]
        self._opened = _opened(network, found)

    def evidence(self, images: np.ndarray, columns: np.ndarray) -> list[np.ndarray]:
        """Weigh the feature maps of each place by what they mean for a class.

        Args:
            images: uint8 (n, h, w), as the network takes them.
            columns: Class of each image, int (n,).

        Returns:
            For each place, float32 (n, height, width) of its own resolution: signed evidence per area of the picture.
        """
        pixels = ops.convert_to_tensor(images[..., np.newaxis].astype(np.float32))
        chosen = ops.one_hot(columns, self._opened.output_shape[0][-1])

        def total(shifts: list[Any]) -> tuple[Any, list[Any]]:
            scores, *maps = self._opened([pixels, *shifts], training=False)
            return ops.sum(scores * chosen), maps

        shifts = [np.zeros((len(images), *shape), np.float32) for shape in self._shapes]
        maps, slopes = gradients(total, shifts)
        return [_weigh(values, slope) for values, slope in zip(maps, slopes, strict=True)]


def _weigh(maps: np.ndarray, slopes: np.ndarray) -> np.ndarray:
    """Sum the channels (n, h, w, c), each times its mean slope, per area of the picture."""
    weights = slopes.sum(axis=(1, 2))  # the mean, times the number of positions
    return np.einsum("nhwc,nc->nhw", maps, weights)


def heat_map(evidence: Sequence[np.ndarray]) -> np.ndarray:
    """Join the evidence of several places, of one network, to what speaks for the class.

    Args:
        evidence: As ``GradCam.evidence`` gives it.

    Returns:
        float32 (n, side, side) of the square that the network takes, 0 or more.
    """
    side = max(_LEAST_POSITIONS, *(max(one.shape[1:]) for one in evidence))
    steps = (np.arange(side) + 0.5) / side
    joined = sum(resample(one, steps, steps) for one in evidence)
    return np.maximum(joined, 0).astype(np.float32)


def resample(maps: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Read maps between their positions, linearly; towards the edges they go on as they end.

    Args:
        maps: (..., h, w), over a square from 0 to 1.
        rows: Heights in it, from 0 to 1; beyond, the result is 0.
        columns: The same across.

    Returns:
        (..., n_rows, n_columns).
    """
    return _between(rows, maps.shape[-2]) @ maps @ _between(columns, maps.shape[-1]).T


def _between(places: np.ndarray, n_positions: int) -> np.ndarray:
    """Give the share of each of some evenly spread positions in the value at a place, (n_places, n_positions)."""
    at = np.clip(places * n_positions - 0.5, 0, n_positions - 1)
    shares = np.maximum(0, 1 - np.abs(at[:, np.newaxis] - np.arange(n_positions)))
    return shares * ((places >= 0) & (places <= 1))[:, np.newaxis]


def _opened(network: keras.Model, places: Sequence[FeatureMapLayer]) -> keras.Model:
    """Open a network at some places: it takes its pixels and, for each place, what is added to the feature maps there; it gives
    its scores before the softmax and the feature maps of each place, all float32.

    It shares the network's layers. A shift of zero changes nothing, and the scores' gradient with respect to it is that with
    respect to the feature maps, wherever in a network of networks they are.
    """
    pixels = keras.Input(network.inputs[0].shape[1:], dtype=network.inputs[0].dtype)
    shifts = {id(place.tensor): keras.Input(place.tensor.shape[1:], dtype="float32") for place in places}
    scores, maps = _replay(network, pixels, shifts)
    return keras.Model([pixels, *shifts.values()], [scores, *(maps[tensor] for tensor in shifts)], name="opened")


def _replay(
    network: keras.Model, entry: keras.KerasTensor, shifts: dict[int, keras.KerasTensor]
) -> tuple[keras.KerasTensor, dict[int, keras.KerasTensor]]:
    """Run a network's layers again on another input, with shifts added where they are due.

    Args:
        network: The network, or one within it.
        entry: Its input.
        shifts: By the id of a tensor, of the network or of one within it, what is added there.

    Returns:
        The network's output, before the softmax if it has one; and by the same ids the feature maps before the shift.
    """
    known = {id(network.inputs[0]): entry}
    maps = {}
    for operation in network.operations:
        made = output_of(operation)
        if isinstance(operation, layers.InputLayer):
            continue
        within = {key: shift for key, shift in shifts.items() if key in _tensors_within(operation)}
        if within:
            known[id(made)], found = _replay_within(operation, known[id(inputs_of(operation)[0])], within)
            maps |= found
        else:
            args, kwargs = operation._inbound_nodes[0].arguments.fill_in(known)
            known[id(made)] = _before_softmax(operation)(*args, **kwargs)
        if id(made) in shifts:
            maps[id(made)] = ops.cast(known[id(made)], "float32")
            known[id(made)] = known[id(made)] + ops.cast(shifts[id(made)], made.dtype)
    return known[id(network.outputs[0])], maps


def _replay_within(
    network: keras.Model, entry: keras.KerasTensor, shifts: dict[int, keras.KerasTensor]
) -> tuple[keras.KerasTensor, dict[int, keras.KerasTensor]]:
    """Do as ``_replay``, in a model of its own: layers of two backbones may share a name."""
    pixels = keras.Input(network.inputs[0].shape[1:], dtype=network.inputs[0].dtype)
    inputs = {key: keras.Input(shift.shape[1:], dtype=shift.dtype) for key, shift in shifts.items()}
    made, maps = _replay(network, pixels, inputs)
    inner = keras.Model([pixels, *inputs.values()], [made, *(maps[key] for key in inputs)], name=network.name)
    output, *found = inner([entry, *shifts.values()])
    return output, dict(zip(inputs, found, strict=True))


def _tensors_within(operation: keras.Operation) -> set[int]:
    """Collect the tensors of a network within a network, by id; none of any other operation."""
    if not isinstance(operation, keras.Model):
        return set()
    return {id(output_of(inner)) for inner in operation.operations}.union(*map(_tensors_within, operation.operations))


def _before_softmax(operation: keras.Operation) -> keras.Operation:
    """Give the layer itself, or of a dense layer that ends in a softmax one without it, of the same weights."""
    if not isinstance(operation, layers.Dense) or operation.activation is not keras.activations.softmax:
        return operation
    linear = layers.Dense.from_config({**operation.get_config(), "activation": "linear", "name": "scores"})
    linear.build((None, operation.kernel.shape[0]))
    linear.set_weights(operation.get_weights())
    return linear
