"""Heads trained together in one computation on arrays whose first axis is the head; results equal those of separate training.

The heads share an optimizer and the number of images per step. They may differ in layers, learning rate and schedule, dropout
rate, loss, weight decay, limit of the gradient, weights of images or labels, and seed. The seed of a head determines its image
order, dropout masks and initial weights. Therefore its result equals that of ``trainer.Training`` except for the rounding of
sums.

The computation is in ``stacked_model``, ``stacked_losses`` and ``stacked_optimizer``.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence

import keras
import numpy as np

from automl_cxr.config import TrialConfig
from automl_cxr.training.datasets import FeaturePart
from automl_cxr.training.sampling import epoch_order
from automl_cxr.training.stack_grouping import HeadShape, HeadState, StackGroup, can_be_stacked, pad_shapes, vectors_of
from automl_cxr.training.stacked_model import acquire_model, release_model, to_numpy
from automl_cxr.training.stacked_optimizer import moments_per_weight
from automl_cxr.training.targets import targets_of_heads


def untrained_state(model: keras.Model, config: TrialConfig) -> HeadState:
    """Copy the state of the head of a network in which only the head is trainable."""
    weights = to_numpy(model.trainable_variables)
    return HeadState(
        weights=weights,
        moments=[np.zeros_like(array) for array in weights for _ in range(moments_per_weight(config.optimizer))],
        n_steps=0,
        seeds=to_numpy(seed_states(model)),
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
        self._model = acquire_model(self._key)
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
        release_model(self._key, self._model)

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
        self._targets = targets_of_heads(part.labels, n_classes, configs)
        self._order = np.stack([epoch_order(part.labels, n_classes, config, epoch=epoch) for config in configs])
        self._size = min(configs[0].batch_size, self._order.shape[1])

    def __getitem__(self, step: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
        shown = self._order[:, step * self._size : (step + 1) * self._size]
        n_rows = shown.shape[1]
        positions = np.take(shown, np.arange(self._size) % n_rows, axis=1)
        targets = np.stack([own.values[rows] for own, rows in zip(self._targets, positions, strict=True)])
        weights = np.stack([own.weights[rows] for own, rows in zip(self._targets, positions, strict=True)])
        weights[:, n_rows:] = 0
        vectors = vectors_of(self._part, positions.ravel())
        return vectors.reshape(*positions.shape, -1), targets, weights, n_rows


@functools.cache
def _seed_dtype() -> str:
    return keras.random.SeedGenerator(0).state.dtype


def _remove_padding(padded: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Copy the array of the given shape from a padded array (rows, columns)."""
    return padded[(0,) * (padded.ndim - len(shape))][tuple(map(slice, shape))].copy()
