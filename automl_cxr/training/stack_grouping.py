"""Grouping of heads that train together: the properties that they must share, and their division into stacks.

A stack consists of heads of similar width, which are padded to the widest head. Each additional stack increases the tracing
time, and each additional unit increases the training time.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from automl_cxr.config import ASYMMETRIC, TrialConfig
from automl_cxr.model.head import dropout_seeds, hidden_widths
from automl_cxr.training.batches import n_steps
from automl_cxr.training.datasets import FeaturePart
from automl_cxr.training.sampling import epoch_size

STACKED_LOSSES = frozenset({"ce", "focal", ASYMMETRIC})
"""Losses that ``stacked_losses`` implements. Heads with other losses train one by one."""

STACKED_OPTIMIZERS = frozenset({"adam", "adamw", "rmsprop", "sgd", "adadelta"})
"""Optimizers that ``stacked_optimizer`` implements: those that update each weight independently of the others."""

_MAX_HEADS = 64  # that train together
_MAX_BYTES = 2**29  # of their weights, gradients and moments
_NUMBERS_PER_WEIGHT = 4  # the weight, its gradient and two moments
_TRACING_COST = 130_000  # weights: tracing a stack takes as long as 400 training steps with this many additional weights


@dataclass(frozen=True, order=True)
class HeadShape:
    """The properties of a head that must be equal within a stack; only the widths may differ before padding.

    Attributes:
        n_features: Length of the feature vector.
        widths: Units of each hidden layer.
        n_classes: Number of classes.
        has_dropout: Whether there are dropout layers.
        has_decay: Whether weight decay is used.
        has_clip: Whether the norm of the gradient is limited.
        optimizer: ``TrialConfig.optimizer``.
        task: ``TrialConfig.task``.
    """

    n_features: int
    widths: tuple[int, ...]
    n_classes: int
    has_dropout: bool
    has_decay: bool
    has_clip: bool
    optimizer: str
    task: str

    @classmethod
    def of(cls, config: TrialConfig, n_features: int, n_classes: int) -> HeadShape:
        """Return the shape of a configuration's head."""
        return cls(
            n_features,
            hidden_widths(config),
            n_classes,
            has_dropout=bool(dropout_seeds(config)),
            has_decay=config.weight_decay > 0,
            has_clip=config.gradient_clip > 0,
            optimizer=config.optimizer,
            task=config.task,
        )

    @property
    def kind(self) -> tuple[int, bool, bool, bool, str]:
        """The properties that must be equal within a stack, in addition to those of the group."""
        return len(self.widths), self.has_dropout, self.has_decay, self.has_clip, self.task

    @property
    def layers(self) -> tuple[tuple[int, int], ...]:
        """Number of inputs and units of each dense layer."""
        ends = (self.n_features, *self.widths, self.n_classes)
        return tuple(itertools.pairwise(ends))

    @property
    def n_parameters(self) -> int:
        return sum((n_in + 1) * n_out for n_in, n_out in self.layers)

    @property
    def dropped(self) -> tuple[int, ...]:
        """Number of inputs of each dropout layer: those after the hidden layers, or the one on the feature vector."""
        if not self.has_dropout:
            return ()
        return self.widths or (self.n_features,)


@dataclass(frozen=True)
class StackGroup:
    """The properties that must be equal for heads to be trained together in their next epoch.

    Attributes:
        n_features: Length of the feature vector.
        n_classes: Number of classes.
        optimizer: ``TrialConfig.optimizer``.
        batch_size: ``TrialConfig.batch_size``.
        n_images: Number of images of an epoch.
        n_steps_so_far: Gradient steps that each head has taken.
    """

    n_features: int
    n_classes: int
    optimizer: str
    batch_size: int
    n_images: int
    n_steps_so_far: int

    @property
    def n_steps(self) -> int:
        """Gradient steps of an epoch."""
        return n_steps(self.n_images, self.batch_size)


@dataclass
class HeadState:
    """The state of a head that determines its next epoch.

    Attributes:
        weights: Kernel and bias of each dense layer, in the order of Keras.
        moments: Variables of the optimizer for these weights, in the order of Keras.
        n_steps: Gradient steps so far.
        seeds: State of the seed generator of each dropout layer, int (2,).
    """

    weights: list[np.ndarray]
    moments: list[np.ndarray]
    n_steps: int
    seeds: list[np.ndarray]


def can_be_stacked(config: TrialConfig) -> bool:
    """Return whether ``stacked_heads`` implements the loss and the optimizer of a head; it does not average weights."""
    return config.loss in STACKED_LOSSES and config.optimizer in STACKED_OPTIMIZERS and config.weight_average == 0


def stack_group_of(config: TrialConfig, state: HeadState, train: FeaturePart, n_classes: int) -> StackGroup:
    """Return the group of a head; heads of equal groups can be trained together in their next epoch."""
    n_images = epoch_size(train.labels, n_classes, config)
    return StackGroup(n_features(train), n_classes, config.optimizer, config.batch_size, n_images, state.n_steps)


def divide_stack_group(configs: Sequence[TrialConfig], group: StackGroup) -> list[slice]:
    """Divide heads of one group into parts that fit into memory, each with at least one head."""
    slices, first, n_bytes = [], 0, 0
    for index, config in enumerate(configs):
        own = 4 * _NUMBERS_PER_WEIGHT * HeadShape.of(config, group.n_features, group.n_classes).n_parameters
        if index > first and (n_bytes + own > _MAX_BYTES or index - first == _MAX_HEADS):
            slices.append(slice(first, index))
            first, n_bytes = index, 0
        n_bytes += own
    return [*slices, slice(first, len(configs))]


def n_features(part: FeaturePart) -> int:
    """Return the length of the feature vectors of a part."""
    return sum(values.shape[1] for values in part.inputs)


def vectors_of(part: FeaturePart, positions: np.ndarray) -> np.ndarray:
    """Copy the feature vectors at some positions of a part, float32 (k, n_features); those of several branches are joined."""
    copied = part.batch(positions)
    return np.concatenate(copied, axis=1) if isinstance(copied, tuple) else copied


def pad_shapes(shapes: Sequence[HeadShape]) -> list[HeadShape]:
    """Return the padded shape of the stack of each head, chosen to minimise the time for tracing and training together."""
    kinds: dict[tuple[int, bool, bool, bool, str], list[HeadShape]] = defaultdict(list)
    for shape in sorted(shapes):
        kinds[shape.kind].append(shape)
    padded = {
        shape: widest for same_kind in kinds.values() for stack, widest in _divide_into_stacks(same_kind) for shape in stack
    }
    return [padded[shape] for shape in shapes]


def _divide_into_stacks(shapes: Sequence[HeadShape]) -> list[tuple[Sequence[HeadShape], HeadShape]]:
    """Divide sorted shapes of one kind into consecutive stacks at the least cost, each with its padded shape."""
    divisions: list[tuple[int, list[tuple[Sequence[HeadShape], HeadShape]]]] = [(0, [])]  # of the first n shapes
    for end in range(1, len(shapes) + 1):
        possible = []
        for first in range(end):
            stack = shapes[first:end]
            widths = tuple(map(max, zip(*(shape.widths for shape in stack), strict=True)))
            widest = dataclasses.replace(stack[0], widths=widths)
            cost, stacks = divisions[first]
            possible.append((cost + _TRACING_COST + len(stack) * widest.n_parameters, [*stacks, (stack, widest)]))
        divisions.append(min(possible, key=lambda division: division[0]))
    return divisions[-1][1]
