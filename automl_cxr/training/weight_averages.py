"""Averages of weights over gradient steps, which are validated and saved while training continues from the weights.

Keras' optimizers compute the averages (``use_ema``). The averages of batch normalisation's statistics are not among them: these
follow the data with a similar delay already (``model/batchnorm.py``).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import keras


@contextlib.contextmanager
def averaged_weights(network: keras.Model) -> Iterator[None]:
    """Replace the weights of a compiled network by their averages within the context, if its optimizer computes them."""
    if not network.optimizer.use_ema:
        yield
        return
    trained = network.trainable_variables
    weights = [keras.ops.convert_to_numpy(variable.value) for variable in trained]
    network.optimizer.finalize_variable_values(trained)
    # With JAX, a variable and its average are now one array, which a prediction may delete because it donates its inputs.
    for variable in trained:
        variable.assign(keras.ops.copy(variable.value))
    try:
        yield
    finally:
        for variable, value in zip(trained, weights, strict=True):
            variable.assign(value)


class KeepWeights(keras.callbacks.Callback):
    """Prevents that ``fit``, which trains one epoch of several, replaces the weights by their averages at its end."""

    def on_epoch_end(self, epoch: int, logs: object = None) -> None:
        self._uses_averages = self.model.optimizer.use_ema
        self.model.optimizer.use_ema = False

    def on_train_end(self, logs: object = None) -> None:
        self.model.optimizer.use_ema = self._uses_averages
