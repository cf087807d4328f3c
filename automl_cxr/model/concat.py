"""Two networks cut where their features serve best and joined into a smaller one (after Rahimzadeh & Attar 2020)."""

from __future__ import annotations

import difflib
from pathlib import Path

import keras
from keras import layers

from automl_cxr.config import SCRATCH, TrialConfig
from automl_cxr.errors import ImpossibleModelError
from automl_cxr.model.backbones import build_backbone, find_backbone
from automl_cxr.model.freezing import BACKBONE, SECOND_BACKBONE
from automl_cxr.model.head import classifier_head
from automl_cxr.model.inputs import inner_size, raw_pixels, scaled_channels, three_channels
from automl_cxr.model.scratch import block_ends, describe_trunk, grow_trunk


def build_concat(config: TrialConfig, n_classes: int, *, weights_folder: Path | None) -> keras.Model:
    """Build two branches, each cut at its splice point, projected at each position, pooled and concatenated before the head.

    ``config.projection`` is a dense layer over the channels of each position; without one the feature maps are pooled as
    they are.

    Raises:
        ImpossibleModelError: The image is too small for a branch, or a branch has no such cut.
        TrialError: Weights cannot be had.
    """
    pixels, x = raw_pixels(config)
    has_backbone = {config.backbone, config.second_backbone} != {SCRATCH}
    rgb = three_channels(x, config) if has_backbone else None
    vectors = []
    for role, branch, cut, weights in (
        (BACKBONE, config.backbone, config.cut, config.weights),
        (SECOND_BACKBONE, config.second_backbone, config.second_cut, config.second_weights),
    ):
        if branch == SCRATCH:
            maps = _trunk(config, cut, name=f"{role}_trunk")(x)
        else:
            backbone = build_backbone(
                branch, inner_size(config), cut=cut, weights=weights, weights_folder=weights_folder, layer_name=role
            )
            maps = backbone(find_backbone(branch).preprocess(rgb, name=f"{role}_preprocess"))
        if config.projection > 0:
            maps = layers.Dense(config.projection, activation="relu", name=f"{role}_projection")(maps)
        vectors.append(layers.GlobalAveragePooling2D(name=f"{role}_vector")(maps))
    joined = layers.Concatenate(name="vector")(vectors)
    return keras.Model(pixels, classifier_head(joined, config, n_classes), name="concat")


def _trunk(config: TrialConfig, cut: str, *, name: str) -> keras.Model:
    """Build the configuration's scratch network down to a cut: a layer's name, the number of a block, or "" for all of it."""
    pixels = keras.Input((config.image_size, config.image_size, 1))
    maps = grow_trunk(scaled_channels(pixels, config), config, until=_layer_at(cut, config))
    return keras.Model(pixels, maps, name=name)


def _layer_at(cut: str, config: TrialConfig) -> str | None:
    if not cut:
        return None
    ends, names = block_ends(config), [name for name, _ in describe_trunk(config)]
    if cut.isdecimal():
        if not 1 <= int(cut) <= len(ends):
            raise ImpossibleModelError(f"The scratch branch has splice points 1 to {len(ends)}; received cut '{cut}'.")
        return ends[int(cut) - 1]
    if cut not in names:
        nearest = difflib.get_close_matches(cut, names, n=1, cutoff=0.5)
        way_out = f"Did you mean '{nearest[0]}'?" if nearest else f"It has {', '.join(names)}."
        raise ImpossibleModelError(f"A cut must name a layer of the scratch branch; received '{cut}'. {way_out}")
    return cut
