"""Heads that train together as one computation, stacked along a leading population axis, each as it would alone.

The heads of a population have one optimizer and one number of images a step. They differ in all else: layers, learning rate
and schedule, dropout rate, loss, weight decay, what images count, seed. Each sees the images in the order of its own seed,
under the dropout masks of its own seed, from the weights of its own seed; so it comes out as ``trainer.Training`` trains it
alone, but for the rounding of sums.

Heads of one number of layers make a stack, in which a layer is one product of three-dimensional arrays. Their layers are padded
to a common width. A padded unit has weights of 0, says 0 and gets gradients of 0, so that every optimizer leaves it at 0. All
stacks of a population are traced and stepped as one Keras model, which costs as much for many heads as for one.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import keras
import numpy as np
from keras import ops

from automl_cxr.config import TrialConfig
from automl_cxr.model.compiled import jit_compile
from automl_cxr.model.head import dropout_seeds, hidden_widths
from automl_cxr.model.losses import OPTIMIZERS, focal_alphas
from automl_cxr.model.parts import FeaturePart
from automl_cxr.model.sampling import epoch_order, image_weights, images_per_epoch
from automl_cxr.model.trainer import n_steps

_MOST_HEADS = 64  # of a population
_MOST_BYTES = 2**29  # of its weights, gradients and moments
_NUMBERS_PER_WEIGHT = 4  # itself, its gradient, two moments
_NARROWEST = 8  # units that a hidden layer is padded to, at least
_ROWS_AT_ONCE = 1024  # of vectors that a population looks at
_COUNTERS = 2  # variables that an optimizer lists first: the number of steps and the learning rate
_KEPT = 4  # compiled populations of this process


@dataclass(frozen=True, order=True)
class HeadShape:
    """What heads must share to be computed together.

    Attributes:
        n_features: Numbers in a vector.
        widths: Units of each hidden layer.
        n_classes: Numbers in an output.
        has_dropout: Whether there are dropout layers.
        has_decay: Whether weights decay.
        optimizer: ``TrialConfig.optimizer``.
    """

    n_features: int
    widths: tuple[int, ...]
    n_classes: int
    has_dropout: bool
    has_decay: bool
    optimizer: str

    @classmethod
    def of(cls, config: TrialConfig, n_features: int, n_classes: int) -> HeadShape:
        """Give the shape of a configuration's head."""
        return cls(
            n_features,
            hidden_widths(config),
            n_classes,
            has_dropout=bool(dropout_seeds(config)),
            has_decay=config.weight_decay > 0,
            optimizer=config.optimizer,
        )

    @property
    def padded(self) -> HeadShape:
        """The shape with each hidden layer as wide as the next power of two."""
        widths = tuple(max(_NARROWEST, 1 << (width - 1).bit_length()) for width in self.widths)
        return dataclasses.replace(self, widths=widths)

    @property
    def layers(self) -> tuple[tuple[int, int], ...]:
        """Inputs and units of each dense layer."""
        ends = (self.n_features, *self.widths, self.n_classes)
        return tuple(itertools.pairwise(ends))

    @property
    def n_parameters(self) -> int:
        return sum((n_in + 1) * n_out for n_in, n_out in self.layers)

    @property
    def dropped(self) -> tuple[int, ...]:
        """Inputs of each dropout layer: the hidden layers, or the vector where there is none."""
        if not self.has_dropout:
            return ()
        return self.widths or (self.n_features,)


@dataclass(frozen=True)
class Company:
    """What heads have in common that can train an epoch together."""

    n_features: int
    n_classes: int
    optimizer: str
    batch_size: int
    n_shown: int
    n_steps: int


@dataclass
class HeadState:
    """Everything of a head that its next epoch follows from.

    Attributes:
        weights: Kernel and bias of each dense layer, as Keras lists them.
        moments: What the optimizer keeps of them, as Keras lists it.
        n_steps: Gradient steps so far.
        seeds: State of the seed generator of each dropout layer, int (2,).
    """

    weights: list[np.ndarray]
    moments: list[np.ndarray]
    n_steps: int
    seeds: list[np.ndarray]


