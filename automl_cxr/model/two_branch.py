"""Networks of two cut branches whose features are concatenated (after Rahimzadeh & Attar 2020)."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path

import keras
from keras import layers

from automl_cxr.architectures import NAMED_WEIGHTS, find_backbone
from automl_cxr.config import SCRATCH, TrialConfig
from automl_cxr.errors import ImpossibleModelError
from automl_cxr.input_sizes import block_ends, conv_spec_of, inner_size
from automl_cxr.model.backbone_builder import build_backbone
from automl_cxr.model.backbones import preprocess
from automl_cxr.model.closed_form_head import read_closed_form_head
from automl_cxr.model.freezing import ROLES, SCRATCH_BRANCH
from automl_cxr.model.head import classifier_head, normalised
from automl_cxr.model.preprocessing import raw_pixels, scaled_channels, three_channels
from automl_cxr.model.scratch import build_conv_stack
from automl_cxr.model.weight_transfer import load_scratch_branch
from automl_cxr.weight_files import find_file


def build_concat(config: TrialConfig, n_classes: int, *, weights_folder: Path | None) -> keras.Model:
    """Build two branches up to their cuts, pool and concatenate their feature maps, and add a head.

    If ``config.projection`` is above 0, a dense layer is applied to the channels of each position before pooling.

    Raises:
        ImpossibleModelError: The image is too small for a branch, or a cut is not a layer of its branch.
        TrialError: Weights are missing or damaged.
    """
    pixels, x = raw_pixels(config)
    vectors = []
    for role, (branch, branch_input) in build_branches(x, config, weights_folder=weights_folder).items():
        maps = branch(branch_input)
        if config.projection > 0:
            maps = layers.Dense(config.projection, activation="relu", name=f"{role}_projection")(maps)
        pooled = layers.GlobalAveragePooling2D(name=f"{role}_vector")(maps)
        is_normalised = config.normalise and config.head_file is None  # a fitted head has its own standardisation
        vectors.append(normalised(pooled, name=f"{role}_normalised") if is_normalised else pooled)
    if config.head_file is None:
        vector = layers.Concatenate(name="vector")(vectors)
        return keras.Model(pixels, classifier_head(vector, config, n_classes), name="concat")
    joined = layers.Concatenate(name="joined")(vectors)
    fitted = read_closed_form_head(config.head_file, joined.shape[-1], n_classes)
    vector = fitted.standardise(joined, name="vector")
    model = keras.Model(pixels, classifier_head(vector, config, n_classes), name="concat")
    fitted.fill(model.get_layer("probabilities"))
    return model


def build_branches(
    x: keras.KerasTensor, config: TrialConfig, *, weights_folder: Path | None, roles: Sequence[str] = ROLES
) -> dict[str, tuple[keras.Model, keras.KerasTensor]]:
    """Build the branches of a configuration, each up to its cut.

    Args:
        x: Grey pixels 0..255 (n, h, w, 1).
        config: A configuration of family concat.
        weights_folder: Folder that is searched for weight files first.
        roles: The branches to build, of ``freezing.ROLES``.

    Returns:
        For each role, a model to feature maps, and the tensor to apply it to.

    Raises:
        ImpossibleModelError: The image is too small for a branch, or a cut is not a layer of its branch.
        TrialError: Weights are missing or damaged.
    """
    described = dict(zip(ROLES, config.branches, strict=True))
    rgb = three_channels(x, config) if any(described[role].backbone != SCRATCH for role in roles) else None
    branches = {}
    for role in roles:
        name, cut, weights = described[role]
        if name == SCRATCH:
            stack = _scratch_branch(config, cut, name=SCRATCH_BRANCH.format(role))
            if weights not in NAMED_WEIGHTS:
                load_scratch_branch(stack, find_file(weights, weights_folder))
            branches[role] = stack, x
        else:
            backbone = build_backbone(
                name, inner_size(config), cut=cut, weights=weights, weights_folder=weights_folder, layer_name=role
            )
            branches[role] = backbone, preprocess(rgb, find_backbone(name), name=f"{role}_preprocess")
    return branches


def _scratch_branch(config: TrialConfig, cut: str, *, name: str) -> keras.Model:
    """Build the convolution stack of a configuration up to a cut: a layer's name, the number of a block, or "" for the end."""
    pixels = keras.Input((config.image_size, config.image_size, 1))
    maps = build_conv_stack(scaled_channels(pixels, config), config, until=_layer_at(cut, config))
    return keras.Model(pixels, maps, name=name)


def _layer_at(cut: str, config: TrialConfig) -> str | None:
    if not cut:
        return None
    ends, names = block_ends(config), [name for name, _ in conv_spec_of(config)]
    if cut.isdecimal():
        if not 1 <= int(cut) <= len(ends):
            raise ImpossibleModelError(f"The scratch branch has splice points 1 to {len(ends)}; received cut '{cut}'.")
        return ends[int(cut) - 1]
    if cut not in names:
        nearest = difflib.get_close_matches(cut, names, n=1, cutoff=0.5)
        remedy = f"Did you mean '{nearest[0]}'?" if nearest else f"It has {', '.join(names)}."
        raise ImpossibleModelError(f"A cut must name a layer of the scratch branch; received '{cut}'. {remedy}")
    return cut
