"""Reading the graph of a functional Keras model and running its layers on other tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
from keras import layers

from automl_cxr.errors import ImpossibleModelError
from automl_cxr.model.keras_private import call_arguments, call_inputs, call_output, n_calls, producer


def _call(operation: keras.Operation, *args: Any, **kwargs: Any) -> keras.KerasTensor:
    return operation(*args, **kwargs)


def replay(
    network: keras.Model,
    given: Mapping[int, keras.KerasTensor],
    call: Callable[..., keras.KerasTensor] = _call,
) -> keras.KerasTensor:
    """Run the layers of a network again, starting from other tensors.

    ``keras.Model`` of tensors within a network does the same, but the names of its inputs depend on what was built before.

    Args:
        network: A functional model with one output.
        given: New tensors by the ``id`` of the tensors of the network that they replace. Layers that only lead to these
            tensors are skipped.
        call: Runs one layer: takes the layer and its arguments, returns its output. By default it calls the layer. Other calls
            of a layer that the network contains several times, such as a backbone for the mirror image, are made without it.

    Returns:
        The output of the network.
    """
    known = dict(given)
    for operation in network.operations:
        output = id(output_of(operation))
        if (
            output not in known
            and not isinstance(operation, layers.InputLayer)
            and all(id(source) in known for source in inputs_of(operation))
        ):
            args, kwargs = call_arguments(operation, known)
            known[output] = call(operation, *args, **kwargs)
    while id(network.outputs[0]) not in known:
        _run_further_calls(network, known, call)
    return known[id(network.outputs[0])]


def _run_further_calls(
    network: keras.Model, known: dict[int, keras.KerasTensor], call: Callable[..., keras.KerasTensor], *, every: bool = False
) -> None:
    """Make the calls whose inputs are known and whose outputs are not; the first of each layer, or ``every`` one, by ``call``.

    Raises:
        ValueError: There is no such call, so that the output of the network does not depend on the given tensors only.
    """
    n_known = len(known)
    for operation in network.operations:
        for number in range(0 if isinstance(operation, layers.InputLayer) else n_calls(operation)):
            output = id(call_output(operation, number))
            if output not in known and all(id(source) in known for source in call_inputs(operation, number)):
                args, kwargs = call_arguments(operation, known, number)
                known[output] = call(operation, *args, **kwargs) if every or number == 0 else operation(*args, **kwargs)
    if len(known) == n_known:
        raise ValueError(f"The output of '{network.name}' must depend on the given tensors only; it needs others. Give them.")


def expand(
    network: keras.Model, given: Mapping[int, keras.KerasTensor], call: Callable[..., keras.KerasTensor]
) -> list[keras.KerasTensor]:
    """Make every call of a network again, starting from other tensors, as ``replay`` does.

    Args:
        network: A functional model.
        given: As in ``replay``.
        call: Makes one call, also the further ones of a layer that the network contains several times.

    Returns:
        The outputs of the network.
    """
    known = dict(given)
    while not all(id(output) in known for output in network.outputs):
        _run_further_calls(network, known, call, every=True)
    return [known[id(output)] for output in network.outputs]


def inputs_of(operation: keras.Operation) -> Sequence[keras.KerasTensor]:
    """Return the input tensors of an operation of a network; none for an input layer."""
    return () if isinstance(operation, layers.InputLayer) else call_inputs(operation)


def output_of(operation: keras.Operation) -> keras.KerasTensor:
    """Return the output tensor of an operation of a network."""
    return call_output(operation)


def source_name(tensor: keras.KerasTensor) -> str:
    """Return the name of the layer that produced a tensor; for the output of a nested model, of the model's last layer."""
    operation = producer(tensor)
    return source_name(operation.outputs[0]) if isinstance(operation, keras.Model) else operation.name


def tensors_at(network: keras.Model, cuts: Sequence[str]) -> list[keras.KerasTensor]:
    """Return the feature maps of layers as tensors that depend on the input of the whole network.

    Args:
        network: A functional model.
        cuts: Names of layers; "backbone/layer" for a layer of a nested model.

    Raises:
        ImpossibleModelError: A layer does not exist, or its output is not (n, h, w, channels).
    """
    by_model: dict[str, list[str]] = {}
    for cut in cuts:
        outer, slash, inner = cut.partition("/")
        by_model.setdefault(outer if slash else "", []).append(inner if slash else outer)
    found: dict[str, keras.KerasTensor] = {}
    for outer, names in by_model.items():
        model = _nested_model(network, outer) if outer else network
        tensors = [_feature_maps(model, name) for name in names]
        if outer:
            (source,) = inputs_of(model)
            outputs = keras.Model(model.input, tensors if len(tensors) > 1 else tensors[0], name=f"{outer}_cut")(source)
            tensors = outputs if isinstance(outputs, (list, tuple)) else [outputs]
        found |= {f"{outer}/{name}" if outer else name: tensor for name, tensor in zip(names, tensors, strict=True)}
    return [found[cut] for cut in cuts]


def _nested_model(network: keras.Model, name: str) -> keras.Model:
    layer = next((layer for layer in network.layers if layer.name == name), None)
    if layer is None or not isinstance(layer, keras.Model):
        raise ImpossibleModelError(
            f"A cut within a backbone is written backbone/layer; '{network.name}' has no model '{name}'."
        )
    return layer


def _feature_maps(network: keras.Model, name: str) -> keras.KerasTensor:
    layer = next((layer for layer in network.layers if layer.name == name), None)
    if layer is None:
        raise ImpossibleModelError(f"A cut must name a layer of '{network.name}'; received '{name}'.")
    tensor = output_of(layer)
    if len(tensor.shape) != 4:
        raise ImpossibleModelError(f"A cut must have feature maps (n, h, w, channels); '{name}' gives {tensor.shape}.")
    return tensor
