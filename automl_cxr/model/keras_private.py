"""The undocumented names of Keras that this package uses.

No other module uses an undocumented name of Keras. tests/model/test_keras_private.py reports which of them is missing after an
update of Keras.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import keras
from keras.src.utils import module_utils
from keras.src.utils.naming import reset_uids


def n_calls(operation: keras.Operation) -> int:
    """Return how often an operation was called.

    Keras records each call of a layer. The first record belongs to the network that the layer was made for.
    """
    return len(operation._inbound_nodes)


def call_inputs(operation: keras.Operation, number: int = 0) -> Sequence[keras.KerasTensor]:
    """Return the tensors that an operation took in one of its calls, by default the first."""
    return operation._inbound_nodes[number].input_tensors


def call_output(operation: keras.Operation, number: int = 0) -> keras.KerasTensor:
    """Return the tensor that an operation returned in one of its calls, by default the first."""
    return operation._inbound_nodes[number].output_tensors[0]


def call_arguments(
    operation: keras.Operation, values: Mapping[int, keras.KerasTensor], number: int = 0
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the positional and keyword arguments of a call of an operation, with other tensors.

    Args:
        operation: The operation.
        values: The new tensor for each tensor of the call, by its ``id``.
        number: Number of the call, by default the first.
    """
    return operation._inbound_nodes[number].arguments.fill_in(values)


def constant_arguments(operation: keras.Operation) -> list[Any]:
    """Return the arrays among the positional arguments of an operation's first call, which are constants of the network."""
    arguments = operation._inbound_nodes[0].arguments.args
    return [value for value in arguments if hasattr(value, "shape") and not isinstance(value, keras.KerasTensor)]


def producer(tensor: keras.KerasTensor) -> keras.Operation:
    """Return the operation that returned a tensor."""
    return tensor._keras_history.operation


def restart_layer_numbers() -> None:
    """Make Keras number unnamed layers from the beginning, without the other effects of ``keras.utils.clear_session``."""
    reset_uids()


def skip_checks_for_tensorflow() -> None:
    """Make Keras skip its checks for objects of TensorFlow, unless TensorFlow is imported already.

    With every backend, Keras imports TensorFlow to seed it and, when a network is serialised, to recognise its types. The
    import takes 1.8 s of CPU time and 460 MiB in each process. Functions that use TensorFlow, such as exports, still import it.
    Keras' preprocessing layers for text, which need it, report that it is not installed.
    """
    if "tensorflow" not in sys.modules:
        module_utils.tensorflow._available = False


def is_gradient_accumulator(variable: keras.Variable) -> bool:
    """Return whether a variable of an optimizer holds accumulated gradients (``gradient_accumulation_steps``)."""
    return variable.path.endswith("gradient_accumulator")
