"""Heads that train together as one computation, stacked along a leading population axis, each as it would alone.

The heads of a population have one optimizer and one number of images a step. They differ in all else: layers, learning rate
and schedule, dropout rate, loss, weight decay, what images count, seed. Each sees the images in the order of its own seed,
under the dropout masks of its own seed, from the weights of its own seed; so it comes out as ``trainer.Training`` trains it
alone, but for the rounding of sums.

Heads of one number of layers make stacks, in which a layer is one product of three-dimensional arrays. Their layers are padded
to the widest of the stack (``head_company``). A padded unit has weights of 0, says 0 and gets gradients of 0, so that every
optimizer leaves it at 0. All stacks of a population are traced and stepped as one Keras model, which they are loaded into once.
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
from automl_cxr.training.compiled_cache import jit_compile
from automl_cxr.training.datasets import FeaturePart
from automl_cxr.training.losses import OPTIMIZERS, focal_alphas
from automl_cxr.training.sampling import epoch_order, image_weights
from automl_cxr.training.stack_grouping import HeadShape, HeadState, StackGroup, pad_shapes, vectors_of

_ROWS_AT_ONCE = 1024  # of vectors that a population looks at
_COUNTERS = 2  # variables that an optimizer lists first: the number of steps and the learning rate
_KEPT = 2  # compiled populations of this process that no heads are in


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


class StackedHeads:
    """Heads that take their steps together, from states that they bring to states that can be asked for.

    Args:
        configs: Of heads with one ``stack_group_of``, no more than ``divide_stack_group`` puts together.
        states: Of each head.
        company: Theirs.
    """

    def __init__(self, configs: Sequence[TrialConfig], states: Sequence[HeadState], company: StackGroup) -> None:
        own = [HeadShape.of(config, company.n_features, company.n_classes) for config in configs]
        padded = pad_shapes(own)
        order = sorted(range(len(configs)), key=lambda place: (padded[place], own[place]))  # brings heads of a stack together
        self._order, self._places = order, np.argsort(order)
        self._configs = [configs[place] for place in order]
        self._seeds = [[seed.copy() for seed in states[place].seeds] for place in order]
        self._shapes = [[array.shape for array in (*states[place].weights, *states[place].moments)] for place in order]
        self._n_steps = company.n_steps_so_far
        self._company = company
        self._key = tuple((padded[place], own[place]) for place in order)
        self._population = _lend(self._key)
        self._population.load(self._configs, [states[place] for place in order])
        self._copied: dict[bool, list[list[np.ndarray]]] = {}  # weights, or moments, of all heads since the last step

    def train_epoch(self, train: FeaturePart, *, epoch: int, learning_rates: Sequence[float]) -> np.ndarray:
        """Train an epoch of each head.

        Args:
            train: What they learn from.
            epoch: Number of the epoch, from 1, which the order of the images follows from.
            learning_rates: Of each head in this epoch; 0 for one that is not to learn.

        Returns:
            The mean training loss of each head (n,). That of a head that has diverged is NaN; it harms no other.
        """
        company, population = self._company, self._population
        batches = _Batches(train, company.n_classes, self._configs, epoch=epoch)
        population.begin_epoch([learning_rates[place] for place in self._order])
        for step in range(company.n_steps):
            vectors, targets, weights, n_rows = batches[step]
            shown = {"vectors": vectors, "n_rows": np.full(1, n_rows, np.float32), "seeds": self._seeds_of_step(step)}
            population.train_on_batch(shown, targets, sample_weight=weights)
        self._copied = {}
        self._n_steps += company.n_steps
        for seeds in itertools.chain.from_iterable(self._seeds):
            seeds[1] += company.n_steps
        return (population.losses_of_heads / company.n_shown)[self._places]

    def probabilities(self, part: FeaturePart) -> np.ndarray:
        """Look at a part: float32 (n, n_rows, n_classes); those of a head that has diverged are NaN."""
        return self._population.probabilities(part)[self._places]

    def weights(self, head: int) -> list[np.ndarray]:
        """Copy the weights of a head."""
        return self._cut_out(head, are_moments=False)

    def state(self, head: int) -> HeadState:
        """Copy the state of a head."""
        seeds = [seed.copy() for seed in self._seeds[self._places[head]]]
        return HeadState(self.weights(head), self._cut_out(head, are_moments=True), self._n_steps, seeds)

    def close(self) -> None:
        """Leave what is compiled to other heads; no more can be asked for."""
        _keep(self._key, self._population)

    def _seeds_of_step(self, step: int) -> np.ndarray:
        """Give the seed of each mask that is drawn in a step of an epoch, (n_masks, 2), as a layer alone counts them on."""
        seeds = np.array([seed for own in self._seeds for seed in own], _seed_dtype()).reshape(-1, 2)
        seeds[:, 1] += step
        return seeds

    def _cut_out(self, head: int, *, are_moments: bool) -> list[np.ndarray]:
        if are_moments not in self._copied:
            self._copied[are_moments] = self._population.copy_arrays(are_moments=are_moments)
        place = self._places[head]
        arrays, shapes = self._copied[are_moments][place], self._shapes[place]
        own = shapes[-len(arrays) :] if are_moments and arrays else shapes[: len(arrays)]
        return [_cut(array, shape) for array, shape in zip(arrays, own, strict=True)]


class _Batches:
    """Batches of one epoch, p heads side by side: vectors (p, b, n_features), targets (p, b, n_classes), weights (p, b), b.

    The last one is filled up with images that weigh 0, since another size would be another graph; its number of images is
    what counts.
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


