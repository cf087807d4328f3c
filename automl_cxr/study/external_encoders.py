"""Encoders in ONNX files and tables of features as the inputs of a study: hyperparameters and spaces that suit them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from automl_cxr.architectures import TABLE, parse_backbone_layers
from automl_cxr.config import TrialConfig
from automl_cxr.encoder_files import find_encoder, is_encoder, resolve_encoder
from automl_cxr.engine.parameters import Choice
from automl_cxr.engine.space import Space
from automl_cxr.errors import SpaceError, TrialError, UsageError
from automl_cxr.study.options import AUTO, SearchOptions
from automl_cxr.weight_files import weight_folders

ENCODER_SPACE = "encoder"
"""The space of a study of one encoder or of a table of features: probes and heads on the features."""
_TAKE_VECTORS = ("probe", "transfer")


def with_resolved_encoders(options: SearchOptions) -> SearchOptions:
    """Return options in which encoders have absolute paths and digests, and in which defaults suit them.

    If ``backbone`` is an encoder and no space is chosen, the space is ``ENCODER_SPACE``, folds are chosen automatically, and
    probes use the encoder, too. If the encoder takes images of one size only, this is the image size, unless it is given.

    Raises:
        UsageError: The file of an encoder or its settings cannot be used.
    """
    given = dict(options.fixed or {})
    folders = weight_folders(options.weights_folder)
    changes: dict[str, Any] = {name: _resolve(name, value, folders) for name, value in given.items()}
    encoders = _encoders(changes)
    if not encoders:
        return options
    backbone = changes.get("backbone", "")
    is_default = options.space is None and is_encoder(backbone)
    if is_default:
        changes = _for_families(backbone, changes)
    return dataclasses.replace(
        options,
        fixed=changes,
        space=ENCODER_SPACE if is_default else options.space,
        folds=AUTO if is_default and options.folds is None else options.folds,
        image_size=options.image_size or _fixed_size(encoders[0]),
    )


def with_table(options: SearchOptions) -> SearchOptions:
    """Return options in which the networks take the table of features ``options.features``; without a table unchanged.

    If no space is chosen, the space is ``ENCODER_SPACE``, and folds are chosen automatically.
    """
    if options.features is None:
        return options
    is_default = options.space is None
    return dataclasses.replace(
        options,
        fixed=_for_families(TABLE, dict(options.fixed or {})),
        space=ENCODER_SPACE if is_default else options.space,
        folds=AUTO if is_default and options.folds is None else options.folds,
    )


def check_table_space(space: Space) -> None:
    """Check that all networks of a space, with its fixed values, can take a table of features.

    Raises:
        SpaceError: A family takes images only.
    """
    family = next((one for one in space.parameters if one.name == "family"), None)
    families = family.values if isinstance(family, Choice) else (space.constants.get("family", TrialConfig().family),)
    others = [str(name) for name in families if name not in _TAKE_VECTORS]
    if others:
        raise SpaceError(
            f"Networks that take a table of features are of the families {' and '.join(_TAKE_VECTORS)}; space '{space.name}' "
            f"contains {', '.join(others)}. Use --space {ENCODER_SPACE}, or --set family=probe."
        )


def _for_families(backbone: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Set the encoder in the hyperparameters of those families of ``ENCODER_SPACE`` that the values leave."""
    others = {name: value for name, value in values.items() if name != "backbone"}
    named = {"transfer": {"backbone": backbone}, "probe": {"probe_layers": f"{backbone}@{TABLE}"}}
    families = [values["family"]] if values.get("family") in named else list(named)
    return {**{name: value for family in families for name, value in named[family].items()}, **others}


def _resolve(name: str, value: Any, folders: list[Path]) -> Any:
    if name in ("backbone", "second_backbone") and is_encoder(str(value)):
        return resolve_encoder(str(value), folders)
    if name == "probe_layers":
        return "+".join(_resolve_layer(part.strip(), folders) for part in str(value).split("+"))
    return value


def _resolve_layer(part: str, folders: list[Path]) -> str:
    backbone, separator, layer = part.partition("@")
    return f"{resolve_encoder(backbone, folders)}{separator}{layer}" if is_encoder(backbone) else part


def _encoders(values: Mapping[str, Any]) -> list[str]:
    """List the encoders among hyperparameters."""
    named = [str(values[name]) for name in ("backbone", "second_backbone") if name in values]
    if "probe_layers" in values:
        named += [layer.backbone for layer in parse_backbone_layers(str(values["probe_layers"]))]
    return [name for name in named if is_encoder(name)]


def _fixed_size(name: str) -> int | None:
    """Return the height and width in pixels that an encoder takes; None for any.

    Raises:
        UsageError: The encoder cannot be read.
    """
    from automl_cxr.model.onnx_graph import read_graph  # imports Keras

    try:
        return read_graph(find_encoder(name)).size
    except TrialError as error:
        raise UsageError(str(error)) from error
