"""Grad-CAM heat maps (Selvaraju et al. 2017, https://arxiv.org/abs/1610.02391).

The weight of channel k of the feature maps A is the mean over positions of dy/dA_k, where y is the score of the class before
the softmax, or of the finding before the sigmoid (equation 1). The heat map is the weighted sum of the channels, clipped at 0
(equation 2).

Here every sum is multiplied by its number of positions, so that it is evidence per area of the image. Therefore the evidence
of branches with different resolutions can be added, as the head adds their channels. With global average pooling and a dense
layer, the result is the class activation map of the joined vector (Zhou et al. 2016).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from automl_cxr.errors import UsageError
from automl_cxr.model.feature_maps import FeatureMapLayer, find_feature_map_layer, last_feature_map_layers
from automl_cxr.model.gradients import gradients
from automl_cxr.model.graph import output_of, replay
from automl_cxr.model.onnx_encoder import FEATURES, contains_encoder

_OUTPUT_ACTIVATIONS = (keras.activations.softmax, keras.activations.sigmoid)
_MIN_SIDE = 56  # positions on a side of a heat map; finer feature maps keep their own resolution


class GradCam:
    """Grad-CAM for one network.

    Args:
        network: A model from grey pixels 0..255 (n, h, w, 1) to probabilities.
        layer: Name of a layer with feature maps; by default the last such layer of each branch.

    Attributes:
        places: Names of the layers whose feature maps are used.

    Raises:
        UnknownNameError: No layer with feature maps has the name.
        UsageError: Several layers have the name, or the network has no feature maps, or an encoder in ONNX prevents gradients.
    """

    def __init__(self, network: keras.Model, layer: str | None = None) -> None:
        found = last_feature_map_layers(network) if layer is None else [find_feature_map_layer(network, layer)]
        if contains_encoder(network):
            _refuse_without_gradients(network, found)
        self.places = tuple(one.name for one in found)
        self._shapes = [one.tensor.shape[1:] for one in found]
        self._shifted = _network_with_shifts(network, found)

    def evidence(self, images: np.ndarray, columns: np.ndarray) -> list[np.ndarray]:
        """Compute the weighted sum of the feature maps of each layer.

        Args:
            images: uint8 (n, h, w), at the network's input size.
            columns: Column of the class of interest for each image, int (n,).

        Returns:
            For each layer, float32 (n, height, width) at its own resolution: signed evidence per area of the image.
        """
        pixels = ops.convert_to_tensor(images[..., np.newaxis].astype(np.float32))
        selection = ops.one_hot(columns, self._shifted.output_shape[0][-1])

        def total_score(shifts: list[Any]) -> tuple[Any, list[Any]]:
            scores, *maps = self._shifted([pixels, *shifts], training=False)
            return ops.sum(scores * selection), maps

        shifts = [np.zeros((len(images), *shape), np.float32) for shape in self._shapes]
        maps, feature_gradients = gradients(total_score, shifts)
        return [_weighted_sum(*layer) for layer in zip(maps, feature_gradients, strict=True)]


def _refuse_without_gradients(network: keras.Model, found: Sequence[FeatureMapLayer]) -> None:
    """Check that the feature maps are outputs of encoders, after which there are gradients, and have rows and columns.

    Raises:
        UsageError: They are not.
    """
    for layer in found:
        if layer.name.rsplit("/", 1)[-1] != FEATURES or 1 in layer.tensor.shape[1:3]:
            raise UsageError(
                "Grad-CAM needs gradients, and an encoder in ONNX has none: heat maps are possible for feature maps that it "
                f"returns, not for vectors or tokens; received layer '{layer.name}' {tuple(layer.tensor.shape)} of network "
                f"'{network.name}'. Use --method shap, which needs no gradients."
            )


def _weighted_sum(maps: np.ndarray, feature_gradients: np.ndarray) -> np.ndarray:
    """Sum the channels of feature maps (n, h, w, c), weighted by their mean gradient, per area of the image."""
    weights = feature_gradients.sum(axis=(1, 2))  # the mean, times the number of positions
    return np.einsum("nhwc,nc->nhw", maps, weights)


def heat_map(evidence: Sequence[np.ndarray]) -> np.ndarray:
    """Add the evidence of the layers of one network and clip it at 0.

    Args:
        evidence: The result of ``GradCam.evidence``.

    Returns:
        float32 (n, side, side) over the network's input square.
    """
    side = max(_MIN_SIDE, *(max(one.shape[1:]) for one in evidence))
    centres = (np.arange(side) + 0.5) / side
    total = sum(resample(one, centres, centres) for one in evidence)
    return np.maximum(total, 0).astype(np.float32)


def resample(maps: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Interpolate maps linearly between the centres of their positions; values are constant beyond the outermost centres.

    Args:
        maps: (..., h, w), over a square with coordinates 0 to 1.
        rows: Vertical coordinates of the result; outside 0..1 the result is 0.
        columns: Horizontal coordinates, likewise.

    Returns:
        (..., n_rows, n_columns).
    """
    return _interpolation(rows, maps.shape[-2]) @ maps @ _interpolation(columns, maps.shape[-1]).T