def untrained_state(model: keras.Model, config: TrialConfig) -> HeadState:
    """Copy the head of a network of which nothing else is trained."""
    weights = _to_numpy(model.trainable_variables)
    return HeadState(
        weights=weights,
        moments=[np.zeros_like(array) for array in weights for _ in range(_moments_each(config.optimizer))],
        n_steps=0,
        seeds=_to_numpy(seed_states(model)),
    )


def seed_states(model: keras.Model) -> list[keras.Variable]:
    """List the states of a head's dropout layers."""
    return [layer.seed_generator.state for layer in model.layers if isinstance(layer, keras.layers.Dropout)]


def train_together(
    configs: Sequence[TrialConfig],
    states: Sequence[HeadState],
    *,
    train: FeaturePart,
    valid: FeaturePart,
    n_classes: int,
    epoch: int,
    learning_rates: Sequence[float],
) -> tuple[np.ndarray, np.ndarray]:
    """Train an epoch of each head; the states are brought up to date.

    Args:
        configs: Of heads with one ``company_of``, no more than ``divide_company`` puts together.
        states: Of each head.
        train: What they learn from.
        valid: What they look at then.
        n_classes: Number of classes.
        epoch: Number of the epoch, from 1, which the order of the images follows from.
        learning_rates: Of each head in this epoch.

    Returns:
        The mean training loss of each head (n,), and their probabilities (n, n_valid, n_classes), float32. Those of a head that
        has diverged are NaN; it harms no other.
    """
    shapes = [HeadShape.of(config, n_features(train), n_classes).padded for config in configs]
    order = sorted(range(len(configs)), key=lambda place: shapes[place])  # which brings the heads of a stack together
    configs, states, rates = ([of[place] for place in order] for of in (configs, states, learning_rates))
    batches = _Batches(train, n_classes, configs, epoch=epoch)
    population = _compiled(tuple(sorted(Counter(shapes).items())), len(batches))
    population.load(configs, states, rates)
    population.fit(batches, verbose=0, shuffle=False)
    population.take_out(states, n_more_steps=len(batches))
    places = np.argsort(order)
    return (population.losses_of_heads / batches.n_shown)[places], population.probabilities(valid)[places]


def company_of(config: TrialConfig, state: HeadState, train: FeaturePart, n_classes: int) -> Company:
    """Tell which heads a head can train its next epoch with: those of equal company."""
    n_shown = int(images_per_epoch(train.labels, n_classes, config).sum())
    return Company(n_features(train), n_classes, config.optimizer, config.batch_size, n_shown, state.n_steps)


def divide_company(configs: Sequence[TrialConfig], company: Company) -> list[slice]:
    """Divide heads of one company into populations that fit into memory, of one head at least."""
    slices, first, n_bytes = [], 0, 0
    for place, config in enumerate(configs):
        own = 4 * _NUMBERS_PER_WEIGHT * HeadShape.of(config, company.n_features, company.n_classes).padded.n_parameters
        if place > first and (n_bytes + own > _MOST_BYTES or place - first == _MOST_HEADS):
            slices.append(slice(first, place))
            first, n_bytes = place, 0
        n_bytes += own
    return [*slices, slice(first, len(configs))]


def n_features(part: FeaturePart) -> int:
    """Count the numbers in a vector."""
    return sum(values.shape[1] for values in part.inputs)


def vectors_of(part: FeaturePart, positions: np.ndarray) -> np.ndarray:
    """Copy some vectors of a part, float32 (k, n_features); those of several branches are joined."""
    copied = part.batch(positions)
    return np.concatenate(copied, axis=1) if isinstance(copied, tuple) else copied


