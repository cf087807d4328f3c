"""Which layers of a backbone train, and when.

The backbones of a network are models within it, called ``backbone`` and ``second_backbone``. A frozen batch normalisation
runs in inference mode (Keras' rule for ``trainable = False``), so that frozen features do not depend on the batch.
"""

from __future__ import annotations

import difflib

import keras

from automl_cxr.config import TrialConfig
from automl_cxr.errors import ImpossibleModelError

BACKBONE, SECOND_BACKBONE = "backbone", "second_backbone"


def set_phase(model: keras.Model, config: TrialConfig, *, frozen: bool) -> None:
    """Freeze the backbones of a network wholly, or down to ``config.unfreeze`` or ``config.unfreeze_from``.

    Networks without a backbone stay as they are. A change counts from the next ``compile`` on.

    Raises:
        ImpossibleModelError: No backbone has a layer of the name ``config.unfreeze_from``.
    """
    backbones = [layer for layer in model.layers if layer.name in (BACKBONE, SECOND_BACKBONE)]
    for backbone in backbones:
        if not frozen and config.unfreeze_from:
            _train_from(backbone, config.unfreeze_from)
        else:
            _train_last(backbone, 0 if frozen else config.unfreeze)


def weight_bearing_layers(backbone: keras.Model) -> list[keras.layers.Layer]:
    """List the layers that hold weights, from the image on: what ``unfreeze`` counts."""
    return [layer for layer in backbone.layers if layer.weights]


def _train_last(backbone: keras.Model, n_layers: int) -> None:
    bearing = weight_bearing_layers(backbone)
    _freeze(bearing, max(0, len(bearing) - n_layers))


def _train_from(backbone: keras.Model, name: str) -> None:
    """Train the named layer and all that the backbone lists after it."""
    names = [layer.name for layer in backbone.layers]
    if name not in names:
        nearest = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
        way_out = f"Did you mean '{nearest[0]}'?" if nearest else "`automl-cxr describe` lists the layers."
        raise ImpossibleModelError(
            f"Hyperparameter 'unfreeze_from' must name a layer of the backbone; received '{name}'. {way_out}"
        )
    bearing = weight_bearing_layers(backbone)
    _freeze(bearing, sum(names.index(layer.name) < names.index(name) for layer in bearing))


def _freeze(layers: list[keras.layers.Layer], n_frozen: int) -> None:
    for position, layer in enumerate(layers):
        layer.trainable = position >= n_frozen