def _interpolation(coordinates: np.ndarray, n_positions: int) -> np.ndarray:
    """Return the weight of each of some evenly spaced positions at each coordinate, (n_coordinates, n_positions)."""
    at = np.clip(coordinates * n_positions - 0.5, 0, n_positions - 1)
    weights = np.maximum(0, 1 - np.abs(at[:, np.newaxis] - np.arange(n_positions)))
    return weights * ((coordinates >= 0) & (coordinates <= 1))[:, np.newaxis]


def _network_with_shifts(network: keras.Model, targets: Sequence[FeatureMapLayer]) -> keras.Model:
    """Build a model that adds an input to the feature maps of each layer.

    The gradient of a score with respect to such an input equals the gradient with respect to the feature maps, for layers of
    nested models too. The model shares the layers of the network.

    Returns:
        A model from the pixels and one shift for each layer, to the scores before the softmax or sigmoid and the feature maps
        of each layer, all float32.
    """
    pixels = keras.Input(network.inputs[0].shape[1:], dtype=network.inputs[0].dtype)
    shifts = {id(one.tensor): keras.Input(one.tensor.shape[1:], dtype="float32") for one in targets}
    scores, maps = _replay_with_shifts(network, pixels, shifts)
    return keras.Model([pixels, *shifts.values()], [scores, *(maps[tensor] for tensor in shifts)], name="shifted")


def _replay_with_shifts(
    network: keras.Model, pixels: keras.KerasTensor, shifts: Mapping[int, keras.KerasTensor]
) -> tuple[keras.KerasTensor, dict[int, keras.KerasTensor]]:
    """Run a network's layers on another input and add shifts to some of their outputs.

    Args:
        network: The network, or a nested model.
        pixels: The input.
        shifts: Shifts by the id of the tensor, of the network or of a nested model, that they are added to.

    Returns:
        The output of the network, before its softmax or sigmoid if it has one; and the feature maps before the shift, by the
        same ids.
    """
    maps: dict[int, keras.KerasTensor] = {}

    def call(operation: keras.Operation, *args: Any, **kwargs: Any) -> keras.KerasTensor:
        inner_shifts = {key: shift for key, shift in shifts.items() if key in _inner_tensors(operation)}
        if inner_shifts:
            output, inner_maps = _call_nested_model(operation, args[0], inner_shifts)
            maps.update(inner_maps)
        else:
            output = _without_activation(operation)(*args, **kwargs)
        original = output_of(operation)
        if id(original) in shifts:
            # Layers with names of their own: the automatic names of operations may exist in a network that was loaded.
            maps[id(original)] = layers.Identity(dtype="float32", name=f"{operation.name}_maps")(output)
            shift = layers.Add(dtype=original.dtype, name=f"{operation.name}_shifted")
            output = shift([output, shifts[id(original)]])
        return output

    return replay(network, {id(network.inputs[0]): pixels}, call), maps


def _call_nested_model(
    network: keras.Model, x: keras.KerasTensor, shifts: Mapping[int, keras.KerasTensor]
) -> tuple[keras.KerasTensor, dict[int, keras.KerasTensor]]:
    """Do the same as ``_replay_with_shifts`` in a nested model, since layers of two backbones may have equal names."""
    pixels = keras.Input(network.inputs[0].shape[1:], dtype=network.inputs[0].dtype)
    inputs = {key: keras.Input(shift.shape[1:], dtype=shift.dtype) for key, shift in shifts.items()}
    inner_output, inner_maps = _replay_with_shifts(network, pixels, inputs)
    outputs = [inner_output, *(inner_maps[key] for key in inputs)]
    # Another name than that of the network, which is in the model as well if it is called for a mirror image.
    shifted = keras.Model([pixels, *inputs.values()], outputs, name=f"{network.name}_shifted")
    output, *maps = shifted([x, *shifts.values()])
    return output, dict(zip(inputs, maps, strict=True))


def _inner_tensors(operation: keras.Operation) -> set[int]:
    """Return the ids of the tensors of a nested model; an empty set for any other operation."""
    if not isinstance(operation, keras.Model):
        return set()
    return {id(output_of(inner)) for inner in operation.operations}.union(*map(_inner_tensors, operation.operations))


def _without_activation(operation: keras.Operation) -> keras.Operation:
    """Return a copy of an output layer without its softmax or sigmoid; return any other operation itself."""
    if not isinstance(operation, layers.Dense) or operation.activation not in _OUTPUT_ACTIVATIONS:
        return operation
    linear = layers.Dense.from_config({**operation.get_config(), "activation": "linear", "name": "scores"})
    linear.build((None, operation.kernel.shape[0]))
    linear.set_weights(operation.get_weights())
    return linear
