"""Restriction of a search space to the pretrained weights that are on this machine."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping

from automl_cxr.architectures import BACKBONES, IMAGENET, parse_backbone_layers
from automl_cxr.config import TrialConfig, used_by_of
from automl_cxr.engine.parameters import Choice, Parameter, Value
from automl_cxr.engine.space import Space
from automl_cxr.weight_files import list_weights

_BACKBONES_OF: Mapping[str, Callable[[str], set[str]]] = {
    "backbone": lambda value: {value},
    "second_backbone": lambda value: {value},
    "probe_layers": lambda value: {layer.backbone for layer in parse_backbone_layers(value)},
}
"""For each hyperparameter that names backbones: the backbones of a value."""


def restrict_to_available(space: Space, weights_folder: str | None) -> tuple[Space, tuple[str, ...]]:
    """Leave out the values of a space that need ImageNet weights which are not on this machine.

    A parameter without remaining values is left out, together with the values of other parameters that need it, such as the
    family "transfer" if there is no backbone. Points of the portfolio with such values are left out, too.

    Args:
        space: A space that names backbones.
        weights_folder: Folder that is searched first for pretrained weights.

    Returns:
        The space, and the backbones that were left out.
    """
    available = {name for name, backbone in BACKBONES.items() if not backbone.has_weights}
    available |= {row.backbone for row in list_weights(weights_folder) if row.weights == IMAGENET and row.file is not None}
    removed: dict[str, set[Value]] = {}  # values that no point may have, by parameter
    left_out: set[str] = set()
    for parameter in space.parameters:
        if isinstance(parameter, Choice) and parameter.name in _BACKBONES_OF:
            needed = {value: _BACKBONES_OF[parameter.name](str(value)) for value in parameter.values}
            left_out |= set().union(*needed.values()) - available
            removed[parameter.name] = {value for value, names in needed.items() if not names <= available}
            if len(removed[parameter.name]) == len(parameter.values):
                for parent, values in parameter.when.items():
                    removed.setdefault(parent, set()).update(values)
    return without_values(space, removed), tuple(sorted(left_out))


def without_values(space: Space, removed: Mapping[str, Collection[Value]]) -> Space:
    """Return a space without some values, and without all that is then impossible or has no effect."""
    remaining: dict[str, Parameter] = {}
    for parameter in space.parameters:
        restricted = _without(parameter, removed)
        if restricted is not None and all(parent in remaining or parent in space.constants for parent in restricted.when):
            remaining[parameter.name] = restricted
    family = remaining.get("family")
    families = family.values if isinstance(family, Choice) else (space.constants.get("family", TrialConfig().family),)
    constants = {name: value for name, value in space.constants.items() if set(used_by_of(name).families) & set(families)}
    portfolio = tuple(
        point
        for point in space.portfolio
        if all(name in remaining and remaining[name].contains(value) for name, value in point.items())
    )
    return Space(space.name, constants, tuple(remaining.values()), space.description, portfolio)


def _without(parameter: Parameter, removed: Mapping[str, Collection[Value]]) -> Parameter | None:
    """Return a parameter without the removed values; None if it has none left or can never be active."""
    when = {parent: tuple(v for v in values if v not in removed.get(parent, ())) for parent, values in parameter.when.items()}
    if not all(when.values()):
        return None
    if not isinstance(parameter, Choice):
        return dataclasses.replace(parameter, when=when)
    values = tuple(value for value in parameter.values if value not in removed.get(parameter.name, ()))
    if not values:
        return None
    default = parameter.default if parameter.default in values else None
    return dataclasses.replace(parameter, values=values, when=when, default=default)


def describe_left_out(names: Collection[str]) -> str:
    """Return a message about backbones that were left out."""
    return (
        f"The space leaves out {', '.join(names)}, whose ImageNet weights are not on this machine; "
        "`automl-cxr weights` lists where they can be obtained."
    )