_kept: OrderedDict[tuple[tuple[HeadShape, HeadShape], ...], _StackedModel] = OrderedDict()  # the last one used at the end


def _lend(key: tuple[tuple[HeadShape, HeadShape], ...]) -> _StackedModel:
    """Compile a population for heads of some shapes, each given padded and as it is, or give one that was left."""
    kept = _kept.pop(key, None)
    if kept is not None:
        return kept
    stacks = [_Stack(padded, [own for _, own in pairs]) for padded, pairs in itertools.groupby(key, key=lambda pair: pair[0])]
    population = _StackedModel(stacks)
    optimizer = _per_head(stacks[0].shape.optimizer, stacks)
    population.compile(optimizer=optimizer, jit_compile=jit_compile())
    optimizer.build(population.trainable_variables)
    return population


def _keep(key: tuple[tuple[HeadShape, HeadShape], ...], population: _StackedModel) -> None:
    _kept[key] = population
    while len(_kept) > _KEPT:
        _kept.popitem(last=False)


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
    """Heads of one padded shape. Arrays of all heads have the head as their first axis.

    Args:
        shape: That all are padded to.
        own: The shape of each.
    """

    def __init__(self, shape: HeadShape, own: Sequence[HeadShape]) -> None:
        super().__init__()
        self.shape = shape
        self.own = list(own)
        self.n_heads = len(own)
        self._kernels, self._biases = [], []
        for n_in, n_out in shape.layers:  # in the order in which Keras lists the weights of a head
            self._kernels.append(self._number((n_in, n_out), trainable=True))
            self._biases.append(self._number((1, n_out), trainable=True))
        self._dropout, self._smoothing = self._number((1, 1)), self._number((1, 1))
        self._is_focal, self._gamma, self._alpha = (self._number((1, n)) for n in (1, 1, shape.n_classes))
        self.loss_sums = self._number(())
        self.built = True

    def _number(self, shape: tuple[int, ...], *, trainable: bool = False) -> keras.Variable:
        return self.add_weight(shape=(self.n_heads, *shape), initializer="zeros", trainable=trainable, dtype="float32")

    @property
    def n_masks(self) -> int:
        """Masks that are drawn in a step."""
        return self.n_heads * len(self.shape.dropped)

    # --------------------------------------------------------------------------------------------- what is compiled

    def call(self, vectors: object, seeds: object = None) -> object:
        """Convert vectors (p, b, n_features), or (1, b, n_features) for all heads, into logits (p, b, n_classes).

        Args:
            vectors: What all heads, or each, look at.
            seeds: Of each mask, (n_masks, 2), those of the first head first; None where nothing is dropped.
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
        """Drop what a dropout layer of each head's own width would drop, from x (p, b, width)."""
        if seeds is None or not self.shape.has_dropout:
            return x
        n_rows, width = x.shape[1:]
        each = len(self.shape.dropped)
        masks = []
        for head, own in enumerate(self.own):
            n_own = own.dropped[number]
            drawn = keras.random.uniform((n_rows * n_own,), seed=_GivenSeed(seeds[head * each + number]))
            drawn = ops.reshape(drawn, (n_rows, n_own))
            masks.append(drawn if n_own == width else ops.pad(drawn, ((0, 0), (0, width - n_own))))
        is_kept = _keeps(ops.stack(masks), self._dropout)
        return ops.where(is_kept, x / (1 - self._dropout), 0.0)

    def loss(self, targets: object, logits: object, weights: object, n_rows: object) -> object:
        """Sum the heads' losses, each the mean over its batch, so that no head sees the gradient of another."""
        probabilities = keras.activations.softmax(logits)
        targets = targets * (1 - self._smoothing) + self._smoothing / self.shape.n_classes
        plain = ops.categorical_crossentropy(targets, probabilities)
        each = ops.where(self._is_focal[..., 0] > 0, self._focal(targets, probabilities), plain) * weights
        self.loss_sums.assign_add(ops.sum(each, axis=1))
        return ops.sum(each) / n_rows[0]

    def _focal(self, targets: object, probabilities: object) -> object:
        """Give ``keras.losses.CategoricalFocalCrossentropy``, whose gamma and alpha are one number for all."""
        epsilon = keras.config.epsilon()
        certain = ops.clip(probabilities / ops.sum(probabilities, axis=-1, keepdims=True), epsilon, 1 - epsilon)
        return ops.sum(self._alpha * ops.power(1 - certain, self._gamma) * -targets * ops.log(certain), axis=-1)

    # ------------------------------------------------------------------------------------------ what goes in and out

    def load(self, configs: Sequence[TrialConfig], states: Sequence[HeadState]) -> None:
        """Take the weights and the settings of the heads."""
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


