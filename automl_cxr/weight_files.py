"""Finding the files of pretrained weights on this machine, without importing Keras."""

from __future__ import annotations

import difflib
import importlib.util
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from automl_cxr.architectures import BACKBONES, CHEXNET, IMAGENET, NONE, Backbone
from automl_cxr.errors import ImpossibleModelError, TrialError

FOLDER_VARIABLE = "AUTOML_CXR_WEIGHTS"
KERAS_SUFFIXES, TORCH_SUFFIXES = (".h5", ".hdf5", ".keras"), (".pth", ".tar", ".pt")
# Files of CheXNet (Rajpurkar et al. 2017, arXiv:1711.05225), in the order in which they are searched for.
CHEXNET_FILES = (
    "chexnet.h5",
    "chexnet.weights.h5",
    "chexnet.keras",
    "brucechou1983_CheXNet_Keras_0.3.0_weights.h5",
    "model.pth.tar",
)
CHEXNET_BACKBONE = "densenet121"
CHEXNET_SOURCES = "https://github.com/brucechou1983/CheXNet-Keras or https://github.com/arnoweng/CheXNet"


@dataclass(frozen=True)
class AvailableWeights:
    """The availability of a backbone's pretrained weights.

    Attributes:
        backbone: Name of the backbone.
        weights: "imagenet" or "chexnet".
        file: The file on this machine; None if there is none.
        source: Where the file is published, or the command that installs it.
        has_download: Whether a search downloads the file if it is missing.
    """

    backbone: str
    weights: str
    file: Path | None
    source: str
    has_download: bool


def list_weights(folder: str | os.PathLike[str] | None = None) -> list[AvailableWeights]:
    """List the pretrained weights that the registry knows, in the order of its backbones.

    Args:
        folder: Folder that is searched for files first.
    """
    found = []
    for name, backbone in BACKBONES.items():
        if backbone.weights_file:
            file = find_imagenet_file(backbone, folder)
            found.append(AvailableWeights(name, IMAGENET, file, backbone.weights_source, backbone.has_download))
        if name == CHEXNET_BACKBONE:
            file = _first_file(weight_folders(folder), CHEXNET_FILES)
            found.append(AvailableWeights(name, CHEXNET, file, CHEXNET_SOURCES, has_download=False))
    return found


def find_imagenet_file(backbone: Backbone, folder: str | os.PathLike[str] | None = None) -> Path | None:
    """Find the file of a backbone's ImageNet weights.

    It is searched for in ``folder``, in the folder of the environment variable AUTOML_CXR_WEIGHTS, in the installed package
    ``backbone.weights_package`` and in Keras' cache.

    Returns:
        The file, or None if it is not on this machine.

    Raises:
        ImpossibleModelError: No ImageNet weights are published for this backbone.
    """
    if not backbone.weights_file:
        raise ImpossibleModelError(
            f"Backbone '{backbone.name}' has no ImageNet weights; received weights 'imagenet'. "
            "Name a file of weights, use weights 'none', or use another backbone."
        )
    return _first_file([*imagenet_folders(backbone, folder), keras_models_folder()], [backbone.weights_file])


def imagenet_folders(backbone: Backbone, folder: str | os.PathLike[str] | None) -> list[Path]:
    """List the folders that are searched for a backbone's ImageNet weights before Keras' cache."""
    return [*weight_folders(folder), *_package_folder(backbone.weights_package)]


def find_chexnet_file(backbone: Backbone, folder: str | os.PathLike[str] | None = None) -> Path:
    """Find one of ``CHEXNET_FILES`` in ``folder`` or in the folder of the environment variable AUTOML_CXR_WEIGHTS.

    Raises:
        ImpossibleModelError: The backbone is not a DenseNet121.
        TrialError: There is no such file.
    """
    if backbone.name != CHEXNET_BACKBONE:
        raise ImpossibleModelError(
            f"CheXNet is a DenseNet121; received backbone '{backbone.name}' with weights 'chexnet'. "
            "Use densenet121, or weights 'imagenet'."
        )
    folders = weight_folders(folder)
    path = _first_file(folders, CHEXNET_FILES)
    if path is None:
        raise missing_file("CheXNet's weights", CHEXNET_FILES, folders, f"Download it from {CHEXNET_SOURCES}")
    return path


def find_file(weights: str, folder: str | os.PathLike[str] | None = None) -> Path:
    """Find a file of weights by its path, or by its name in ``folder`` or in the folder of AUTOML_CXR_WEIGHTS.

    Raises:
        TrialError: The file does not exist, or its suffix is not that of a weights file.
    """
    path = _first_file([Path(), *weight_folders(folder)], [Path(weights).expanduser()])
    if path is None:
        nearest = difflib.get_close_matches(weights, (NONE, IMAGENET, CHEXNET), n=1)
        remedy = f"Did you mean '{nearest[0]}'?" if nearest else "Correct the path."
        raise TrialError(f"Weights must be imagenet, chexnet, none or a file; the file '{weights}' does not exist. {remedy}")
    if path.suffix not in KERAS_SUFFIXES + TORCH_SUFFIXES:
        known = ", ".join(KERAS_SUFFIXES + TORCH_SUFFIXES)
        raise TrialError(
            f"A weights file must end in one of {known}; received '{path}'. Give the file the suffix of its format."
        )
    return path


def missing_file(what: str, names: Sequence[str], folders: Sequence[Path], remedy: str, reason: str = "") -> TrialError:
    """Return the error for weights that are in none of the searched folders.

    Args:
        what: The weights.
        names: Names of files that would do.
        folders: The searched folders.
        remedy: How the file can be obtained.
        reason: Why a download failed, or "" if none was tried.
    """
    searched = ", ".join(f"'{folder}'" for folder in folders) or "no folder"
    failed = f" and could not download it ({reason})" if reason else ""
    return TrialError(
        f"{what} must be in a file {' or '.join(names)}; searched in {searched}{failed}. "
        f"{remedy}, or name its folder with --weights or {FOLDER_VARIABLE}."
    )


def weight_folders(folder: str | os.PathLike[str] | None = None) -> list[Path]:
    """List the folders of a user's own weight files: ``folder`` and that of the environment variable AUTOML_CXR_WEIGHTS."""
    return [Path(path).expanduser() for path in (folder, os.environ.get(FOLDER_VARIABLE)) if path]


def keras_models_folder() -> Path:
    """Return the folder of Keras' downloaded models (keras/src/backend/config.py, keras/src/utils/file_utils.py)."""
    if "KERAS_HOME" in os.environ:
        return Path(os.environ["KERAS_HOME"]) / "models"
    home = Path.home() if os.access(Path.home(), os.W_OK) else Path("/tmp")  # noqa: S108 - Keras' choice
    return home / ".keras" / "models"


def _package_folder(package: str) -> list[Path]:
    """List the folder ``models`` of an installed package; empty if it is not installed. The package is not imported."""
    found = importlib.util.find_spec(package) if package else None
    return [Path(location) / "models" for location in found.submodule_search_locations or ()] if found else []


def _first_file(folders: Sequence[Path], names: Sequence[str | Path]) -> Path | None:
    """Return the first existing file; all names are tried in a folder before the next folder."""
    return next((folder / name for folder in folders for name in names if (folder / name).is_file()), None)
