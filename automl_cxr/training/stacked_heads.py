"""Heads trained together in one computation on arrays whose first axis is the head; results equal those of separate training.

The heads share an optimizer and the number of images per step. They may differ in layers, learning rate and schedule, dropout
rate, loss, weight decay, limit of the gradient, image weights and seed. The seed of a head determines its image order, dropout
masks and initial weights. Therefore its result equals that of ``trainer.Training`` except for the rounding of sums.

Heads with the same number of layers form stacks, in which a layer is one batched matrix product. Their layers are padded to
the width of the widest head of the stack (``stack_grouping``). The weights, outputs and gradients of a padded unit are 0, so
that every optimizer leaves its weights at 0. All stacks are traced and trained as one Keras model.
"""

from __future__ import annotations

import functools
import itertools
from collections import OrderedDict
from collections.abc import Sequence

import keras
import numpy as np
from keras import ops

from automl_cxr.config import TrialConfig
from automl_cxr.training.compilation import jit_compile
from automl_cxr.training.datasets import FeaturePart
from automl_cxr.training.losses import OPTIMIZERS, focal_alphas
from automl_cxr.training.sampling import epoch_order, image_weights
from automl_cxr.training.stack_grouping import HeadShape, HeadState, StackGroup, can_be_stacked, pad_shapes, vectors_of

_PREDICTION_BATCH = 1024  # feature vectors
_COUNTERS = 2  # the first variables of a Keras optimizer: the number of steps and the learning rate
_SMALLEST_NORM = 1e-30  # of a gradient, instead of 0
_MAX_IDLE_MODELS = 2  # compiled models without heads that a process keeps for further heads


def untrained_state(model: keras.Model, config: TrialConfig) -> HeadState:
    """Copy the state of the head of a network in which only the head is trainable."""
    weights = _to_numpy(model.trainable_variables)
    return HeadState(
        weights=weights,
        moments=[np.zeros_like(array) for array in weights for _ in range(_moments_per_weight(config.optimizer))],
        n_steps=0,
        seeds=_to_numpy(seed_states(model)),
    )


def seed_states(model: keras.Model) -> list[keras.Variable]:
    """Return the seed generator states of a head's dropout layers."""
    return [layer.seed_generator.state for layer in model.layers if isinstance(layer, keras.layers.Dropout)]


