"""Named configurations: the preset of a study file or search space, or a backbone with the default head."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from automl_cxr.architectures import BACKBONES
from automl_cxr.config import TrialConfig
from automl_cxr.encoder_files import is_encoder
from automl_cxr.errors import UnknownNameError, UsageError
from automl_cxr.study.spaces import load_space, refuse_unused_fixed, shipped
from automl_cxr.study.study_files import find_study_file, read_study_file
from automl_cxr.text_records import parse_toml

_HYPERPARAMETERS = {"task": "task", "image-size": "image_size", "batch-size": "batch_size", "epochs": "epochs", "fit": "fit"}


@dataclass(frozen=True)
class Preset:
    """A named configuration.

    Attributes:
        name: Requested name.
        description: Description in one line.
        config: The configuration.
        n_classes: Number of classes in its publication, or None.
        published: Published parameter counts, with the keys "parameters" and "trainable".
    """

    name: str
    description: str
    config: TrialConfig
    n_classes: int | None = None
    published: Mapping[str, int] = field(default_factory=dict)


def find_preset(name: str, values: Mapping[str, Any]) -> Preset:
    """Return the configuration with a name, and replace the values of some hyperparameters.

    Args:
        name: Name of a shipped study or search space, path of such a TOML file, name of a backbone, or an encoder "onnx:FILE".
        values: Hyperparameters to set, by name.

    Raises:
        UnknownNameError: The name does not exist, or a key of ``values`` is not a hyperparameter.
        UsageError: A value is invalid, or the space searches a hyperparameter without a default.
    """
    if name in BACKBONES or is_encoder(name):
        config = TrialConfig.from_values({"family": "transfer", "backbone": name, "image_size": 224, **values})
        return Preset(name, f"{name} with a dense head", config)
    if name in shipped("studies") or (name.endswith(".toml") and _is_study_file(name)):
        return _preset_of_study_file(name, values)
    if name in shipped("search_spaces") or name.endswith(".toml"):
        space = load_space(name)
        return Preset(name, space.description, _preset(name, values, {}))
    raise UnknownNameError(
        "study, search space or backbone", name, [*shipped("studies"), *shipped("search_spaces"), *BACKBONES]
    )


def _is_study_file(path: str) -> bool:
    """Return whether a TOML file is a study file. Otherwise it is a search space: hyperparameters and a description."""
    if not Path(path).is_file():
        raise UsageError(f"A study file or search space must exist; received {path}. Correct the path.")
    try:
        document = parse_toml(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False  # loading it as a space raises the appropriate error
    return any("-" in key or key in ("space", "reference", "trials", "data", "name") for key in document)


def _preset_of_study_file(name: str, values: Mapping[str, Any]) -> Preset:
    file = read_study_file(find_study_file(name))
    settings = {
        hyperparameter: file.options[option] for option, hyperparameter in _HYPERPARAMETERS.items() if option in file.options
    }
    reference = dict(file.reference)
    return Preset(
        name,
        file.description,
        _preset(str(file.options.get("space", "scratch")), values, settings),
        n_classes=reference.pop("n_classes", None),
        published=reference,
    )


def _preset(space_name: str, values: Mapping[str, Any], settings: Mapping[str, Any]) -> TrialConfig:
    fixed = {name: value for name, value in values.items() if name not in ("image_size", "epochs")}
    original_space = load_space(space_name)
    space = original_space.fix(fixed)
    TrialConfig.from_values(space.constants)  # raises for unknown names and impossible values
    refuse_unused_fixed(original_space, fixed)
    preset = space.preset()
    if preset is None:
        missing = [parameter.name for parameter in space.parameters if parameter.default is None]
        raise UsageError(
            f"A preset needs a default for every hyperparameter; space {space.name} has none for {', '.join(missing)}. "
            f"Set them, for example with --set {missing[0]}=VALUE."
        )
    return TrialConfig.from_values({**settings, **space.constants, **preset, **values})
