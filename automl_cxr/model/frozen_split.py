"""A network divided where training begins to act: what is the same in every epoch below, what learns above.

Below the cut nothing changes while a phase of training lasts: no layer that learns, no normalisation whose averages move, no
layer that draws at random. So it can be run over the images once. Above it stands a network of the very layers, and so the
very weights, of the whole one: what training it does is done to the whole network.

A cut lies at tensors of the whole network, or, where a backbone is trained in part, at the last tensor within the backbone
that all paths go through before the first layer that learns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import keras
from keras import layers

from automl_cxr.errors import UndividedError
from automl_cxr.model.graph import inputs_of, output_of, replay, source_name
from automl_cxr.model.resizer import RESIZER


@dataclass(frozen=True)
class FrozenPart:
    """What is computed once for each image.

    Attributes:
        name: Where it ends: the layer's name, after that of the backbone that it lies in or follows, such as
            "backbone@vector" or "backbone@fire5_concat".
        network: From raw pixels (n, h, w, 1) to one tensor; shares the layers of the whole network.
    """

    name: str
    network: keras.Model


@dataclass(frozen=True)
class DividedNetwork:
    """A network in two.

    Attributes:
        frozen: One part for each input of ``trained``, in their order; None for an input that takes raw pixels.
        trained: From the values of the frozen parts to the output of the whole network; shares its layers.
    """

    frozen: tuple[FrozenPart | None, ...]
    trained: keras.Model


def divide_network(network: keras.Model, *, with_views: bool = False) -> DividedNetwork:
    """Divide a network of ``build_model`` in the phase that it is set to.

    A branch without frozen weights, such as a scratch one, goes on taking pixels. Backbones are kept apart, so that what is
    computed of one serves its other partners.

    Args:
        network: From raw pixels to probabilities.
        with_views: Whether augmentation may lie in the frozen part, for images of which some views are drawn once.

    Raises:
        UndividedError: No frozen weights lie where they could be computed once, with the reason.
    """
    cuts = _find_cuts(network, with_views=with_views)
    if all(cut.part is None for cut in cuts):
        raise UndividedError(_explain(network, with_views=with_views))
    inputs = [keras.Input(cut.entry.shape[1:], dtype=cut.entry.dtype, name=f"input_{n}") for n, cut in enumerate(cuts, 1)]
    passed = [tensor if cut.upper is None else cut.upper(tensor) for cut, tensor in zip(cuts, inputs, strict=True)]
    above = replay(network, dict(zip((id(cut.replaced) for cut in cuts), passed, strict=True)))
    trained = keras.Model(inputs if len(inputs) > 1 else inputs[0], above, name="trained")
    if list(map(id, trained.trainable_variables)) != list(map(id, network.trainable_variables)):
        raise UndividedError("its layers would train in another order")  # which the moments of a checkpoint are kept in
    return DividedNetwork(tuple(cut.part for cut in cuts), trained)


@dataclass(frozen=True)
class _Cut:
    """A tensor that the upper part takes instead of computing it.

    Attributes:
        replaced: Tensor of the whole network from which on ``above`` computes.
        entry: What comes in: this tensor, or one within a backbone whose output this tensor is.
        upper: From the one to the other; None where they are the same.
        part: What computes ``entry``; None for raw pixels.
    """

    replaced: keras.KerasTensor
    entry: keras.KerasTensor
    upper: keras.Model | None
    part: FrozenPart | None


def _find_cuts(network: keras.Model, *, with_views: bool) -> list[_Cut]:
    """Walk from the pixels up, and cut wherever something that stands still meets something that learns or draws."""
    still: dict[int, _Standing] = {}
    cuts: dict[int, _Cut] = {}
    pixels = network.inputs[0]
    for operation in network.operations:
        if isinstance(operation, layers.InputLayer):
            still[id(operation.output)] = _Standing()
            continue
        sources = inputs_of(operation)
        below = [still.get(id(source)) for source in sources]
        joins = len({standing.backbone for standing in below if standing is not None and standing.backbone}) > 1
        if None not in below and not joins and _stands_still(operation, with_views=with_views):
            still[id(output_of(operation))] = _joined(operation, below)
            continue
        inner = _cut_within(network, operation) if None not in below and isinstance(operation, keras.Model) else None
        if inner is not None:
            cuts[id(inner.replaced)] = inner
            continue
        for source, standing in zip(sources, below, strict=True):
            if standing is None:
                continue
            if standing.backbone:
                part = FrozenPart(f"{standing.backbone}@{source_name(source)}", keras.Model(pixels, source))
                cuts[id(source)] = _Cut(source, source, None, part)
            elif standing.is_random:
                raise UndividedError("augmentation would show one branch other images than the other")
            else:
                cuts[id(pixels)] = _Cut(pixels, pixels, None, None)
    return list(cuts.values())


@dataclass(frozen=True)
class _Standing:
    """What lies below a tensor that stands still: the layer that brought the first frozen weights, and random draws."""

    backbone: str = ""
    is_random: bool = False


def _joined(operation: keras.Operation, below: Sequence[_Standing]) -> _Standing:
    backbone = next((standing.backbone for standing in below if standing.backbone), "")
    if not backbone and getattr(operation, "weights", ()):
        backbone = operation.name
    return _Standing(backbone, any(standing.is_random for standing in below) or is_stochastic(operation))


def _stands_still(operation: keras.Operation, *, with_views: bool) -> bool:
    """Tell whether an operation does the same in every epoch; outside of backbones it may draw views."""
    if isinstance(operation, keras.Model):
        return all(_stands_still(inner, with_views=False) for inner in operation.operations)
    learns = isinstance(operation, layers.Layer) and operation.trainable and bool(operation.weights)
    return not learns and (with_views or not is_stochastic(operation))


def is_stochastic(operation: keras.Operation) -> bool:
    """Tell whether an operation draws at random in training: it keeps the state of a generator, which is no weight."""
    return isinstance(operation, layers.Layer) and len(operation.variables) > len(operation.weights)


def _cut_within(network: keras.Model, backbone: keras.Model) -> _Cut | None:
    """Cut a backbone at the last tensor that all paths go through before the first layer that learns or draws."""
    operations = backbone.operations
    last_use = {id(source): position for position, operation in enumerate(operations) for source in inputs_of(operation)}
    bottleneck, waiting = None, set()  # tensors that something further up still takes
    for position, operation in enumerate(operations):
        if not _stands_still(operation, with_views=False):
            break
        made = id(output_of(operation))
        waiting = {tensor for tensor in (*waiting, made) if last_use.get(tensor, 0) > position}
        if waiting == {made}:
            bottleneck = operation
    if bottleneck is None:
        return None
    entry = output_of(bottleneck)
    lower = keras.Model(backbone.input, entry, name=backbone.name)
    if not lower.weights:
        return None
    (source,) = inputs_of(backbone)
    part = FrozenPart(f"{backbone.name}@{bottleneck.name}", keras.Model(network.inputs[0], lower(source)))
    inner = keras.Input(entry.shape[1:], dtype=entry.dtype, name="maps")
    upper = keras.Model(inner, replay(backbone, {id(entry): inner}), name=backbone.name)
    return _Cut(output_of(backbone), entry, upper, part)


def _explain(network: keras.Model, *, with_views: bool) -> str:
    """Say why nothing can be computed once."""
    if not any(isinstance(operation, keras.Model) for operation in network.operations):
        return "it has no frozen layers"
    for operation in network.operations:
        if isinstance(operation, keras.Model):
            if operation.name == RESIZER:
                return "a resizer that learns stands before the backbone"
            if operation.trainable_weights:
                return "the first layers of the backbone are trained"
            drawing = next((inner.name for inner in operation.operations if is_stochastic(inner)), None)
            if drawing is not None:
                return f"the layer {drawing} of the backbone draws at random"
        elif is_stochastic(operation) and not with_views:
            return "augmentation draws anew in each epoch; views=K keeps K draws"
    return "its backbone holds no frozen weights"
