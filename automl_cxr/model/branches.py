"""A branch of a two-branch network on its own, and where it may be cut."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import keras

from automl_cxr.architectures import find_backbone
from automl_cxr.config import SCRATCH, TrialConfig
from automl_cxr.conv_spec import format_conv_spec
from automl_cxr.errors import UnknownNameError, UsageError
from automl_cxr.model.preprocessing import raw_pixels
from automl_cxr.model.scratch import block_ends, conv_spec_of
from automl_cxr.model.two_branch import ROLES, build_branches


def build_branch(
    config: TrialConfig, place: int, *, cuts: Sequence[str] = (), weights_folder: Path | None = None
) -> tuple[keras.Model, dict[str, str]]:
    """Build one branch of a two-branch configuration, down to its own cut, and find where else it may be cut.

    Args:
        config: The network.
        place: 0 for the first branch, 1 for the second.
        cuts: Layers, or numbers of splice points; without any, all splice points and the end of the branch.
        weights_folder: Where weight files are looked for first.

    Returns:
        A model from raw pixels (n, h, w, 1) to feature maps (n, h, w, channels); and by each cut's layer its place in the
        model, such as "backbone/fire5_concat", from shallow to deep.

    Raises:
        UnknownNameError: A cut names no layer of the branch.
        UsageError: A cut's layer has no feature maps, or a number has no splice point.
        ImpossibleModelError: The image is too small for the branch.
        TrialError: Its weights cannot be had.
    """
    keras.utils.clear_session()
    pixels, x = raw_pixels(dataclasses.replace(config, augmentation=0.0))
    role = ROLES[place]
    branch, seen = build_branches(x, config, weights_folder=weights_folder, roles=[role])[role]
    name = config.branches[place].backbone
    points = block_ends(config) if name == SCRATCH else list(find_backbone(name).splice_points)
    places = {cut: f"{branch.name}/{cut}" for cut in _choose_cuts(branch, name, points, cuts)}
    return keras.Model(pixels, branch(seen), name=name), places


def _choose_cuts(branch: keras.Model, name: str, points: Sequence[str], cuts: Sequence[str]) -> list[str]:
    """Name the layers of some cuts in the order of the network, each once."""
    there = [layer.name for layer in branch.layers if not isinstance(layer, keras.layers.InputLayer)]
    points = [point for point in points if point in there]
    if not cuts:
        end = branch.output._keras_history.operation.name
        return points if end in points else [*points, end]
    named = set()
    for cut in cuts:
        if cut.isdecimal() and not 1 <= int(cut) <= len(points):
            raise UsageError(f"Branch {name} has splice points 1 to {len(points)} here; received cut '{cut}'.")
        layer = points[int(cut) - 1] if cut.isdecimal() else cut
        if layer not in there:
            raise UnknownNameError(f"cut of {name}", layer, there)
        if len(branch.get_layer(layer).output.shape) != 4:
            raise UsageError(
                f"A cut must be at a layer with feature maps; '{layer}' of {name} has none. "
                f"Its splice points are {', '.join(points)}."
            )
        named.add(layer)
    return [layer for layer in there if layer in named]


def one_branch(config: TrialConfig, place: int, cut: str) -> TrialConfig:
    """Describe the network that has one branch of a two-branch configuration, down to a cut, and the same head.

    Args:
        config: The two-branch network.
        place: 0 for the first branch, 1 for the second.
        cut: Name of the layer that the branch ends at.
    """
    name, _, weights = config.branches[place]
    if name != SCRATCH:
        return dataclasses.replace(config, family="transfer", backbone=name, cut=cut, weights=weights, pooling="average")
    names = [layer for layer, _ in conv_spec_of(config)]
    kept = [layer for _, layer in conv_spec_of(config)][: names.index(cut) + 1]
    return dataclasses.replace(config, family="scratch", layers=format_conv_spec(kept), pooling="average")
