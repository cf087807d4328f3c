"""Compiled networks that a process keeps from trial to trial.

Tracing a network's graph takes longer than a short training. It depends on the network's structure alone, so a trial trains
a twin that an earlier trial has left, if there is one whose structure is that of its own network. Values that trials differ
in (weights, random states, rates, the loss's settings) are variables of the graph, and all of them are set when a phase of a
training begins: it comes out as one whose graph is traced anew does, to the last bit.
"""

from __future__ import annotations

import contextlib
import math
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np

from automl_cxr.config import TrialConfig
from automl_cxr.errors import TrialError
from automl_cxr.model.available_memory import available_memory_bytes
from automl_cxr.model.devices import data_parallel, has_gpu, n_devices
from automl_cxr.training.checkpoint import variable_values
from automl_cxr.training.compiled_clone import CompiledClone, structure_of
from automl_cxr.training.losses import AdjustableLoss, build_optimizer, renew_optimizer, takes_decay

_MOST_KEPT = 8  # each keeps 10 to 50 MiB of graphs beside its variables
_SHARE = 1 / 16  # of the memory, for the variables of all that are kept

Batch = tuple[Any, np.ndarray, np.ndarray]
"""Inputs, one-hot labels and weights of some images."""

_kept: OrderedDict[str, CompiledNetwork] = OrderedDict()  # by what they have in common; the last one used at the end


class CompiledNetwork:
    """A network's twin that is compiled, or the network itself where there is no room for a twin.

    Attributes:
        model: What fits and predicts.
    """

    def __init__(self, network: keras.Model, config: TrialConfig, *, learning_rate: float, has_twin: bool) -> None:
        self._twin = CompiledClone(network) if has_twin else None
        self._is_traced = False
        self.model = network if self._twin is None else self._twin.model
        self._loss = AdjustableLoss(config, network.output_shape[-1])
        optimizer = build_optimizer(config, learning_rate=learning_rate)
        self.model.compile(optimizer=optimizer, loss=self._loss, jit_compile=jit_compile())
        optimizer.build(self.model.trainable_variables)
        if self._twin is not None:
            self.model.settings_of_loss = self._loss.variables  # JAX takes what no layer or model holds for constants

    @property
    def n_bytes(self) -> int:
        """Bytes of its variables."""
        return _n_bytes([*self.model.variables, *self.model.optimizer.variables])

    def trace(self, batches: Sequence[Batch]) -> None:
        """Trace a training step for batches of any size, before the values count; afterwards nothing is traced.

        TensorFlow traces the first size that it meets for itself and the second one for all others, and these graphs round
        differently. So both are traced at once, lest the last digits of a trial depend on those before it.
        """
        if self._is_traced or not batches:
            return
        values = variable_values(self.model.variables)
        for inputs, targets, weights in batches:
            self.model.train_on_batch(inputs, targets, sample_weight=weights)
        for variable, value in zip(self.model.variables, values, strict=True):
            variable.assign(value)
        self._is_traced = True

    def begin(self, network: keras.Model, config: TrialConfig, *, learning_rate: float) -> None:
        """Take the values of a network and of a configuration, with an optimizer that has not run."""
        self._loss.adjust(config)
        renew_optimizer(self.model.optimizer, config, learning_rate=learning_rate)
        self.take(network)

    def take(self, network: keras.Model) -> None:
        """Take the variables of a network."""
        if self._twin is not None:
            self._twin.take(network)

    def give(self, network: keras.Model) -> None:
        """Give what has been trained to a network."""
        if self._twin is not None:
            self._twin.give(network)


@contextlib.contextmanager
def compiled_network(
    network: keras.Model, config: TrialConfig, *, learning_rate: float, batches: Sequence[Batch] = ()
) -> Iterator[CompiledNetwork]:
    """Lend a compiled twin of a network, with its values, to one training; afterwards it is kept for others.

    A twin is lent once at a time. After an error all that are kept are forgotten: it may have been for want of memory.

    Args:
        network: A functional model; the layers that train are chosen.
        config: Loss and optimizer.
        learning_rate: Step size at the start.
        batches: Two of different sizes, where it is to be trained by ``train_on_batch`` on TensorFlow.

    Raises:
        ImpossibleModelError: The loss does not fit the network.
    """
    room = _SHARE * (available_memory_bytes() or math.inf)
    has_twin = keras.backend.backend() != "torch" and 4 * _n_bytes(network.variables) < room  # PyTorch traces nothing
    common = _common(network, config) if has_twin else ""
    with data_parallel():
        compiled = _kept.pop(common, None) or CompiledNetwork(network, config, learning_rate=learning_rate, has_twin=has_twin)
        compiled.trace(batches)
        compiled.begin(network, config, learning_rate=learning_rate)
    try:
        yield compiled
    except TrialError:
        raise  # the network was at fault
    except Exception:
        has_twin = False  # it may have been for want of memory
        _kept.clear()
        raise
    finally:
        if has_twin:
            _keep(common, compiled, room)


def _keep(common: str, compiled: CompiledNetwork, room: float) -> None:
    """Keep a network, and forget those that were used least recently where there are too many or they are too large."""
    _kept[common] = compiled
    while len(_kept) > _MOST_KEPT or sum(kept.n_bytes for kept in _kept.values()) > room:
        _kept.popitem(last=False)


def _common(network: keras.Model, config: TrialConfig) -> str:
    """Name all that is built into the graphs of a compiled network."""
    structural = (config.loss, config.optimizer, takes_decay(config), config.gradient_accumulation, n_devices())
    return f"{structure_of(network)} {structural}"


def _n_bytes(variables: list[keras.Variable]) -> int:
    return sum(math.prod(variable.shape) * (2 if "16" in variable.dtype else 4) for variable in variables)


def jit_compile() -> bool | str:
    """Leave XLA to Keras, except for TensorFlow on a CPU: there it costs 15 s a model and its steps are no faster."""
    return False if keras.backend.backend() == "tensorflow" and not has_gpu() else "auto"
