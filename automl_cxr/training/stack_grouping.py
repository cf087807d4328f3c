"""Which heads can train together: their shapes, what else they must share, and how they are divided into stacks.

Of heads of like width a stack is made, in which narrower ones are padded to the widest. A stack more takes longer to trace, a
wider one longer to train.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from automl_cxr.config import TrialConfig
from automl_cxr.model.head import dropout_seeds, hidden_widths
from automl_cxr.training.datasets import FeaturePart
from automl_cxr.training.sampling import images_per_epoch
from automl_cxr.training.trainer import n_steps

_MOST_HEADS = 64  # of a population
_MOST_BYTES = 2**29  # of its weights, gradients and moments
_NUMBERS_PER_WEIGHT = 4  # itself, its gradient, two moments
_STACK = 130_000  # weights: to trace a stack takes as long as to take 400 steps of so many more


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
    def kind(self) -> tuple[int, bool, bool]:
        """What the heads of a stack share beside what those of a company do."""
        return len(self.widths), self.has_dropout, self.has_decay

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
class StackGroup:
    """What heads have in common that can train an epoch together."""

    n_features: int
    n_classes: int
    optimizer: str
    batch_size: int
    n_shown: int
    n_steps_so_far: int

    @property
    def n_steps(self) -> int:
        """Gradient steps of an epoch."""
        return n_steps(self.n_shown, self.batch_size)


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


def stack_group_of(config: TrialConfig, state: HeadState, train: FeaturePart, n_classes: int) -> StackGroup:
    """Tell which heads a head can train its next epoch with: those of equal company."""
    n_shown = int(images_per_epoch(train.labels, n_classes, config).sum())
    return StackGroup(n_features(train), n_classes, config.optimizer, config.batch_size, n_shown, state.n_steps)


def divide_stack_group(configs: Sequence[TrialConfig], company: StackGroup) -> list[slice]:
    """Divide heads of one company into populations that fit into memory, of one head at least."""
    slices, first, n_bytes = [], 0, 0
    for place, config in enumerate(configs):
        own = 4 * _NUMBERS_PER_WEIGHT * HeadShape.of(config, company.n_features, company.n_classes).n_parameters
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


def pad_shapes(shapes: Sequence[HeadShape]) -> list[HeadShape]:
    """Give the padded shape of the stack that each head belongs to, so that tracing and training together take least."""
    kinds: dict[tuple[int, bool, bool], list[HeadShape]] = defaultdict(list)
    for shape in sorted(shapes):
        kinds[shape.kind].append(shape)
    padded = {shape: widest for alike in kinds.values() for run, widest in _divide_into_stacks(alike) for shape in run}
    return [padded[shape] for shape in shapes]


def _divide_into_stacks(shapes: Sequence[HeadShape]) -> list[tuple[Sequence[HeadShape], HeadShape]]:
    """Divide sorted shapes of one kind into runs, each with the shape that holds all of it, at the least cost."""
    divisions: list[tuple[int, list[tuple[Sequence[HeadShape], HeadShape]]]] = [(0, [])]  # of the first n shapes
    for end in range(1, len(shapes) + 1):
        possible = []
        for first in range(end):
            run = shapes[first:end]
            widths = tuple(map(max, zip(*(shape.widths for shape in run), strict=True)))
            widest = dataclasses.replace(run[0], widths=widths)
            cost, runs = divisions[first]
            possible.append((cost + _STACK + len(run) * widest.n_parameters, [*runs, (run, widest)]))
        divisions.append(min(possible, key=lambda division: division[0]))
    return divisions[-1][1]
