"""Checks and restriction of a search space for the data of a study: their task, their classes and the image size."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

import numpy as np

from automl_cxr.config import DEFAULTS_OF_TASK, TrialConfig
from automl_cxr.engine.parameters import Choice, Value
from automl_cxr.engine.space import Space
from automl_cxr.errors import ImpossibleModelError, SpaceError
from automl_cxr.input_sizes import SIZE_HYPERPARAMETERS, refuse_small_images
from automl_cxr.study.available_space import without_values
from automl_cxr.study.spaces import refuse_unused, refuse_unused_fixed

TASK_HYPERPARAMETERS = ("loss", "imbalance", "focal_alpha", "uncertain_targets")
"""Hyperparameters whose possible values depend on the task and on the number of classes or findings."""

_N_DRAWN = 500  # points of a space that has infinitely many

Check = Callable[[TrialConfig], None]
"""Raises an ``ImpossibleModelError`` if no network can be trained with a configuration."""


def check_space_for_data(original: Space, fixed: Mapping[str, Value], *, task: str, image_size: int, n_classes: int) -> None:
    """Check that a space can be searched with the data of a study.

    Args:
        original: The space without the fixed values.
        fixed: The fixed hyperparameters.
        task: What is predicted.
        image_size: Height and width of a decoded image in pixels.
        n_classes: Number of classes or findings.

    Raises:
        SpaceError: A hyperparameter has no effect for the task, a value is not possible for the task or for the number of
            classes, or no network of the space can be built for images of this size.
    """
    refuse_unused(original, original.names, task=task)
    refuse_unused_fixed(original, fixed, task=task)
    space = original.fix(fixed)
    constants: dict[str, Value] = {"task": task, **DEFAULTS_OF_TASK[task], "image_size": image_size}
    conflicts = _impossible(space, constants, TASK_HYPERPARAMETERS, lambda config: config.refuse_conflicts(n_classes))
    if conflicts:
        raise SpaceError(f"Space '{space.name}' contains a value that is not possible for these data. {conflicts[0][1]}")
    points = _points(space, SIZE_HYPERPARAMETERS)
    too_small = _impossible(space, constants, SIZE_HYPERPARAMETERS, refuse_small_images)
    if len(too_small) == len(points):
        raise SpaceError(
            f"A space must contain networks that can be built for the images of the study; space '{space.name}' contains none "
            f"at --image-size {image_size}. {too_small[0][1]}"
        )


def restrict_to_image_size(original: Space, fixed: Mapping[str, Value], image_size: int) -> tuple[Space, str | None]:
    """Leave out values of choices such that every network of a space can be built for images of a size.

    Values are left out one after another: first the one of whose points the largest share cannot be built.

    Args:
        original: The space without the fixed values; it contains points that can be built.
        fixed: The fixed hyperparameters.
        image_size: Height and width of the images in pixels.

    Returns:
        The space, and a message about the values that were left out; None if there are none.
    """
    space = original.fix(fixed)
    constants = {"image_size": image_size}
    choices = {parameter.name for parameter in space.parameters if isinstance(parameter, Choice)}
    removed: dict[str, set[Value]] = {}
    while too_small := _impossible(space, constants, SIZE_HYPERPARAMETERS, refuse_small_images):
        every = Counter(_values_of(_points(space, SIZE_HYPERPARAMETERS), choices))
        failed = Counter(_values_of((point for point, _ in too_small), choices))
        if not failed:
            break
        name, value = max(failed, key=lambda pair: (failed[pair] / every[pair], failed[pair]))
        removed.setdefault(name, set()).add(value)
        space = without_values(space, {name: {value}})
    if not removed:
        return original, None
    left_out = ", ".join(f"{name}={value}" for name, values in removed.items() for value in sorted(values, key=str))
    message = f"The space leaves out {left_out}, with which networks cannot be built for images of {image_size} pixels."
    return without_values(original, removed), message


def _impossible(
    space: Space, constants: Mapping[str, Value], names: Collection[str], check: Check
) -> list[tuple[Mapping[str, Value], ImpossibleModelError]]:
    """Return the points of some hyperparameters of a space that a check refuses, with the errors."""
    refused = []
    for point in _points(space, names):
        try:
            check(TrialConfig.from_values({**constants, **space.constants, **point}))
        except ImpossibleModelError as error:
            refused.append((point, error))
    return refused


def _points(space: Space, names: Collection[str]) -> Sequence[Mapping[str, Value]]:
    """Return all points of some hyperparameters of a space and of their parents; of infinitely many, return a sample."""
    needed = set(names)
    for parameter in reversed(space.parameters):  # parents come before the parameters that depend on them
        if parameter.name in needed:
            needed.update(parameter.when)
    part = Space(space.name, space.constants, tuple(item for item in space.parameters if item.name in needed))
    if part.is_finite:
        return list(part.points())
    rng = np.random.default_rng(0)
    return [part.sample(rng) for _ in range(_N_DRAWN)]


def _values_of(points: Iterable[Mapping[str, Value]], names: Collection[str]) -> Iterable[tuple[str, Value]]:
    return ((name, value) for point in points for name, value in point.items() if name in names)