class StackedHeads:
    """Heads whose training steps are computed together.

    Args:
        configs: Configurations of heads of one ``stack_group_of``, at most as many as in one part of ``divide_stack_group``.
        states: The state of each head.
        group: Their group.

    Raises:
        NotImplementedError: A loss, an optimizer or averages of weights are not implemented for stacked heads.
    """

    def __init__(self, configs: Sequence[TrialConfig], states: Sequence[HeadState], group: StackGroup) -> None:
        for config in configs:
            if not can_be_stacked(config):
                raise NotImplementedError(
                    "Stacked heads must have a loss and an optimizer of stack_grouping.py and no averages of weights; received "
                    f"loss={config.loss}, optimizer={config.optimizer} and weight_average={config.weight_average}. Train this "
                    "head separately."
                )
        shapes = [HeadShape.of(config, group.n_features, group.n_classes) for config in configs]
        padded = pad_shapes(shapes)
        order = sorted(range(len(configs)), key=lambda head: (padded[head], shapes[head]))  # heads of a stack are adjacent
        self._order, self._positions = order, np.argsort(order)
        self._configs = [configs[head] for head in order]
        self._seeds = [[seed.copy() for seed in states[head].seeds] for head in order]
        self._shapes = [[array.shape for array in (*states[head].weights, *states[head].moments)] for head in order]
        self._n_steps = group.n_steps_so_far
        self._group = group
        self._key = tuple((padded[head], shapes[head]) for head in order)
        self._model = _acquire_model(self._key)
        self._model.load(self._configs, [states[head] for head in order])
        self._copies: dict[bool, list[list[np.ndarray]]] = {}  # weights, or moments, of all heads since the last step

    def train_epoch(self, train: FeaturePart, *, epoch: int, learning_rates: np.ndarray) -> np.ndarray:
        """Train an epoch of each head.

        Args:
            train: The training part.
            epoch: Number of the epoch, from 1, which determines the order of the images.
            learning_rates: Learning rate of each head in each step of this epoch, (n, n_steps); 0 for a head that is not to be
                trained.

        Returns:
            The mean training loss of each head (n,). The loss of a head that has diverged is NaN; other heads are not affected.
        """
        group, model = self._group, self._model
        batches = _Batches(train, group.n_classes, self._configs, epoch=epoch)
        rates = np.asarray(learning_rates, np.float32)[self._order]
        model.start_epoch()
        for step in range(group.n_steps):
            if step == 0 or (rates[:, step] != rates[:, step - 1]).any():
                model.set_learning_rates(rates[:, step])
            vectors, targets, weights, n_rows = batches[step]
            inputs = {"vectors": vectors, "n_rows": np.full(1, n_rows, np.float32), "seeds": self._seeds_of_step(step)}
            model.train_on_batch(inputs, targets, sample_weight=weights)
        self._copies = {}
        self._n_steps += group.n_steps
        for seeds in itertools.chain.from_iterable(self._seeds):
            seeds[1] += group.n_steps
        return (model.loss_sums / group.n_images)[self._positions]

    def probabilities(self, part: FeaturePart) -> np.ndarray:
        """Predict a part: float32 (n, n_rows, n_classes); the predictions of a head that has diverged are NaN."""
        return self._model.probabilities(part)[self._positions]

    def weights(self, head: int) -> list[np.ndarray]:
        """Copy the weights of a head."""
        return self._copy_unpadded(head, are_moments=False)

    def state(self, head: int) -> HeadState:
        """Copy the state of a head."""
        seeds = [seed.copy() for seed in self._seeds[self._positions[head]]]
        return HeadState(self.weights(head), self._copy_unpadded(head, are_moments=True), self._n_steps, seeds)

    def close(self) -> None:
        """Make the compiled model available to other heads; this object must not be used afterwards."""
        _release_model(self._key, self._model)

    def _seeds_of_step(self, step: int) -> np.ndarray:
        """Return the seed of each dropout mask in a step of an epoch, (n_masks, 2), incremented in each step as Keras does."""
        seeds = np.array([seed for own in self._seeds for seed in own], _seed_dtype()).reshape(-1, 2)
        seeds[:, 1] += step
        return seeds

    def _copy_unpadded(self, head: int, *, are_moments: bool) -> list[np.ndarray]:
        if are_moments not in self._copies:
            self._copies[are_moments] = self._model.copy_arrays(are_moments=are_moments)
        position = self._positions[head]
        arrays, shapes = self._copies[are_moments][position], self._shapes[position]
        own = shapes[-len(arrays) :] if are_moments and arrays else shapes[: len(arrays)]
        return [_remove_padding(array, shape) for array, shape in zip(arrays, own, strict=True)]


