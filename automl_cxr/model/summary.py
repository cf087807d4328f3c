"""What a network consists of and what it costs, layer by layer."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import keras
from keras import layers

from automl_cxr.config import SCRATCH, TrialConfig
from automl_cxr.model.backbones import find_backbone
from automl_cxr.model.build import build_model
from automl_cxr.model.freezing import BACKBONE, SECOND_BACKBONE, set_phase
from automl_cxr.model.resizer import RESIZER
from automl_cxr.model.scratch import block_ends

_MULTIPLYING = (layers.Conv2D, layers.DepthwiseConv2D, layers.SeparableConv2D, layers.Dense)


@dataclass(frozen=True)
class LayerSummary:
    """One layer.

    Attributes:
        name: Its name, after the names of the models that it lies in.
        kind: Its class in Keras.
        output_shape: Of one image, without the batch.
        parameters: Numbers that it holds.
        trainable: How many of them training changes.
        multiply_adds: Multiplications with a parameter for one image; only convolutions and dense layers count.
    """

    name: str
    kind: str
    output_shape: tuple[int, ...]
    parameters: int
    trainable: int
    multiply_adds: int


@dataclass(frozen=True)
class PartSummary:
    """A part of a network: the resizer, a trunk or backbone with its projection, or the head."""

    parameters: int
    trainable: int
    multiply_adds: int


@dataclass(frozen=True)
class ModelSummary:
    """A network.

    Attributes:
        layers: From the pixels on.
        parts: Sums over them, by part.
        parameters: In all.
        trainable: Those that training changes, in the last phase where there are two.
        non_trainable: The others: frozen weights and moving averages.
        frozen_phase_trainable: What the first of two phases trains; None where there is one phase.
        multiply_adds: For one image.
        weight_bytes: Bytes of the weights in memory.
        splice_points: Layers of each branch of a cut network that `cut` may name by number, by the branch.
    """

    layers: tuple[LayerSummary, ...]
    parts: Mapping[str, PartSummary]
    parameters: int
    trainable: int
    non_trainable: int
    frozen_phase_trainable: int | None
    multiply_adds: int
    weight_bytes: int
    splice_points: Mapping[str, tuple[str, ...]]


def describe_model(config: TrialConfig, n_classes: int) -> ModelSummary:
    """Build a configuration's network with random weights, whatever weights it names, and count.

    Raises:
        ImpossibleModelError: The configuration describes no network.
    """
    unloaded = dataclasses.replace(config, weights="none", second_weights="none")
    model = build_model(unloaded, n_classes, steps_per_epoch=100)
    frozen_phase_trainable = _count(model.trainable_weights) if config.frozen_epochs > 0 else None
    set_phase(model, config, frozen=0 < config.epochs <= config.frozen_epochs)
    rows = tuple(_summarise_layers(model, prefix=""))
    return ModelSummary(
        layers=rows,
        parts=_sum_parts(rows),
        parameters=_count(model.weights),
        trainable=_count(model.trainable_weights),
        non_trainable=_count(model.non_trainable_weights),
        frozen_phase_trainable=frozen_phase_trainable,
        multiply_adds=sum(row.multiply_adds for row in rows),
        weight_bytes=sum(math.prod(weight.shape) * _item_bytes(weight) for weight in model.weights),
        splice_points=_splice_points(config),
    )


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
    """Tell from a layer's name where it belongs: models within the network, and what is named after them, are parts."""
    for part in (SECOND_BACKBONE, BACKBONE, RESIZER):
        if name.startswith(part):
            return part
    return "head" if name.startswith(("dense_", "probabilities")) else "trunk"


def _splice_points(config: TrialConfig) -> dict[str, tuple[str, ...]]:
    branches = {"transfer": (config.backbone,), "concat": (config.backbone, config.second_backbone)}.get(config.family, ())
    return {
        branch: tuple(block_ends(config)) if branch == SCRATCH else find_backbone(branch).splice_points for branch in branches
    }


def _summarise_layers(model: keras.Model, prefix: str) -> Iterator[LayerSummary]:
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _summarise_layers(layer, prefix=f"{prefix}{layer.name}/")
            continue
        shape = tuple(layer.output.shape[1:])
        yield LayerSummary(
            name=prefix + layer.name,
            kind=type(layer).__name__,
            output_shape=shape,
            parameters=_count(getattr(layer, "weights", [])),  # an operation of keras.ops is no layer and has none
            trainable=_count(getattr(layer, "trainable_weights", [])),
            multiply_adds=_count_multiply_adds(layer, shape),
        )


def _count_multiply_adds(layer: layers.Layer, output_shape: tuple[int, ...]) -> int:
    """Count positions of the output times entries of the kernels; biases are added, not multiplied."""
    if not isinstance(layer, _MULTIPLYING):
        return 0
    kernels = [weight for weight in layer.weights if len(weight.shape) > 1]
    return math.prod(output_shape[:-1]) * _count(kernels)


def _count(weights: list[keras.Variable]) -> int:
    return sum(math.prod(weight.shape) for weight in weights)


def _item_bytes(weight: keras.Variable) -> int:
    return 2 if "16" in str(weight.dtype) else 4