class _Batches(keras.utils.PyDataset):
    """Batches of one epoch: vectors (b, p, n_features), targets (b, p, n_classes) and weights (b, p), p heads side by side."""

    def __init__(self, part: FeaturePart, n_classes: int, configs: Sequence[TrialConfig], *, epoch: int) -> None:
        super().__init__()
        self._part = part
        self._targets = np.eye(n_classes, dtype=np.float32)[part.labels]
        self._batch_size = configs[0].batch_size
        orders = [epoch_order(part.labels, n_classes, config, epoch=epoch) for config in configs]
        self._order = np.stack(orders, axis=1)
        self._weights = np.stack([image_weights(part.labels, n_classes, config) for config in configs], axis=1)
        self.n_shown = len(self._order)

    def __len__(self) -> int:
        return n_steps(self.n_shown, self._batch_size)

    def __getitem__(self, step: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        positions = self._order[step * self._batch_size : (step + 1) * self._batch_size]
        weights = np.take_along_axis(self._weights, positions, axis=0)
        vectors = vectors_of(self._part, positions.ravel())
        return vectors.reshape(*positions.shape, -1), self._targets[positions], weights


@functools.lru_cache(maxsize=_KEPT)
def _compiled(stacks: tuple[tuple[HeadShape, int], ...], n_steps: int) -> _Population:
    """Compile a population of so many heads of each shape, or give the one that was."""
    population = _Population([_Stack(shape, n_heads) for shape, n_heads in stacks])
    optimizer = _per_head(stacks[0][0].optimizer, population.stacks)
    population.compile(optimizer=optimizer, jit_compile=jit_compile(), steps_per_execution=n_steps)
    optimizer.build(population.trainable_variables)
    return population


def _per_head(name: str, stacks: Sequence[_Stack]) -> keras.optimizers.Optimizer:
    """Make an optimizer with a learning rate and a decoupled weight decay of each head's own."""
    kind, settings = OPTIMIZERS["adam" if name == "adamw" else name]  # AdamW is Adam with the decay that is done here
    stack_of = [number for number, stack in enumerate(stacks) for _ in stack.trainable_variables]

    class PerHead(kind):
        def build(self, variables: Sequence[keras.Variable]) -> None:
            super().build(variables)
            # Its own variables and not the model's: JAX would take the value that those have now for a constant.
            each = [(stack.n_heads, 1, 1) for stack in stacks]
            self.rates = [self.add_variable(shape, name="rates") for shape in each]
            self.decays = [self.add_variable(shape, name="decays") for shape in each]

        def update_step(self, gradient: object, variable: keras.Variable, learning_rate: object) -> None:
            number = stack_of[self._get_variable_index(variable)]
            if stacks[number].shape.has_decay:
                self.assign_sub(variable, variable * self.decays[number] * self.rates[number])
            super().update_step(gradient, variable, self.rates[number])

    return PerHead(**settings)


@functools.cache
def _moments_each(name: str) -> int:
    """Count the arrays that an optimizer keeps for each weight."""
    weight = keras.Variable(np.zeros(1, np.float32))
    kind, settings = OPTIMIZERS[name]
    optimizer = kind(**settings)
    optimizer.build([weight])
    return len(optimizer.variables) - _COUNTERS


class _Stack(keras.layers.Layer):
    """Heads of one padded shape. Arrays of all heads have the head as their first axis."""

    def __init__(self, shape: HeadShape, n_heads: int) -> None:
        super().__init__()
        self.shape = shape
        self.n_heads = n_heads
        self._kernels, self._biases = [], []
        for n_in, n_out in shape.layers:  # in the order in which Keras lists the weights of a head
            self._kernels.append(self._number((n_in, n_out), trainable=True))
            self._biases.append(self._number((1, n_out), trainable=True))
        self._dropout, self._smoothing = self._number((1, 1)), self._number((1, 1))
        self._is_focal, self._gamma, self._alpha = (self._number((1, n)) for n in (1, 1, shape.n_classes))
        self._widths = [self._number((1, 1), dtype="int32") for _ in shape.dropped]
        self._seeds = [[keras.random.SeedGenerator(0) for _ in range(n_heads)] for _ in shape.dropped]
        self.loss_sums = self._number(())
        self.built = True

    def _number(self, shape: tuple[int, ...], *, trainable: bool = False, dtype: str = "float32") -> keras.Variable:
        return self.add_weight(shape=(self.n_heads, *shape), initializer="zeros", trainable=trainable, dtype=dtype)

    # --------------------------------------------------------------------------------------------- what is compiled

    def call(self, vectors: object, training: bool = False) -> object:
        """Turn vectors (b, p, n_features) into logits (p, b, n_classes)."""
        x = ops.transpose(vectors, (1, 0, 2))
        n_hidden = len(self.shape.widths)
        if training and n_hidden == 0:
            x = self._drop(x, 0)
        for number in range(n_hidden):
            x = ops.relu(ops.matmul(x, self._kernels[number]) + self._biases[number])
            if training:
                x = self._drop(x, number)
        return ops.matmul(x, self._kernels[-1]) + self._biases[-1]

    def _drop(self, x: object, number: int) -> object:
        """Drop what a dropout layer of each head's own width would drop, from x (p, b, width)."""
        if not self.shape.has_dropout:
            return x
        n_rows, width = ops.shape(x)[1], x.shape[2]
        drawn = ops.stack([keras.random.uniform((n_rows * width,), seed=seed) for seed in self._seeds[number]])
        # Backends draw a number from its place in the flattened array, so a layer of fewer units draws the first of them.
        rows, columns = ops.arange(n_rows)[:, None], ops.arange(width)[None, :]
        places = ops.minimum(rows * self._widths[number] + columns, n_rows * width - 1)
        drawn = ops.take_along_axis(drawn, ops.reshape(places, (self.n_heads, -1)), axis=1)
        is_kept = _keeps(ops.reshape(drawn, ops.shape(x)), self._dropout)
        return ops.where(is_kept, x / (1 - self._dropout), 0.0)

    def loss(self, targets: object, logits: object, weights: object) -> object:
        """Sum the heads' losses, each the mean over its batch, so that no head sees the gradient of another."""
        probabilities = keras.activations.softmax(logits)
        targets = ops.transpose(targets, (1, 0, 2))
        targets = targets * (1 - self._smoothing) + self._smoothing / self.shape.n_classes
        plain = ops.categorical_crossentropy(targets, probabilities)
        each = ops.where(self._is_focal[..., 0] > 0, self._focal(targets, probabilities), plain) * ops.transpose(weights)
        self.loss_sums.assign_add(ops.sum(each, axis=1))
        return ops.sum(ops.mean(each, axis=1))

    def _focal(self, targets: object, probabilities: object) -> object:
        """Give ``keras.losses.CategoricalFocalCrossentropy``, whose gamma and alpha are one number for all."""
        epsilon = keras.config.epsilon()
        certain = ops.clip(probabilities / ops.sum(probabilities, axis=-1, keepdims=True), epsilon, 1 - epsilon)
        return ops.sum(self._alpha * ops.power(1 - certain, self._gamma) * -targets * ops.log(certain), axis=-1)

    # ------------------------------------------------------------------------------------------ what goes in and out

    def load(self, configs: Sequence[TrialConfig], states: Sequence[HeadState]) -> None:
        """Take the weights, the states of dropout and the settings of the heads."""
        for place, variable in enumerate(self.trainable_variables):
            _put(variable, [state.weights[place] for state in states])
        for variable, numbers in (
            (self._dropout, [config.dropout for config in configs]),
            (self._smoothing, [config.label_smoothing for config in configs]),
            (self._is_focal, [config.loss == "focal" for config in configs]),
            (self._gamma, [config.focal_gamma for config in configs]),
        ):
            _put_each(variable, numbers)
        _put(self._alpha, [np.array([focal_alphas(config, self.shape.n_classes)]) for config in configs])
        own = [HeadShape.of(config, self.shape.n_features, self.shape.n_classes) for config in configs]
        for place, (widths, seeds) in enumerate(zip(self._widths, self._seeds, strict=True)):
            _put_each(widths, [shape.dropped[place] for shape in own])
            for seed, state in zip(seeds, states, strict=True):
                seed.state.assign(state.seeds[place])
        self.loss_sums.assign(np.zeros(self.n_heads))

    def seeds(self, head: int) -> list[np.ndarray]:
        """Copy the states of a head's dropout layers."""
        return [ops.convert_to_numpy(seeds[head].state.value) for seeds in self._seeds]


class _Population(keras.Model):
    """Stacks, the heads of the first one first."""

    def __init__(self, stacks: Sequence[_Stack]) -> None:
        super().__init__(name="heads")
        self.stacks = list(stacks)
        ends = np.cumsum([0, *(stack.n_heads for stack in stacks)])
        self._slices = [slice(int(first), int(end)) for first, end in itertools.pairwise(ends)]
        self.built = True

    def call(self, vectors: object, training: bool = False) -> list[object]:
        """Turn vectors (b, p, n_features) into the logits (p_stack, b, n_classes) of each stack."""
        return [stack(vectors[:, own], training=training) for stack, own in zip(self.stacks, self._slices, strict=True)]

    def compute_loss(
        self, x: object = None, y: object = None, y_pred: object = None, sample_weight: object = None, training: bool = True
    ) -> object:
        """Sum the losses of all heads."""
        logits = zip(self.stacks, self._slices, y_pred, strict=True)
        return sum(stack.loss(y[:, own], said, sample_weight[:, own]) for stack, own, said in logits)

    def load(self, configs: Sequence[TrialConfig], states: Sequence[HeadState], learning_rates: Sequence[float]) -> None:
        """Take heads, in the order of the stacks."""
        self.optimizer.iterations.assign(states[0].n_steps)
        moments = self._moments()
        for number, (stack, own) in enumerate(zip(self.stacks, self._slices, strict=True)):
            stack.load(configs[own], states[own])
            _put_each(self.optimizer.rates[number], learning_rates[own])
            _put_each(self.optimizer.decays[number], [config.weight_decay for config in configs[own]])
            for place, variable in enumerate(moments[number]):
                _put(variable, [state.moments[place] for state in states[own]])

    def take_out(self, states: Sequence[HeadState], *, n_more_steps: int) -> None:
        """Bring the states of the heads up to date."""
        for stack, own, variables in zip(self.stacks, self._slices, self._moments(), strict=True):
            weights, moments = _to_numpy(stack.trainable_variables), _to_numpy(variables)
            for head, state in enumerate(states[own]):
                state.weights = [_cut(array[head], old.shape) for array, old in zip(weights, state.weights, strict=True)]
                state.moments = [_cut(array[head], old.shape) for array, old in zip(moments, state.moments, strict=True)]
                state.seeds = stack.seeds(head)
                state.n_steps += n_more_steps

    def _moments(self) -> list[list[keras.Variable]]:
        """List what the optimizer keeps of each stack."""
        each = _moments_each(self.stacks[0].shape.optimizer)
        left = iter(self.optimizer.variables[_COUNTERS:])
        return [list(itertools.islice(left, each * len(stack.trainable_variables))) for stack in self.stacks]

    @property
    def losses_of_heads(self) -> np.ndarray:
        """The summed loss of the images of the epoch, float32 (p,)."""
        return np.concatenate([ops.convert_to_numpy(stack.loss_sums.value) for stack in self.stacks])

    def probabilities(self, part: FeaturePart) -> np.ndarray:
        """Look at a part: float32 (p, n, n_classes)."""
        seen = []
        for first in range(0, len(part.rows), _ROWS_AT_ONCE):
            vectors = vectors_of(part, np.arange(first, min(first + _ROWS_AT_ONCE, len(part.rows))))
            tensor = ops.convert_to_tensor(vectors[:, None])
            logits = [stack(tensor, training=False) for stack in self.stacks]
            seen.append(np.concatenate([ops.convert_to_numpy(ops.softmax(one)) for one in logits]))
        return np.concatenate(seen, axis=1)


def _put_each(variable: keras.Variable, numbers: Sequence[float]) -> None:
    """Give a variable (p, 1, 1) a number for each head."""
    variable.assign(np.reshape(np.asarray(numbers, variable.dtype), variable.shape))


def _put(variable: keras.Variable, arrays: Sequence[np.ndarray]) -> None:
    """Give a variable an array for each head, padded with 0."""
    padded = np.zeros(variable.shape, variable.dtype)
    for own, array in zip(padded, arrays, strict=True):
        own[(0,) * (own.ndim - array.ndim)][tuple(map(slice, array.shape))] = array
    variable.assign(padded)


def _keeps(drawn: object, rate: object) -> object:
    """Tell which units a dropout layer keeps, by the numbers from 0 to 1 that it draws, as the backend's own does."""
    return drawn < 1 - rate if keras.backend.backend() == "jax" else drawn >= rate


def _to_numpy(variables: Sequence[keras.Variable]) -> list[np.ndarray]:
    return [ops.convert_to_numpy(variable.value) for variable in variables]


def _cut(padded: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Copy the part of a slot (rows, columns) that holds an array."""
    return padded[(0,) * (padded.ndim - len(shape))][tuple(map(slice, shape))].copy()
