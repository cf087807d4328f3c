"""Splitting a network into a frozen part, whose features are computed once, and the part that training changes.

The frozen part contains no layer that trains, no normalisation whose moving averages change and no random layer. Therefore it
produces the same features for an image in every epoch of a training phase. The trained part consists of the layers of the
whole network, not of copies. Therefore training it trains the whole network.

The split is at tensors of the whole network, or, if a backbone is trained in part, at the last tensor within the backbone that
all paths pass before the first trained layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import keras
from keras import layers

from automl_cxr.errors import NotCacheableError
from automl_cxr.model.graph import inputs_of, output_of, replay, source_name
from automl_cxr.model.resizer import RESIZER


@dataclass(frozen=True)
class FrozenPart:
    """The part of a network that is computed once for each image.

    Attributes:
        name: The backbone and the last layer of the part, such as "backbone@vector" or "backbone@fire5_concat".
        network: A model from raw pixels (n, h, w, 1) to one tensor. It shares the layers of the whole network.
    """

    name: str
    network: keras.Model


@dataclass(frozen=True)
class DividedNetwork:
    """A network in a frozen and a trained part.

    Attributes:
        frozen: One part for each input of ``trained``, in the same order; None for an input that takes raw pixels.
        trained: A model from the outputs of the frozen parts to the output of the whole network. It shares its layers.
    """

    frozen: tuple[FrozenPart | None, ...]
    trained: keras.Model


def divide_network(network: keras.Model, *, with_views: bool = False) -> DividedNetwork:
    """Divide a network of ``build_model`` for its current training phase.

    A branch without frozen weights, such as a scratch branch, still takes pixels. Each backbone has a part of its own, so that
    its features can be reused with another second branch.

    Args:
        network: A model from raw pixels to probabilities.
        with_views: Whether augmentation may be in the frozen part, because a fixed number of views is drawn once.

    Raises:
        NotCacheableError: No frozen weights can be computed once. The message is the reason.
    """
    cuts = _find_cuts(network, with_views=with_views)
    if all(cut.part is None for cut in cuts):
        raise NotCacheableError(_explain(network, with_views=with_views))
    inputs = [keras.Input(cut.entry.shape[1:], dtype=cut.entry.dtype, name=f"input_{n}") for n, cut in enumerate(cuts, 1)]
    values = [tensor if cut.upper is None else cut.upper(tensor) for cut, tensor in zip(cuts, inputs, strict=True)]
    output = replay(network, dict(zip((id(cut.replaced) for cut in cuts), values, strict=True)))
    trained = keras.Model(inputs if len(inputs) > 1 else inputs[0], output, name="trained")
    if list(map(id, trained.trainable_variables)) != list(map(id, network.trainable_variables)):
        # A checkpoint stores the optimizer's moments in the order of the variables.
        raise NotCacheableError("its layers would train in another order")
    return DividedNetwork(tuple(cut.part for cut in cuts), trained)


@dataclass(frozen=True)
class _Cut:
    """A tensor of the whole network that the trained part takes as input instead of computing it.

    Attributes:
        replaced: The tensor of the whole network.
        entry: The tensor that the frozen part computes: ``replaced``, or a tensor within the backbone that computes it.
        upper: A model from ``entry`` to ``replaced``; None if they are the same.
        part: The frozen part that computes ``entry``; None for raw pixels.
    """

    replaced: keras.KerasTensor
    entry: keras.KerasTensor
    upper: keras.Model | None
    part: FrozenPart | None


def _find_cuts(network: keras.Model, *, with_views: bool) -> list[_Cut]:
    """Find the tensors at which constant operations are followed by trained or random ones."""
    constants: dict[int, _Constant] = {}
    cuts: dict[int, _Cut] = {}
    pixels = network.inputs[0]
    for operation in network.operations:
        if isinstance(operation, layers.InputLayer):
            constants[id(operation.output)] = _Constant()
            continue
        sources = inputs_of(operation)
        known = [constants.get(id(source)) for source in sources]
        backbones = {constant.backbone for constant in known if constant is not None and constant.backbone}
        if None not in known and len(backbones) < 2 and _is_constant(operation, with_views=with_views):
            constants[id(output_of(operation))] = _merge(operation, known)
            continue
        inner = _cut_within(network, operation) if None not in known and isinstance(operation, keras.Model) else None
        if inner is not None:
            cuts[id(inner.replaced)] = inner
            continue
        for source, constant in zip(sources, known, strict=True):
            if constant is None:
                continue
            if constant.backbone:
                part = FrozenPart(f"{constant.backbone}@{source_name(source)}", keras.Model(pixels, source))
                cuts[id(source)] = _Cut(source, source, None, part)
            elif constant.is_random:
                raise NotCacheableError("the branches would get different augmented images")
            else:
                cuts[id(pixels)] = _Cut(pixels, pixels, None, None)
    return list(cuts.values())


@dataclass(frozen=True)
class _Constant:
    """A tensor that is the same in every epoch.

    Attributes:
        backbone: Name of the first layer with weights on the way to the tensor; "" if there is none.
        is_random: Whether it depends on random draws, which are made once for each view.
    """

    backbone: str = ""
    is_random: bool = False


def _merge(operation: keras.Operation, sources: Sequence[_Constant]) -> _Constant:
    backbone = next((source.backbone for source in sources if source.backbone), "")
    if not backbone and getattr(operation, "weights", ()):
        backbone = operation.name
    return _Constant(backbone, any(source.is_random for source in sources) or is_stochastic(operation))


def _is_constant(operation: keras.Operation, *, with_views: bool) -> bool:
    """Return whether an operation computes the same in every epoch. With views, those outside of a backbone may be random."""
    if isinstance(operation, keras.Model):
        return all(_is_constant(inner, with_views=False) for inner in operation.operations)
    is_trained = isinstance(operation, layers.Layer) and operation.trainable and bool(operation.weights)
    return not is_trained and (with_views or not is_stochastic(operation))


def is_stochastic(operation: keras.Operation) -> bool:
    """Return whether an operation is random in training: the state of its random generator is a variable, but not a weight."""
    return isinstance(operation, layers.Layer) and len(operation.variables) > len(operation.weights)


def _cut_within(network: keras.Model, backbone: keras.Model) -> _Cut | None:
    """Cut a backbone at the last tensor that all paths pass before the first trained or random layer."""
    operations = backbone.operations
    last_use = {id(source): position for position, operation in enumerate(operations) for source in inputs_of(operation)}
    bottleneck, pending = None, set()  # tensors that a later operation still uses
    for position, operation in enumerate(operations):
        if not _is_constant(operation, with_views=False):
            break
        output = id(output_of(operation))
        pending = {tensor for tensor in (*pending, output) if last_use.get(tensor, 0) > position}
        if pending == {output}:
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
    """Return the reason why no features can be computed once."""
    if not any(isinstance(operation, keras.Model) for operation in network.operations):
        return "it has no frozen layers"
    for operation in network.operations:
        if isinstance(operation, keras.Model):
            if operation.name == RESIZER:
                return "the learnable resizer before the backbone is trained"
            if operation.trainable_weights:
                return "the first layers of the backbone are trained"
            random_layer = next((inner.name for inner in operation.operations if is_stochastic(inner)), None)
            if random_layer is not None:
                return f"the layer {random_layer} of the backbone is random in training"
        elif is_stochastic(operation) and not with_views:
            return "augmentation is drawn again in each epoch; views=K caches K draws"
    return "its backbone has no frozen weights"
