"""Heads that train together as one computation with a leading population axis, each as it would alone.

The heads of a population have one number of layers, features, classes and images a step, and one optimizer. They differ in all
else: units, learning rate and schedule, dropout rate, loss, weight decay, what images count, seed. Each sees the images in the
order of its own seed, under the dropout masks of its own seed, from the weights of its own seed; so it comes out as
``trainer.Training`` trains it alone, but for the rounding of sums.

Layers are padded to a common width. A padded unit has weights of 0, says 0 and gets gradients of 0, so that every optimizer
leaves it at 0. A compiled population has a number of slots and is kept: heads are loaded into it, train an epoch, and are
taken out, so that tracing is paid once for a shape and not for a head.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import keras
import numpy as np
from keras import ops

from automl_cxr.config import TrialConfig
from automl_cxr.model.head import dropout_seeds, hidden_widths
from automl_cxr.model.losses import OPTIMIZERS, focal_alphas
from automl_cxr.model.parts import FeaturePart
from automl_cxr.model.sampling import epoch_order, image_weights, images_per_epoch
from automl_cxr.model.trainer import jit_compile, n_steps

_SLOTS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)  # a few sizes, so that few are compiled
_MOST_BYTES = 2**29  # of a population's weights, gradients and moments
_NUMBERS_PER_WEIGHT = 4  # itself, its gradient, two moments
_NARROWEST = 8  # units that a hidden layer is padded to, at least
_ROWS_AT_ONCE = 1024  # of vectors that a population looks at
_COUNTERS = 2  # variables that an optimizer lists first: the number of steps and the learning rate
_KEPT = 24  # compiled populations of this process


@dataclass(frozen=True)
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
    """What heads have in common that can train an epoch together: padded shape, images a step and an epoch, steps so far."""

    shape: HeadShape
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
        configs: Of heads with one ``company_of``, at most ``most_together`` of them.
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
    shape = HeadShape.of(configs[0], n_features(train), n_classes).padded
    slots = next((n for n in _SLOTS if n >= len(configs)), len(configs))
    batches = _Batches(train, n_classes, configs, n_slots=slots, epoch=epoch)
    population = _compiled(shape, slots, len(batches))
    population.load(configs, states, learning_rates)
    population.fit(batches, verbose=0, shuffle=False)
    population.take_out(states, n_more_steps=len(batches))
    n_heads = len(configs)
    return population.losses[:n_heads] / batches.n_shown, population.probabilities(valid)[:n_heads]


def company_of(config: TrialConfig, state: HeadState, train: FeaturePart, n_classes: int) -> Company:
    """Tell which heads a head can train its next epoch with: those of equal company."""
    shape = HeadShape.of(config, n_features(train), n_classes).padded
    return Company(shape, config.batch_size, int(images_per_epoch(train.labels, n_classes, config).sum()), state.n_steps)


def most_together(company: Company) -> int:
    """Count the heads that fit into memory together, at least 1."""
    return max(1, min(_SLOTS[-1], _MOST_BYTES // (4 * _NUMBERS_PER_WEIGHT * company.shape.n_parameters)))


def n_features(part: FeaturePart) -> int:
    """Count the numbers in a vector."""
    return sum(values.shape[1] for values in part.inputs)


def vectors_of(part: FeaturePart, positions: np.ndarray) -> np.ndarray:
    """Copy some vectors of a part, float32 (k, n_features); those of several branches are joined."""
    copied = part.batch(positions)
    return np.concatenate(copied, axis=1) if isinstance(copied, tuple) else copied


class _Batches(keras.utils.PyDataset):
    """Batches of one epoch: vectors (b, p, n_features), targets (b, p, n_classes) and weights (b, p), p heads side by side."""

    def __init__(self, part: FeaturePart, n_classes: int, configs: Sequence[TrialConfig], *, n_slots: int, epoch: int) -> None:
        super().__init__()
        self._part = part
        self._targets = np.eye(n_classes, dtype=np.float32)[part.labels]
        self._batch_size = configs[0].batch_size
        orders = [epoch_order(part.labels, n_classes, config, epoch=epoch) for config in configs]
        weights = [image_weights(part.labels, n_classes, config) for config in configs]
        empty = n_slots - len(configs)  # slots without a head look at what the first one sees, and learn nothing from it
        self._order = np.stack(orders + [orders[0]] * empty, axis=1)
        self._weights = np.stack(weights + [np.zeros_like(weights[0])] * empty, axis=1)
        self.n_slots = n_slots
        self.n_shown = len(self._order)

    def __len__(self) -> int:
        return n_steps(self.n_shown, self._batch_size)

    def __getitem__(self, step: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        positions = self._order[step * self._batch_size : (step + 1) * self._batch_size]
        weights = np.take_along_axis(self._weights, positions, axis=0)
        vectors = vectors_of(self._part, positions.ravel())
        return vectors.reshape(*positions.shape, -1), self._targets[positions], weights


@functools.lru_cache(maxsize=_KEPT)
def _compiled(shape: HeadShape, n_slots: int, n_steps: int) -> _Population:
    """Compile a population, or give the one that was."""
    population = _Population(shape, n_slots)
    optimizer = _per_head(shape)
    population.compile(optimizer=optimizer, jit_compile=jit_compile(), steps_per_execution=n_steps)
    optimizer.build(population.trainable_variables)
    return population


def _per_head(shape: HeadShape) -> keras.optimizers.Optimizer:
    """Make the optimizer of a shape with a learning rate and a decoupled weight decay of each head's own."""
    # AdamW is Adam with the decay that is done here.
    kind, settings = OPTIMIZERS["adam" if shape.optimizer == "adamw" else shape.optimizer]

    class PerHead(kind):
        def build(self, variables: Sequence[keras.Variable]) -> None:
            super().build(variables)
            each = (variables[0].shape[0], 1, 1)
            # Its own variables and not the model's: JAX would take the value that those have now for a constant.
            self.rates = self.add_variable(each, name="rates")
            self.decays = self.add_variable(each, name="decays")

        def update_step(self, gradient: object, variable: keras.Variable, learning_rate: object) -> None:
            if shape.has_decay:
                self.assign_sub(variable, variable * self.decays * self.rates)
            super().update_step(gradient, variable, self.rates)

    return PerHead(**settings)


