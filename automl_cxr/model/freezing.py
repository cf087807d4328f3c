"""Which layers of a backbone train, and when.

The backbones of a network are models within it, called ``backbone`` and ``second_backbone``, or ``..._scratch_branch`` where a scratch
network that is trained already takes the place of a published one. A frozen batch normalisation
runs in inference mode (Keras' rule for ``trainable = False``), whatever mode the network runs in, so that frozen features do
not depend on the batch. A change counts from the next ``compile`` on.
"""

from __future__ import annotations

import difflib

import keras

from automl_cxr.config import TrialConfig
from automl_cxr.errors import ImpossibleModelError

BACKBONE, SECOND_BACKBONE = ROLES = "backbone", "second_backbone"  # names of the branches within a network, in order
SCRATCH_BRANCH = "{}_scratch_branch"  # of a branch from scratch


def set_phase(model: keras.Model, config: TrialConfig, *, frozen: bool) -> None:
    """Freeze the backbones of a network wholly, or down to ``config.unfreeze`` or ``config.unfreeze_from``.

    Networks and trunks that begin at random stay as they are. Of two backbones, one without the layer ``unfreeze_from`` stays
    frozen.

    Raises:
        ImpossibleModelError: No backbone has a layer of that name.
    """
    trained = [
        SCRATCH_BRANCH.format(role) for role, branch in zip(ROLES, config.branches, strict=False) if branch.is_pretrained
    ]
    backbones = [layer for layer in model.layers if layer.name in (*ROLES, *trained)]
    for backbone in backbones:
        freeze_except_last(backbone, 0 if frozen or config.unfreeze_from else config.unfreeze)
    if backbones and config.unfreeze_from and not frozen:
        named = [backbone for backbone in backbones if config.unfreeze_from in _names(backbone)]
        for backbone in named or backbones[:1]:  # the first one says which name is near
            freeze_before(backbone, config.unfreeze_from)
    if config.freeze_norm:
        for backbone in backbones:
            freeze_normalisation(backbone)


def weight_bearing_layers(backbone: keras.Model) -> list[keras.layers.Layer]:
    """List the layers that hold weights, from the image on: what ``unfreeze`` counts."""
    return [layer for layer in backbone.layers if layer.weights]


def freeze_except_last(backbone: keras.Model, n: int) -> None:
    """Train the last ``n`` weight-bearing layers (all, if there are fewer) and freeze the others."""
    bearing = weight_bearing_layers(backbone)
    _train(backbone, bearing[max(0, len(bearing) - n) :])


def freeze_before(backbone: keras.Model, layer_name: str) -> None:
    """Train the named layer and those that the network lists after it, and freeze the others.

    Raises:
        ImpossibleModelError: The network has no such layer.
    """
    names = _names(backbone)
    if layer_name not in names:
        nearest = difflib.get_close_matches(layer_name, names, n=1, cutoff=0.5)
        way_out = f"Did you mean '{nearest[0]}'?" if nearest else "`automl-cxr describe` lists the layers."
        raise ImpossibleModelError(f"The first trained layer must be one of the backbone; received '{layer_name}'. {way_out}")
    _train(backbone, [layer for layer in backbone.layers[names.index(layer_name) :] if layer.weights])


def freeze_normalisation(backbone: keras.Model) -> None:
    """Keep batch normalisation as it was trained, wherever it lies: it then computes with its averages, not with a batch's."""
    for layer in weight_bearing_layers(backbone):
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.trainable = False


def _names(backbone: keras.Model) -> list[str]:
    return [layer.name for layer in backbone.layers]


def _train(backbone: keras.Model, trained: list[keras.layers.Layer]) -> None:
    """Train these weight-bearing layers and no other."""
    backbone.trainable = True  # a model that is frozen as a whole would hide what its layers say
    for layer in weight_bearing_layers(backbone):
        layer.trainable = layer in trained
