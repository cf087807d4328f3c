"""Study files: options of `automl-cxr search` in TOML, optionally with the search space.

description = "ResNet101V2, as published"
image-size = 256                    # a long option of `automl-cxr search` without its hyphens
trials = 1
[reference]                         # published counts, for `automl-cxr describe`
n_classes = 3
parameters = 42632707
[space]                             # a search space; alternatively space = "NAME" above
family = "transfer"
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from automl_cxr.errors import UnknownNameError, UsageError
from automl_cxr.study.options import study_file_keys
from automl_cxr.study.spaces import find_shipped
from automl_cxr.text_records import parse_toml

_REFERENCE = ("n_classes", "parameters", "trainable", "frozen_phase_trainable")


@dataclass(frozen=True)
class StudyFile:
    """Contents of a study file.

    Attributes:
        description: Description in one line.
        options: TOML value of each option; that of "space" is the path of the file itself if it contains a space.
        reference: Published counts.
    """

    description: str
    options: Mapping[str, Any]
    reference: Mapping[str, int]


def find_study_file(name: str) -> Path:
    """Return the path of a study file: a shipped one by its name, or a user's own by its path.

    Raises:
        UnknownNameError: There is no shipped study file of this name.
        UsageError: There is no file at this path.
    """
    return find_shipped("studies", "study file", name, hint="--study reads options from a file; --name names the study.")


def read_study_file(path: Path) -> StudyFile:
    """Read a study file.

    Raises:
        UsageError: The file is unreadable or not TOML, or its reference is not a table of whole numbers.
        UnknownNameError: The reference has an unknown key.
    """
    try:
        document = parse_toml(path.read_text(encoding="utf-8"))
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


def load_study_options(name: str) -> dict[str, str]:
    """Return the options in a study file as strings, as on the command line; lists are joined by commas.

    Args:
        name: Name of a shipped study file, or a path that ends in .toml.

    Raises:
        UnknownNameError: There is no such study file, or a key is not an option.
        UsageError: The file is not TOML.
    """
    path = find_study_file(name)
    settings = read_study_file(path).options
    keys = study_file_keys()
    for key in settings:
        if key not in keys:
            raise UnknownNameError(f"setting of the study file {path.name}", key, keys)
    return {key: ",".join(map(str, value)) if isinstance(value, list) else str(value) for key, value in settings.items()}
