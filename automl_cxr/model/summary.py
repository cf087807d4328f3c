"""Counting the parameters, multiplications and memory of a network, layer by layer."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import keras

from automl_cxr.architectures import find_backbone
from automl_cxr.config import SCRATCH, TrialConfig
from automl_cxr.input_sizes import block_ends
from automl_cxr.model.build import blueprint
from automl_cxr.model.flops import count_multiply_adds
from automl_cxr.model.freezing import BACKBONE, SECOND_BACKBONE, set_phase
from automl_cxr.model.graph import output_of
from automl_cxr.model.head import dropout_seeds, hidden_widths
from automl_cxr.model.resizer import RESIZER


@dataclass(frozen=True)
class LayerSummary:
    """Counts of one layer.

    Attributes:
        name: Its name, prefixed with the names of the nested models that contain it.
        kind: Its Keras class.
        output_shape: Shape of the output for one image, without the batch axis.
        parameters: Number of parameters.
        trainable: Number of parameters that training changes.
        multiply_adds: Multiplications with a kernel for one image, in convolutions, dense layers and matrix products.
    """

    name: str
    kind: str
    output_shape: tuple[int, ...]
    parameters: int
    trainable: int
    multiply_adds: int


@dataclass(frozen=True)
class PartSummary:
    """Counts of a part of a network: the resizer, a convolution stack or backbone with its projection, or the head."""

    parameters: int
    trainable: int
    multiply_adds: int


@dataclass(frozen=True)
class ModelSummary:
    """Counts of a network.

    Attributes:
        layers: Its layers in order.
        parts: Sums over the layers of each part.
        parameters: Number of all parameters.
        trainable: Number of parameters that training changes; in the last phase if there are two.
        non_trainable: Number of the others: frozen weights and moving averages.
        frozen_phase_trainable: Number of parameters that the first of two phases trains; None if there is one phase.
        multiply_adds: Multiplications with a kernel for one image.
        weight_bytes: Bytes of the weights in memory.
        activation_bytes: Estimated bytes of the layers' outputs for one image during a gradient step; measured to be within 20%
            of TensorFlow's use.
        number_bytes: Bytes of one number in the output of a layer.
        splice_points: For each branch, the layers that `cut` can name by their number.
    """

    layers: tuple[LayerSummary, ...]
    parts: Mapping[str, PartSummary]
    parameters: int
    trainable: int
    non_trainable: int
    frozen_phase_trainable: int | None
    multiply_adds: int
    weight_bytes: int
    activation_bytes: int
    number_bytes: int
    splice_points: Mapping[str, tuple[str, ...]]


def describe_model(config: TrialConfig, n_classes: int) -> ModelSummary:
    """Count the network of a configuration without allocating memory for its weights.

    Raises:
        ImpossibleModelError: The configuration does not describe a network.
    """
    with blueprint(config, n_classes) as model:
        rows = tuple(_summarise_layers(model, prefix=""))
        trainable, non_trainable = _count(model.trainable_weights), _count(model.non_trainable_weights)
        weight_bytes = sum(math.prod(weight.shape) * _item_bytes(weight.dtype) for weight in model.weights)
        number_bytes = _item_bytes(model.compute_dtype)
        set_phase(model, config, frozen=True)
        frozen_phase_trainable = _count(model.trainable_weights) if config.frozen_epochs > 0 else None
    return ModelSummary(
        layers=rows,
        parts=_sum_parts(rows),
        parameters=trainable + non_trainable,
        trainable=trainable,
        non_trainable=non_trainable,
        frozen_phase_trainable=frozen_phase_trainable,
        multiply_adds=sum(row.multiply_adds for row in rows),
        weight_bytes=weight_bytes,
        activation_bytes=_activation_bytes(rows, number_bytes),
        number_bytes=number_bytes,
        splice_points=_splice_points(config),
    )


def describe_with_head(counted: ModelSummary, config: TrialConfig, n_classes: int) -> ModelSummary:
    """Replace the head in the counts of a network by the head of another configuration.

    Args:
        counted: Counts of a network of which only the head is trained.
        config: A configuration that differs from that network's in its head only.
        n_classes: Number of classes.
    """
    last = next(position for position, row in enumerate(counted.layers) if row.name == "vector")
    head = list(_head_rows(math.prod(counted.layers[last].output_shape), config, n_classes))
    rows = (*counted.layers[: last + 1], *head)
    trainable = sum(row.trainable for row in head)
    return dataclasses.replace(
        counted,
        layers=rows,
        parts=_sum_parts(rows),
        parameters=counted.non_trainable + trainable,
        trainable=trainable,
        multiply_adds=sum(row.multiply_adds for row in rows),
        weight_bytes=counted.weight_bytes + _item_bytes("float32") * (trainable - counted.trainable),
        activation_bytes=_activation_bytes(rows, counted.number_bytes),
    )


def _head_rows(n_features: int, config: TrialConfig, n_classes: int) -> Iterator[LayerSummary]:
    """Yield the counts of the layers of ``classifier_head``."""
    widths, has_dropout = hidden_widths(config), bool(dropout_seeds(config))
    names = [*(f"dense_{number}" for number in range(1, len(widths) + 1)), "probabilities"]
    ends = itertools.pairwise((n_features, *widths, n_classes))
    if has_dropout and not widths:
        yield LayerSummary("dropout", "Dropout", (n_features,), 0, 0, 0)
    for name, (n_in, n_out) in zip(names, ends, strict=True):
        n_weights = (n_in + 1) * n_out
        yield LayerSummary(name, "Dense", (n_out,), n_weights, n_weights, n_in * n_out)
        if has_dropout and name != "probabilities":
            yield LayerSummary(name.replace("dense", "dropout"), "Dropout", (n_out,), 0, 0, 0)


def _activation_bytes(rows: Sequence[LayerSummary], number_bytes: int) -> int:
    """Return the largest number of bytes of layer outputs that exist at the same time, for one image.

    The outputs of the first trained layer and of all later layers are stored for the backward pass. The outputs of earlier
    layers are freed after use, so that at most the input and the output of one layer exist at the same time.
    """
    bytes_of_rows = [math.prod(row.output_shape) * number_bytes for row in rows]
    first = next((position for position, row in enumerate(rows) if row.trainable), len(rows))
    stored = sum(bytes_of_rows[first:])
    temporary = max((before + after for before, after in itertools.pairwise(bytes_of_rows)), default=0)
    return max(stored, temporary)


def _sum_parts(rows: Sequence[LayerSummary]) -> dict[str, PartSummary]:
    by_part: dict[str, list[LayerSummary]] = {}
    for row in rows:
        by_part.setdefault(_part_of(row.name), []).append(row)
    return {
        part: PartSummary(
            sum(row.parameters for row in members),
            sum(row.trainable for row in members),
            sum(row.multiply_adds for row in members),
        )
        for part, members in by_part.items()
        if any(row.parameters for row in members)
    }


def _part_of(name: str) -> str:
    """Return the part that a layer belongs to, from its name: a nested model, or a layer named after one, is part of it."""
    for part in (SECOND_BACKBONE, BACKBONE, RESIZER):
        if name.startswith(part):
            return part
    return "head" if name.startswith(("dense_", "probabilities")) else "conv_stack"


def _splice_points(config: TrialConfig) -> dict[str, tuple[str, ...]]:
    return {
        name: tuple(block_ends(config)) if name == SCRATCH else find_backbone(name).splice_points
        for name, _, _ in config.branches
    }


def _summarise_layers(model: keras.Model, prefix: str) -> Iterator[LayerSummary]:
    for layer in model.operations:
        if isinstance(layer, keras.Model):
            yield from _summarise_layers(layer, prefix=f"{prefix}{layer.name}/")
            continue
        multiply_adds = count_multiply_adds(layer)
        if not isinstance(layer, keras.layers.Layer) and multiply_adds == 0:
            continue  # an operation of keras.ops without a kernel
        shape = tuple(output_of(layer).shape[1:])
        yield LayerSummary(
            name=prefix + layer.name,
            kind=type(layer).__name__,
            output_shape=shape,
            parameters=_count(getattr(layer, "weights", [])),  # an operation has no weights
            trainable=_count(getattr(layer, "trainable_weights", [])),
            multiply_adds=multiply_adds,
        )


def _count(weights: list[keras.Variable]) -> int:
    return sum(math.prod(weight.shape) for weight in weights)


def _item_bytes(dtype: str) -> int:
    return 2 if "16" in str(dtype) else 4
