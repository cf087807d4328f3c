"""Study files: the options of ``search`` as TOML, with the search space in them if they like.

description = "ResNet101V2, as published"
image-size = 256                    # a long option of `automl-cxr search`, without its hyphens
trials = 1
[reference]                         # what a publication says of it, for `automl-cxr describe`
n_classes = 3
parameters = 42632707
[space]                             # a search space; or, above, space = "NAME"
family = "transfer"
"""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from automl_cxr.errors import UnknownNameError, UsageError
from automl_cxr.study.spaces import find_shipped

_REFERENCE = ("n_classes", "parameters", "trainable", "frozen_phase_trainable")


@dataclass(frozen=True)
class StudyFile:
    """What a study file says.

    Attributes:
        description: One line for people.
        options: Option to value, as TOML has it; "space" is the file itself where it holds one.
        reference: Counts that a publication gives.
    """

    description: str
    options: Mapping[str, Any]
    reference: Mapping[str, int]


def find_study_file(name: str) -> Path:
    """Find a shipped study file by its name, or a user's own by its path.

    Raises:
        UnknownNameError: It is neither.
        UsageError: A path to no file.
    """
    return find_shipped("studies", "study file", name)


def read_study_file(path: Path) -> StudyFile:
    """Read a study file.

    Raises:
        UsageError: It is not TOML.
        UnknownNameError: Its reference counts something else than parameters and classes.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"The study file {path} cannot be read ({error}).") from error
    description = str(document.pop("description", ""))
    reference = _checked_reference(document.pop("reference", {}), path)
    if isinstance(document.get("space"), dict):
        document["space"] = str(path)
    return StudyFile(description, document, reference)


def _checked_reference(reference: Any, path: Path) -> dict[str, int]:
    if not isinstance(reference, dict) or any(type(count) is not int or count < 1 for count in reference.values()):
        raise UsageError(f"The reference of the study file {path} must be a table of whole numbers; received {reference!r}.")
    for key in reference:
        if key not in _REFERENCE:
            raise UnknownNameError(f"reference of the study file {path.name}", key, _REFERENCE)
    if reference.get("n_classes", 2) < 2:
        raise UsageError(
            f"The reference of the study file {path} needs two classes or more; received {reference['n_classes']}."
        )
    return reference


def load_study_options(name: str, options: Collection[str]) -> dict[str, str]:
    """Read the options that a study file sets, as they would be typed; a list is joined by commas.

    Args:
        name: A shipped study's name, or a path ending in .toml.
        options: Names of the options that there are, with hyphens.

    Raises:
        UnknownNameError: No such study, or a key that is no option.
        UsageError: The file is not TOML.
    """
    path = find_study_file(name)
    settings = read_study_file(path).options
    for key in settings:
        if key not in options:
            raise UnknownNameError(f"setting of the study file {path.name}", key, options)
    return {key: ",".join(map(str, value)) if isinstance(value, list) else str(value) for key, value in settings.items()}
