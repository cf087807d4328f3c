"""The Keras model that trains stacked heads, and the reuse of compiled models.

Heads with the same number of layers form stacks, in which a layer is one batched matrix product. Their layers are padded to
the width of the widest head of the stack (``stack_grouping``). The weights, outputs and gradients of a padded unit are 0, so
that every optimizer leaves its weights at 0. All stacks are traced and trained as one model.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from automl_cxr.config import TrialConfig
from automl_cxr.training.compilation import jit_compile
from automl_cxr.training.datasets import FeaturePart
from automl_cxr.training.stack_grouping import HeadShape, HeadState, vectors_of
from automl_cxr.training.stacked_losses import LOSSES_OF_TASK
from automl_cxr.training.stacked_optimizer import N_COUNTERS, moments_per_weight, per_head_optimizer

_PREDICTION_BATCH = 1024  # feature vectors
_MAX_IDLE_MODELS = 2  # compiled models without heads that a process keeps for further heads

Key = tuple[tuple[HeadShape, HeadShape], ...]
"""The padded and the original shape of each head of a model."""

_idle_models: OrderedDict[Key, StackedModel] = OrderedDict()  # the most recently used model is the last


def acquire_model(key: Key) -> StackedModel:
    """Return a compiled model for heads of these shapes; an idle one is reused if possible."""
    idle = _idle_models.pop(key, None)
    if idle is not None:
        return idle
    stacks = [Stack(padded, [own for _, own in pairs]) for padded, pairs in itertools.groupby(key, key=lambda pair: pair[0])]
    model = StackedModel(stacks)
    optimizer = per_head_optimizer(stacks[0].shape.optimizer, stacks)
    model.compile(optimizer=optimizer, jit_compile=jit_compile())
    optimizer.build(model.trainable_variables)
    return model


def release_model(key: Key, model: StackedModel) -> None:
    """Make a compiled model available to further heads."""
    _idle_models[key] = model
    while len(_idle_models) > _MAX_IDLE_MODELS:
        _idle_models.popitem(last=False)


class Stack(keras.layers.Layer):
    """Heads of one padded shape. The first axis of every array is the head.

    Args:
        shape: The padded shape.
        own: The shape of each head.
    """

    def __init__(self, shape: HeadShape, own: Sequence[HeadShape]) -> None:
        super().__init__()
        self.shape = shape
        self.own = list(own)
        self.n_heads = len(own)
        self._kernels, self._biases = [], []
        for n_in, n_out in shape.layers:  # in the order in which Keras lists the weights of a head
            self._kernels.append(self._variable((n_in, n_out), trainable=True))
            self._biases.append(self._variable((1, n_out), trainable=True))
        self._dropout = self._variable((1, 1))
        self._task_loss = LOSSES_OF_TASK[shape.task](shape.n_classes, self._variable)
        self.loss_sums = self._variable(())
        self.built = True

    def _variable(self, shape: tuple[int, ...], *, trainable: bool = False) -> keras.Variable:
        return self.add_weight(shape=(self.n_heads, *shape), initializer="zeros", trainable=trainable, dtype="float32")

    @property
    def n_masks(self) -> int:
        """Number of dropout masks that are drawn in a step."""
        return self.n_heads * len(self.shape.dropped)

    # --------------------------------------------------------------------------------------------- compiled computation

    def call(self, vectors: object, seeds: object = None) -> object:
        """Compute logits (p, b, n_classes) from vectors (p, b, n_features), or (1, b, n_features) if all heads share them.

        Args:
            vectors: Feature vectors.
            seeds: Seed of each dropout mask, (n_masks, 2), those of the first head first; None for predictions.
        """
        x = vectors
        n_hidden = len(self.shape.widths)
        if n_hidden == 0:
            x = self._drop(x, 0, seeds)
        for number in range(n_hidden):
            x = ops.relu(ops.matmul(x, self._kernels[number]) + self._biases[number])
            x = self._drop(x, number, seeds)
        return ops.matmul(x, self._kernels[-1]) + self._biases[-1]

    def _drop(self, x: object, number: int, seeds: object) -> object:
        """Apply dropout to x (p, b, width); the mask of each head is the one for its width without padding."""
        if seeds is None or not self.shape.has_dropout:
            return x
        n_rows, width = x.shape[1:]
        n_layers = len(self.shape.dropped)
        masks = []
        for head, own in enumerate(self.own):
            n_own = own.dropped[number]
            drawn = keras.random.uniform((n_rows * n_own,), seed=_InputSeed(seeds[head * n_layers + number]))
            drawn = ops.reshape(drawn, (n_rows, n_own))
            masks.append(drawn if n_own == width else ops.pad(drawn, ((0, 0), (0, width - n_own))))
        is_retained = _is_retained(ops.stack(masks), self._dropout)
        return ops.where(is_retained, x / (1 - self._dropout), 0.0)

    def probabilities(self, vectors: object) -> object:
        """Predict vectors, (1, b, n_features): probabilities (p, b, n_classes)."""
        return self._task_loss.probabilities(self(vectors))

    def loss(self, targets: object, logits: object, weights: object, n_rows: object) -> object:
        """Return the sum of the mean losses of the heads; the gradient of each head depends only on its loss."""
        losses = self._task_loss.values(targets, logits, weights)
        self.loss_sums.assign_add(ops.sum(losses, axis=1))
        return ops.sum(losses) / n_rows[0]

    # ------------------------------------------------------------------------------------------------ values of the heads

    def load(self, configs: Sequence[TrialConfig], states: Sequence[HeadState]) -> None:
        """Assign the weights and the settings of the heads."""
        for index, variable in enumerate(self.trainable_variables):
            _assign_padded(variable, [state.weights[index] for state in states])
        _assign_numbers(self._dropout, [config.dropout for config in configs])
        for variable, values in self._task_loss.settings(configs):
            _assign_numbers(variable, values)


class StackedModel(keras.Model):
    """Stacks of heads, in the order of ``StackedHeads``."""

    def __init__(self, stacks: Sequence[Stack]) -> None:
        super().__init__(name="heads")
        self.stacks = list(stacks)
        ends = np.cumsum([0, *(stack.n_heads for stack in stacks)])
        self._slices = [slice(int(first), int(end)) for first, end in itertools.pairwise(ends)]
        self.built = True

    def call(self, inputs: dict[str, object]) -> list[object]:
        """Compute the logits (p_stack, b, n_classes) of each stack for a batch, with dropout."""
        vectors, seeds = inputs["vectors"], inputs["seeds"]
        ends = itertools.accumulate((stack.n_masks for stack in self.stacks), initial=0)
        return [
            stack(vectors[own], seeds=seeds[first : first + stack.n_masks])
            for stack, own, first in zip(self.stacks, self._slices, ends, strict=False)
        ]

    def compute_loss(
        self, x: object = None, y: object = None, y_pred: object = None, sample_weight: object = None, training: bool = True
    ) -> object:
        """Sum the losses of all heads."""
        logits_of_stacks = zip(self.stacks, self._slices, y_pred, strict=True)
        return sum(stack.loss(y[own], logits, sample_weight[own], x["n_rows"]) for stack, own, logits in logits_of_stacks)

    def load(self, configs: Sequence[TrialConfig], states: Sequence[HeadState]) -> None:
        """Assign the values of heads, in the order of the stacks."""
        self.optimizer.iterations.assign(states[0].n_steps)
        moments = self._moments()
        for number, (stack, own) in enumerate(zip(self.stacks, self._slices, strict=True)):
            stack.load(configs[own], states[own])
            _assign_numbers(self.optimizer.decays[number], [config.weight_decay for config in configs[own]])
            _assign_numbers(self.optimizer.limits[number], [config.gradient_clip or np.inf for config in configs[own]])
            for index, variable in enumerate(moments[number]):
                _assign_padded(variable, [state.moments[index] for state in states[own]])

    def start_epoch(self) -> None:
        """Reset the sums of losses."""
        for stack in self.stacks:
            stack.loss_sums.assign(np.zeros(stack.n_heads))

    def set_learning_rates(self, learning_rates: np.ndarray) -> None:
        """Set the learning rate of each head, in the order of the stacks."""
        for rates, own in zip(self.optimizer.rates, self._slices, strict=True):
            _assign_numbers(rates, learning_rates[own])

    def copy_arrays(self, *, are_moments: bool) -> list[list[np.ndarray]]:
        """Copy the padded weights, or moments, of each head."""
        lists = self._moments() if are_moments else [stack.trainable_variables for stack in self.stacks]
        heads = []
        for stack, variables in zip(self.stacks, lists, strict=True):
            arrays = to_numpy(variables)
            heads += [[array[head] for array in arrays] for head in range(stack.n_heads)]
        return heads

    def _moments(self) -> list[list[keras.Variable]]:
        """Return the optimizer's variables for each stack."""
        n_moments = moments_per_weight(self.stacks[0].shape.optimizer)
        remaining = iter(self.optimizer.variables[N_COUNTERS:])
        return [list(itertools.islice(remaining, n_moments * len(stack.trainable_variables))) for stack in self.stacks]

    @property
    def loss_sums(self) -> np.ndarray:
        """The sum of the losses of each head over the images of the epoch, float32 (p,)."""
        return np.concatenate([ops.convert_to_numpy(stack.loss_sums.value) for stack in self.stacks])

    def probabilities(self, part: FeaturePart) -> np.ndarray:
        """Predict a part: float32 (p, n, n_classes)."""
        predicted = []
        for first in range(0, len(part.rows), _PREDICTION_BATCH):
            vectors = vectors_of(part, np.arange(first, min(first + _PREDICTION_BATCH, len(part.rows))))
            tensor = ops.convert_to_tensor(vectors[None])
            predicted.append(np.concatenate([ops.convert_to_numpy(stack.probabilities(tensor)) for stack in self.stacks]))
        return np.concatenate(predicted, axis=1)


