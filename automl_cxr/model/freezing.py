"""Freezing the layers of backbones for a training phase.

The backbones of a network are nested models called ``backbone`` and ``second_backbone``; a scratch branch with trained weights
is called ``backbone_scratch_branch`` or ``second_backbone_scratch_branch``. A frozen batch normalisation always runs in
inference mode (Keras' rule for ``trainable = False``), so that frozen features do not depend on the batch. A change takes
effect at the next ``compile``.
"""

from __future__ import annotations

import difflib

import keras

from automl_cxr.config import TrialConfig
from automl_cxr.errors import ImpossibleModelError

BACKBONE, SECOND_BACKBONE = ROLES = "backbone", "second_backbone"  # names of the branches within a network, in order
SCRATCH_BRANCH = "{}_scratch_branch"  # name of a scratch branch, by its role


def set_phase(model: keras.Model, config: TrialConfig, *, frozen: bool) -> None:
    """Freeze the backbones of a network, except for the layers that the phase trains.

    Networks and scratch branches with random initial weights are not changed. If one of two backbones does not have the layer
    ``unfreeze_from``, it stays frozen.

    Args:
        model: A network of ``build_model``.
        config: Its configuration; ``unfreeze`` or ``unfreeze_from`` chooses the layers that are trained.
        frozen: Whether the phase trains no layer of a backbone.

    Raises:
        ImpossibleModelError: No backbone has the layer ``unfreeze_from``.
    """
    trained = [
        SCRATCH_BRANCH.format(role) for role, branch in zip(ROLES, config.branches, strict=False) if branch.is_pretrained
    ]
    backbones = [layer for layer in model.layers if layer.name in (*ROLES, *trained)]
    for backbone in backbones:
        freeze_except_last(backbone, 0 if frozen or config.unfreeze_from else config.unfreeze)
    if backbones and config.unfreeze_from and not frozen:
        named = [backbone for backbone in backbones if config.unfreeze_from in _names(backbone)]
        for backbone in named or backbones[:1]:  # if none has the layer, the error suggests a name of the first backbone
            freeze_before(backbone, config.unfreeze_from)
    if config.freeze_norm:
        for backbone in backbones:
            freeze_normalisation(backbone)


def layers_with_weights(backbone: keras.Model) -> list[keras.layers.Layer]:
    """List the layers with weights in the order of the network; ``unfreeze`` counts these."""
    return [layer for layer in backbone.layers if layer.weights]


def freeze_except_last(backbone: keras.Model, n: int) -> None:
    """Make the last ``n`` layers with weights (all if there are fewer) trainable and freeze the others."""
    candidates = layers_with_weights(backbone)
    _train(backbone, candidates[max(0, len(candidates) - n) :])


def freeze_before(backbone: keras.Model, layer_name: str) -> None:
    """Make the named layer and all later layers of the network trainable and freeze the others.

    Raises:
        ImpossibleModelError: The network has no layer of this name.
    """
    names = _names(backbone)
    if layer_name not in names:
        nearest = difflib.get_close_matches(layer_name, names, n=1, cutoff=0.5)
        remedy = f"Did you mean '{nearest[0]}'?" if nearest else "`automl-cxr describe` lists the layers."
        raise ImpossibleModelError(f"The first trained layer must be one of the backbone; received '{layer_name}'. {remedy}")
    _train(backbone, [layer for layer in backbone.layers[names.index(layer_name) :] if layer.weights])


def freeze_normalisation(backbone: keras.Model) -> None:
    """Freeze every batch normalisation: it then uses its moving averages and not the statistics of a batch."""
    for layer in layers_with_weights(backbone):
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.trainable = False


def _names(backbone: keras.Model) -> list[str]:
    return [layer.name for layer in backbone.layers]


def _train(backbone: keras.Model, trained: list[keras.layers.Layer]) -> None:
    """Make these layers with weights trainable and freeze the others."""
    backbone.trainable = True  # otherwise the setting of the model would override those of its layers
    for layer in layers_with_weights(backbone):
        layer.trainable = layer in trained
