"""The optimizer of stacked heads: each head has its own learning rate, weight decay and limit of the gradient."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Protocol

import keras
import numpy as np
from keras import ops

from automl_cxr.training.losses import OPTIMIZERS
from automl_cxr.training.stack_grouping import HeadShape

N_COUNTERS = 2
"""The first variables of a Keras optimizer: the number of steps and the learning rate."""

_SMALLEST_NORM = 1e-30  # of a gradient, instead of 0


class HeadStack(Protocol):
    """The heads of one stack, see ``stacked_model.Stack``."""

    shape: HeadShape
    n_heads: int
    trainable_variables: list[keras.Variable]


def per_head_optimizer(name: str, stacks: Sequence[HeadStack]) -> keras.optimizers.Optimizer:
    """Build an optimizer with a learning rate, a decoupled weight decay and a largest gradient norm for each head."""
    kind, settings = OPTIMIZERS["adam" if name == "adamw" else name]  # AdamW is Adam with the decay that is implemented here
    stack_of = [number for number, stack in enumerate(stacks) for _ in stack.trainable_variables]

    class PerHeadOptimizer(kind):
        def build(self, variables: Sequence[keras.Variable]) -> None:
            super().build(variables)
            # These are variables of the optimizer. JAX would treat the values of variables of the model as constants here.
            shapes = [(stack.n_heads, 1, 1) for stack in stacks]
            self.rates = [self.add_variable(shape, name="rates") for shape in shapes]
            self.decays = [self.add_variable(shape, name="decays") for shape in shapes]
            self.limits = [self.add_variable(shape, name="limits") for shape in shapes]

        def apply(self, grads: Sequence[object], trainable_variables: Sequence[keras.Variable] | None = None) -> None:
            super().apply(self._clip(grads), trainable_variables)

        def _clip(self, gradients: Sequence[object]) -> list[object]:
            """Scale the gradient of each head whose norm over all weights exceeds its limit, as ``global_clipnorm`` does."""
            scales: dict[int, object] = {}
            for number, stack in enumerate(stacks):
                if stack.shape.has_clip:
                    own = [gradient for gradient, of in zip(gradients, stack_of, strict=True) if of == number]
                    squares = sum(ops.sum(ops.square(gradient), axis=(1, 2), keepdims=True) for gradient in own)
                    scales[number] = ops.minimum(1.0, self.limits[number] / ops.maximum(ops.sqrt(squares), _SMALLEST_NORM))
            return [
                gradient * scales[of] if of in scales else gradient for gradient, of in zip(gradients, stack_of, strict=True)
            ]

        def update_step(self, gradient: object, variable: keras.Variable, learning_rate: object) -> None:
            number = stack_of[self._get_variable_index(variable)]
            if stacks[number].shape.has_decay:
                self.assign_sub(variable, variable * self.decays[number] * self.rates[number])
            super().update_step(gradient, variable, self.rates[number])

    return PerHeadOptimizer(**settings)


@functools.cache
def moments_per_weight(name: str) -> int:
    """Return the number of arrays that an optimizer stores for each weight."""
    weight = keras.Variable(np.zeros(1, np.float32))
    kind, settings = OPTIMIZERS[name]
    optimizer = kind(**settings)
    optimizer.build([weight])
    return len(optimizer.variables) - N_COUNTERS
