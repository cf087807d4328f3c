"""Models of one branch of a two-branch network, and the layers at which it may be cut."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import keras

from automl_cxr.architectures import find_backbone
from automl_cxr.config import SCRATCH, TrialConfig
from automl_cxr.conv_spec import format_conv_spec
from automl_cxr.errors import UnknownNameError, UsageError
from automl_cxr.input_sizes import block_ends, conv_spec_of
from automl_cxr.model.freezing import ROLES
from automl_cxr.model.keras_private import producer
from automl_cxr.model.preprocessing import raw_pixels
from automl_cxr.model.two_branch import build_branches


def build_branch(
    config: TrialConfig, index: int, *, cuts: Sequence[str] = (), weights_folder: Path | None = None
) -> tuple[keras.Model, dict[str, str]]:
    """Build one branch of a two-branch configuration up to its own cut, and list other layers at which it may be cut.

    Args:
        config: A configuration of family concat.
        index: 0 for the first branch, 1 for the second.
        cuts: Names of layers, or numbers of splice points; empty for all splice points and the end of the branch.
        weights_folder: Folder that is searched for weight files first.

    Returns:
        A model from raw pixels (n, h, w, 1) to feature maps (n, h, w, channels); and for each cut, from shallow to deep, the
        name of the layer and its full name in the model, such as "backbone/fire5_concat".

    Raises:
        UnknownNameError: A cut is not a layer of the branch.
        UsageError: The layer of a cut has no feature maps, or no splice point has the number.
        ImpossibleModelError: The image is too small for the branch.
        TrialError: Its weights are missing or damaged.
    """
    keras.utils.clear_session()
    pixels, x = raw_pixels(dataclasses.replace(config, augmentation=0.0))
    role, name = ROLES[index], config.branches[index].backbone
    branch, branch_input = build_branches(x, config, weights_folder=weights_folder, roles=[role])[role]
    points = block_ends(config) if name == SCRATCH else list(find_backbone(name).splice_points)
    full_names = {cut: f"{branch.name}/{cut}" for cut in _choose_cuts(branch, name, points, cuts)}
    return keras.Model(pixels, branch(branch_input), name=name), full_names


def _choose_cuts(branch: keras.Model, name: str, points: Sequence[str], cuts: Sequence[str]) -> list[str]:
    """Return the layers that cuts name, each once, in the order of the network."""
    available = [layer.name for layer in branch.layers if not isinstance(layer, keras.layers.InputLayer)]
    points = [point for point in points if point in available]
    if not cuts:
        end = producer(branch.output).name
        return points if end in points else [*points, end]
    chosen = set()
    for cut in cuts:
        if cut.isdecimal() and not 1 <= int(cut) <= len(points):
            raise UsageError(f"Branch {name} has splice points 1 to {len(points)} here; received cut '{cut}'.")
        layer = points[int(cut) - 1] if cut.isdecimal() else cut
        if layer not in available:
            raise UnknownNameError(f"cut of {name}", layer, available)
        if len(branch.get_layer(layer).output.shape) != 4:
            raise UsageError(
                f"A cut must be at a layer with feature maps; '{layer}' of {name} has none. "
                f"Its splice points are {', '.join(points)}."
            )
        chosen.add(layer)
    return [layer for layer in available if layer in chosen]


def single_branch_config(config: TrialConfig, index: int, cut: str) -> TrialConfig:
    """Return the configuration of the network that has one branch of a two-branch configuration and the same head.

    Args:
        config: A configuration of family concat.
        index: 0 for the first branch, 1 for the second.
        cut: Name of the last layer of the branch.
    """
    name, _, weights = config.branches[index]
    if name != SCRATCH:
        return dataclasses.replace(config, family="transfer", backbone=name, cut=cut, weights=weights, pooling="average")
    names = [layer for layer, _ in conv_spec_of(config)]
    stack = [layer for _, layer in conv_spec_of(config)][: names.index(cut) + 1]
    return dataclasses.replace(config, family="scratch", layers=format_conv_spec(stack), pooling="average")