@functools.cache
def _moments_each(name: str) -> int:
    """Count the arrays that an optimizer keeps for each weight."""
    weight = keras.Variable(np.zeros(1, np.float32))
    kind, settings = OPTIMIZERS[name]
    optimizer = kind(**settings)
    optimizer.build([weight])
    return len(optimizer.variables) - _COUNTERS


class _Population(keras.Model):
    """Slots for heads of one padded shape. Arrays of all heads have the slot as their first axis."""

    def __init__(self, shape: HeadShape, n_slots: int) -> None:
        super().__init__(name="heads")
        self.n_slots = n_slots
        self._shape = shape
        self._kernels, self._biases = [], []
        for n_in, n_out in shape.layers:  # in the order in which Keras lists the weights of a head
            self._kernels.append(self._number((n_in, n_out), trainable=True))
            self._biases.append(self._number((1, n_out), trainable=True))
        self._dropout, self._smoothing = self._number((1, 1)), self._number((1, 1))
        self._is_focal, self._gamma, self._alpha = (self._number((1, n)) for n in (1, 1, shape.n_classes))
        self._widths = [self._number((1, 1), dtype="int32") for _ in shape.dropped]
        self._seeds = [[keras.random.SeedGenerator(0) for _ in range(n_slots)] for _ in shape.dropped]
        self._loss_sums = self._number(())
        self.built = True

    def _number(self, shape: tuple[int, ...], *, trainable: bool = False, dtype: str = "float32") -> keras.Variable:
        return self.add_weight(shape=(self.n_slots, *shape), initializer="zeros", trainable=trainable, dtype=dtype)

    # --------------------------------------------------------------------------------------------- what is compiled

    def call(self, vectors: object, training: bool = False) -> object:
        """Turn vectors (b, p, n_features) into logits (p, b, n_classes)."""
        x = ops.transpose(vectors, (1, 0, 2))
        n_hidden = len(self._shape.widths)
        if training and n_hidden == 0:
            x = self._drop(x, 0)
        for number in range(n_hidden):
            x = ops.relu(ops.matmul(x, self._kernels[number]) + self._biases[number])
            if training:
                x = self._drop(x, number)
        return ops.matmul(x, self._kernels[-1]) + self._biases[-1]

    def _drop(self, x: object, number: int) -> object:
        """Drop what a dropout layer of each head's own width would drop, from x (p, b, width)."""
        if not self._shape.has_dropout:
            return x
        n_rows, width = ops.shape(x)[1], x.shape[2]
        drawn = ops.stack([keras.random.uniform((n_rows * width,), seed=seed) for seed in self._seeds[number]])
        # Backends draw a number from its place in the flattened array, so a layer of fewer units draws the first of them.
        rows, columns = ops.arange(n_rows)[:, None], ops.arange(width)[None, :]
        places = ops.minimum(rows * self._widths[number] + columns, n_rows * width - 1)
        drawn = ops.take_along_axis(drawn, ops.reshape(places, (self.n_slots, -1)), axis=1)
        is_kept = _keeps(ops.reshape(drawn, ops.shape(x)), self._dropout)
        return ops.where(is_kept, x / (1 - self._dropout), 0.0)

    def compute_loss(
        self, x: object = None, y: object = None, y_pred: object = None, sample_weight: object = None, training: bool = True
    ) -> object:
        """Sum the heads' losses, each the mean over its batch, so that no head sees the gradient of another."""
        probabilities = keras.activations.softmax(y_pred)
        targets = ops.transpose(y, (1, 0, 2))
        targets = targets * (1 - self._smoothing) + self._smoothing / self._shape.n_classes
        plain = ops.categorical_crossentropy(targets, probabilities)
        each = ops.where(self._is_focal[..., 0] > 0, self._focal(targets, probabilities), plain) * ops.transpose(sample_weight)
        self._loss_sums.assign_add(ops.sum(each, axis=1))
        return ops.sum(ops.mean(each, axis=1))

    def _focal(self, targets: object, probabilities: object) -> object:
        """Give ``keras.losses.CategoricalFocalCrossentropy``, whose gamma and alpha are one number for all."""
        epsilon = keras.config.epsilon()
        certain = ops.clip(probabilities / ops.sum(probabilities, axis=-1, keepdims=True), epsilon, 1 - epsilon)
        return ops.sum(self._alpha * ops.power(1 - certain, self._gamma) * -targets * ops.log(certain), axis=-1)

    # ------------------------------------------------------------------------------------------ what goes in and out

    def load(self, configs: Sequence[TrialConfig], states: Sequence[HeadState], learning_rates: Sequence[float]) -> None:
        """Fill the slots with heads, the first ones first."""
        for place, variable in enumerate(self.trainable_variables):
            self._put(variable, [state.weights[place] for state in states])
        for place, variable in enumerate(self._moments):
            self._put(variable, [state.moments[place] for state in states])
        self.optimizer.iterations.assign(states[0].n_steps)
        smoothed = [config.label_smoothing for config in configs]
        focal = [config.loss == "focal" for config in configs]
        for variable, numbers in (
            (self.optimizer.rates, learning_rates),
            (self.optimizer.decays, [config.weight_decay for config in configs]),
            (self._dropout, [config.dropout for config in configs]),
            (self._smoothing, smoothed),
            (self._is_focal, focal),
            (self._gamma, [config.focal_gamma for config in configs]),
        ):
            self._put(variable, [np.array([[number]]) for number in numbers])
        self._put(self._alpha, [np.array([focal_alphas(config, self._shape.n_classes)]) for config in configs])
        for place, (widths, seeds) in enumerate(zip(self._widths, self._seeds, strict=True)):
            self._put(widths, [np.array([[self._own(config).dropped[place]]]) for config in configs])
            for seed, state in zip(seeds, states, strict=False):
                seed.state.assign(state.seeds[place])
        self._loss_sums.assign(np.zeros(self.n_slots))

    def take_out(self, states: Sequence[HeadState], *, n_more_steps: int) -> None:
        """Bring the states of the heads up to date."""
        weights, moments = map(_to_numpy, (self.trainable_variables, self._moments))
        for slot, state in enumerate(states):
            state.weights = [_cut(array[slot], own.shape) for array, own in zip(weights, state.weights, strict=True)]
            state.moments = [_cut(array[slot], own.shape) for array, own in zip(moments, state.moments, strict=True)]
            state.seeds = [ops.convert_to_numpy(seeds[slot].state.value) for seeds in self._seeds]
            state.n_steps += n_more_steps

    @property
    def losses(self) -> np.ndarray:
        """The summed loss of the images of the epoch, by slot, float32 (p,)."""
        return ops.convert_to_numpy(self._loss_sums.value)

    def probabilities(self, part: FeaturePart) -> np.ndarray:
        """Look at a part: float32 (p, n, n_classes)."""
        seen = []
        for first in range(0, len(part.rows), _ROWS_AT_ONCE):
            vectors = vectors_of(part, np.arange(first, min(first + _ROWS_AT_ONCE, len(part.rows))))
            logits = self(ops.convert_to_tensor(vectors[:, None]), training=False)
            seen.append(ops.convert_to_numpy(ops.softmax(logits)))
        return np.concatenate(seen, axis=1)

    @property
    def _moments(self) -> list[keras.Variable]:
        return self.optimizer.variables[_COUNTERS:-2]  # before the rates and decays

    def _own(self, config: TrialConfig) -> HeadShape:
        return HeadShape.of(config, self._shape.n_features, self._shape.n_classes)

    def _put(self, variable: keras.Variable, arrays: Sequence[np.ndarray]) -> None:
        """Give the first slots of a variable these arrays, padded with 0, and the others 0."""
        padded = np.zeros(variable.shape, variable.dtype)
        for slot, array in zip(padded, arrays, strict=False):
            slot[(0,) * (slot.ndim - array.ndim)][tuple(map(slice, array.shape))] = array
        variable.assign(padded)


def _keeps(drawn: object, rate: object) -> object:
    """Tell which units a dropout layer keeps, by the numbers from 0 to 1 that it draws, as the backend's own does."""
    return drawn < 1 - rate if keras.backend.backend() == "jax" else drawn >= rate


def _to_numpy(variables: Sequence[keras.Variable]) -> list[np.ndarray]:
    return [ops.convert_to_numpy(variable.value) for variable in variables]


def _cut(padded: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Copy the part of a slot (rows, columns) that holds an array."""
    return padded[(0,) * (padded.ndim - len(shape))][tuple(map(slice, shape))].copy()