class _StackedModel(keras.Model):
    """Stacks, the heads of the first one first."""

    def __init__(self, stacks: Sequence[_Stack]) -> None:
        super().__init__(name="heads")
        self.stacks = list(stacks)
        ends = np.cumsum([0, *(stack.n_heads for stack in stacks)])
        self._slices = [slice(int(first), int(end)) for first, end in itertools.pairwise(ends)]
        self.built = True

    def call(self, shown: dict[str, object]) -> list[object]:
        """Convert a batch into the logits (p_stack, b, n_classes) of each stack, with units dropped."""
        vectors, seeds = shown["vectors"], shown["seeds"]
        ends = itertools.accumulate((stack.n_masks for stack in self.stacks), initial=0)
        return [
            stack(vectors[own], seeds=seeds[first : first + stack.n_masks])
            for stack, own, first in zip(self.stacks, self._slices, ends, strict=False)
        ]

    def compute_loss(
        self, x: object = None, y: object = None, y_pred: object = None, sample_weight: object = None, training: bool = True
    ) -> object:
        """Sum the losses of all heads."""
        logits = zip(self.stacks, self._slices, y_pred, strict=True)
        return sum(stack.loss(y[own], said, sample_weight[own], x["n_rows"]) for stack, own, said in logits)

    def load(self, configs: Sequence[TrialConfig], states: Sequence[HeadState]) -> None:
        """Take heads, in the order of the stacks."""
        self.optimizer.iterations.assign(states[0].n_steps)
        moments = self._moments()
        for number, (stack, own) in enumerate(zip(self.stacks, self._slices, strict=True)):
            stack.load(configs[own], states[own])
            _put_each(self.optimizer.decays[number], [config.weight_decay for config in configs[own]])
            for place, variable in enumerate(moments[number]):
                _put(variable, [state.moments[place] for state in states[own]])

    def begin_epoch(self, learning_rates: Sequence[float]) -> None:
        """Set the learning rates, in the order of the stacks, and begin to sum losses."""
        for number, (stack, own) in enumerate(zip(self.stacks, self._slices, strict=True)):
            _put_each(self.optimizer.rates[number], learning_rates[own])
            stack.loss_sums.assign(np.zeros(stack.n_heads))

    def copy_arrays(self, *, are_moments: bool) -> list[list[np.ndarray]]:
        """Copy the padded weights, or moments, of each head."""
        lists = self._moments() if are_moments else [stack.trainable_variables for stack in self.stacks]
        heads = []
        for stack, variables in zip(self.stacks, lists, strict=True):
            arrays = _to_numpy(variables)
            heads += [[array[head] for array in arrays] for head in range(stack.n_heads)]
        return heads

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
            tensor = ops.convert_to_tensor(vectors[None])
            logits = [stack(tensor) for stack in self.stacks]
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


class _GivenSeed(keras.random.SeedGenerator):
    """A seed that comes from outside of what is compiled."""

    def __init__(self, seed: object) -> None:  # without the variable that Keras' own counts in
        self._seed = seed

    def next(self, ordered: bool = True) -> object:
        return self._seed


@functools.cache
def _seed_dtype() -> str:
    return keras.random.SeedGenerator(0).state.dtype


def _keeps(drawn: object, rate: object) -> object:
    """Tell which units a dropout layer keeps, by the numbers from 0 to 1 that it draws, as the backend's own does."""
    return drawn < 1 - rate if keras.backend.backend() == "jax" else drawn >= rate


def _to_numpy(variables: Sequence[keras.Variable]) -> list[np.ndarray]:
    return [ops.convert_to_numpy(variable.value) for variable in variables]


def _cut(padded: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Copy the part of a slot (rows, columns) that holds an array."""
    return padded[(0,) * (padded.ndim - len(shape))][tuple(map(slice, shape))].copy()
