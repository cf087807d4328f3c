"""Reading and rebuilding the graph of a functional Keras model.

The only module that uses Keras' private record of how layers were called (``_inbound_nodes``, ``_keras_history``).
"""

from __future__ import annotations

from collections.abc import Sequence

import keras
from keras import layers

from automl_cxr.errors import ImpossibleModelError


def replay(network: keras.Model, given: dict[int, keras.KerasTensor]) -> keras.KerasTensor:
    """Run a network's layers on other tensors than those, by their id, that it has there; give its output.

    ``keras.Model`` of tensors within a network does the same, but with inputs whose names depend on what was built before.
    """
    known = dict(given)
    for operation in network.operations:
        made = id(output_of(operation))
        if (
            made not in known
            and not isinstance(operation, layers.InputLayer)
            and all(id(one) in known for one in inputs_of(operation))
        ):
            args, kwargs = operation._inbound_nodes[0].arguments.fill_in(known)
            known[made] = operation(*args, **kwargs)
    return known[id(network.output)]


def inputs_of(operation: keras.Operation) -> Sequence[keras.KerasTensor]:
    """List the tensors that an operation of a network takes; none for its inputs.

    Keras notes every use of a layer; the first is that of the network that it was made for.
    """
    return () if isinstance(operation, layers.InputLayer) else operation._inbound_nodes[0].input_tensors


def output_of(operation: keras.Operation) -> keras.KerasTensor:
    """Give the tensor that an operation of a network makes."""
    return operation._inbound_nodes[0].output_tensors[0]


def source_name(tensor: keras.KerasTensor) -> str:
    """Name the layer that made a tensor, the last one of a backbone."""
    operation = tensor._keras_history.operation
    return source_name(operation.outputs[0]) if isinstance(operation, keras.Model) else operation.name


def tensors_at(network: keras.Model, cuts: Sequence[str]) -> list[keras.KerasTensor]:
    """Find the feature maps of a network's layers, those within a backbone too, as tensors that its pixels lead to.

    Raises:
        ImpossibleModelError: There is no such layer, or it has no feature maps (n, h, w, channels).
    """
    within: dict[str, list[str]] = {}
    for cut in cuts:
        outer, slash, inner = cut.partition("/")
        within.setdefault(outer if slash else "", []).append(inner if slash else outer)
    found: dict[str, keras.KerasTensor] = {}
    for outer, names in within.items():
        holder = _model(network, outer) if outer else network
        tensors = [_maps(holder, name) for name in names]
        if outer:
            (source,) = inputs_of(holder)
            outputs = keras.Model(holder.input, tensors if len(tensors) > 1 else tensors[0], name=f"{outer}_cut")(source)
            tensors = outputs if isinstance(outputs, (list, tuple)) else [outputs]
        found |= {f"{outer}/{name}" if outer else name: tensor for name, tensor in zip(names, tensors, strict=True)}
    return [found[cut] for cut in cuts]


def _model(network: keras.Model, name: str) -> keras.Model:
    layer = next((layer for layer in network.layers if layer.name == name), None)
    if layer is None or not isinstance(layer, keras.Model):
        raise ImpossibleModelError(
            f"A cut within a backbone is written backbone/layer; '{network.name}' has no model '{name}'."
        )
    return layer


def _maps(network: keras.Model, name: str) -> keras.KerasTensor:
    layer = next((layer for layer in network.layers if layer.name == name), None)
    if layer is None:
        raise ImpossibleModelError(f"A cut must name a layer of '{network.name}'; received '{name}'.")
    tensor = output_of(layer)
    if len(tensor.shape) != 4:
        raise ImpossibleModelError(f"A cut must have feature maps (n, h, w, channels); '{name}' gives {tensor.shape}.")
    return tensor