def _assign_numbers(variable: keras.Variable, numbers: Sequence[Any]) -> None:
    """Assign one number for each head to a variable (p, 1, 1), or one row to a variable (p, 1, n)."""
    variable.assign(np.reshape(np.asarray(numbers, variable.dtype), variable.shape))


def _assign_padded(variable: keras.Variable, arrays: Sequence[np.ndarray]) -> None:
    """Assign one array for each head to a variable, padded with 0."""
    padded = np.zeros(variable.shape, variable.dtype)
    for own, array in zip(padded, arrays, strict=True):
        own[(0,) * (own.ndim - array.ndim)][tuple(map(slice, array.shape))] = array
    variable.assign(padded)


class _InputSeed(keras.random.SeedGenerator):
    """A seed that is an input of the compiled computation."""

    def __init__(self, seed: object) -> None:  # without the counter variable of Keras' seed generator
        self._seed = seed

    def next(self, ordered: bool = True) -> object:
        return self._seed


def _is_retained(drawn: object, rate: object) -> object:
    """Return which units dropout retains, given uniform random numbers in [0, 1), as in the dropout of the backend."""
    return drawn < 1 - rate if keras.backend.backend() == "jax" else drawn >= rate


def to_numpy(variables: Sequence[keras.Variable]) -> list[np.ndarray]:
    """Copy the values of variables."""
    return [ops.convert_to_numpy(variable.value) for variable in variables]
