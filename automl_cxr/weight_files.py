"""Location of files of pretrained weights. Importing this module does not load Keras."""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence
from pathlib import Path

from automl_cxr.config import NAMED_WEIGHTS
from automl_cxr.errors import TrialError

FOLDER_VARIABLE = "AUTOML_CXR_WEIGHTS"
KERAS_SUFFIXES, TORCH_SUFFIXES = (".h5", ".hdf5", ".keras"), (".pth", ".tar", ".pt")


def find_file(weights: str, folder: str | os.PathLike[str] | None = None) -> Path:
    """Find a file of weights by its path, or by its name in ``folder`` or in the folder of AUTOML_CXR_WEIGHTS.

    Raises:
        TrialError: The file does not exist, or its suffix is not that of a weights file.
    """
    path = first_file([Path(), *weight_folders(folder)], [Path(weights).expanduser()])
    if path is None:
        nearest = difflib.get_close_matches(weights, NAMED_WEIGHTS, n=1)
        remedy = f"Did you mean '{nearest[0]}'?" if nearest else "Correct the path."
        raise TrialError(f"Weights must be imagenet, chexnet, none or a file; the file '{weights}' does not exist. {remedy}")
    if path.suffix not in KERAS_SUFFIXES + TORCH_SUFFIXES:
        known = ", ".join(KERAS_SUFFIXES + TORCH_SUFFIXES)
        raise TrialError(
            f"A weights file must end in one of {known}; received '{path}'. Give the file the suffix of its format."
        )
    return path


def weight_folders(folder: str | os.PathLike[str] | None = None) -> list[Path]:
    """Return the folders that are searched for files of weights: ``folder``, then that of AUTOML_CXR_WEIGHTS."""
    return [Path(path).expanduser() for path in (folder, os.environ.get(FOLDER_VARIABLE)) if path]


def first_file(folders: Sequence[Path], names: Sequence[str | Path]) -> Path | None:
    """Return the first existing file; all names are tried in a folder before the next folder."""
    return next((folder / name for folder in folders for name in names if (folder / name).is_file()), None)