class _Batches:
    """Batches of one epoch for p heads: vectors (p, b, n_features), targets (p, b, n_classes), weights (p, b), n_rows.

    The last batch is padded with images of weight 0, because another batch size would require tracing another graph.
    ``n_rows`` is the number of images without the padding.
    """

    def __init__(self, part: FeaturePart, n_classes: int, configs: Sequence[TrialConfig], *, epoch: int) -> None:
        self._part = part
        self._targets = np.eye(n_classes, dtype=np.float32)[part.labels]
        self._order = np.stack([epoch_order(part.labels, n_classes, config, epoch=epoch) for config in configs])
        self._size = min(configs[0].batch_size, self._order.shape[1])
        self._weights = np.stack([image_weights(part.labels, n_classes, config) for config in configs])

    def __getitem__(self, step: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
        shown = self._order[:, step * self._size : (step + 1) * self._size]
        n_rows = shown.shape[1]
        positions = np.take(shown, np.arange(self._size) % n_rows, axis=1)
        weights = np.take_along_axis(self._weights, positions, axis=1)
        weights[:, n_rows:] = 0
        vectors = vectors_of(self._part, positions.ravel())
        return vectors.reshape(*positions.shape, -1), self._targets[positions], weights, n_rows


_Key = tuple[tuple[HeadShape, HeadShape], ...]  # the padded and the original shape of each head

_idle_models: OrderedDict[_Key, _StackedModel] = OrderedDict()  # the most recently used model is the last


def _acquire_model(key: _Key) -> _StackedModel:
    """Return a compiled model for heads of these shapes; an idle one is reused if possible."""
    idle = _idle_models.pop(key, None)
    if idle is not None:
        return idle
    stacks = [_Stack(padded, [own for _, own in pairs]) for padded, pairs in itertools.groupby(key, key=lambda pair: pair[0])]
    model = _StackedModel(stacks)
    optimizer = _per_head_optimizer(stacks[0].shape.optimizer, stacks)
    model.compile(optimizer=optimizer, jit_compile=jit_compile())
    optimizer.build(model.trainable_variables)
    return model


def _release_model(key: _Key, model: _StackedModel) -> None:
    _idle_models[key] = model
    while len(_idle_models) > _MAX_IDLE_MODELS:
        _idle_models.popitem(last=False)


def _per_head_optimizer(name: str, stacks: Sequence[_Stack]) -> keras.optimizers.Optimizer:
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
def _moments_per_weight(name: str) -> int:
    """Return the number of arrays that an optimizer stores for each weight."""
    weight = keras.Variable(np.zeros(1, np.float32))
    kind, settings = OPTIMIZERS[name]
    optimizer = kind(**settings)
    optimizer.build([weight])
    return len(optimizer.variables) - _COUNTERS


class _Stack(keras.layers.Layer):
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
        self._dropout, self._smoothing = self._variable((1, 1)), self._variable((1, 1))
        self._is_focal, self._gamma, self._alpha = (self._variable((1, n)) for n in (1, 1, shape.n_classes))
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

    def loss(self, targets: object, logits: object, weights: object, n_rows: object) -> object:
        """Return the sum of the mean losses of the heads; the gradient of each head depends only on its loss."""
        probabilities = keras.activations.softmax(logits)
        targets = targets * (1 - self._smoothing) + self._smoothing / self.shape.n_classes
        cross_entropy = ops.categorical_crossentropy(targets, probabilities)
        focal = self._focal_loss(targets, probabilities)
        losses = ops.where(self._is_focal[..., 0] > 0, focal, cross_entropy) * weights
        self.loss_sums.assign_add(ops.sum(losses, axis=1))
        return ops.sum(losses) / n_rows[0]

    def _focal_loss(self, targets: object, probabilities: object) -> object:
        """Compute ``keras.losses.CategoricalFocalCrossentropy`` with a separate gamma and alpha for each head."""
        epsilon = keras.config.epsilon()
        normalised = probabilities / ops.sum(probabilities, axis=-1, keepdims=True)
        clipped = ops.clip(normalised, epsilon, 1 - epsilon)
        return ops.sum(self._alpha * ops.power(1 - clipped, self._gamma) * -targets * ops.log(clipped), axis=-1)

    # ------------------------------------------------------------------------------------------------ values of the heads

    def load(self, configs: Sequence[TrialConfig], states: Sequence[HeadState]) -> None:
        """Assign the weights and the settings of the heads."""
        for index, variable in enumerate(self.trainable_variables):
            _assign_padded(variable, [state.weights[index] for state in states])
        for variable, numbers in (
            (self._dropout, [config.dropout for config in configs]),
            (self._smoothing, [config.label_smoothing for config in configs]),
            (self._is_focal, [config.loss == "focal" for config in configs]),
            (self._gamma, [config.focal_gamma for config in configs]),
        ):
            _assign_numbers(variable, numbers)
        _assign_padded(self._alpha, [np.array([focal_alphas(config, self.shape.n_classes)]) for config in configs])


class _StackedModel(keras.Model):
    """Stacks of heads, in the order of ``StackedHeads``."""

    def __init__(self, stacks: Sequence[_Stack]) -> None:
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
            arrays = _to_numpy(variables)
            heads += [[array[head] for array in arrays] for head in range(stack.n_heads)]
        return heads

    def _moments(self) -> list[list[keras.Variable]]:
        """Return the optimizer's variables for each stack."""
        n_moments = _moments_per_weight(self.stacks[0].shape.optimizer)
        remaining = iter(self.optimizer.variables[_COUNTERS:])
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
            logits = [stack(tensor) for stack in self.stacks]
            predicted.append(np.concatenate([ops.convert_to_numpy(ops.softmax(one)) for one in logits]))
        return np.concatenate(predicted, axis=1)


def _assign_numbers(variable: keras.Variable, numbers: Sequence[float]) -> None:
    """Assign one number for each head to a variable (p, 1, 1)."""
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


@functools.cache
def _seed_dtype() -> str:
    return keras.random.SeedGenerator(0).state.dtype


def _is_retained(drawn: object, rate: object) -> object:
    """Return which units dropout retains, given uniform random numbers in [0, 1), as in the dropout of the backend."""
    return drawn < 1 - rate if keras.backend.backend() == "jax" else drawn >= rate


def _to_numpy(variables: Sequence[keras.Variable]) -> list[np.ndarray]:
    return [ops.convert_to_numpy(variable.value) for variable in variables]


def _remove_padding(padded: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Copy the array of the given shape from a padded array (rows, columns)."""
    return padded[(0,) * (padded.ndim - len(shape))][tuple(map(slice, shape))].copy()
