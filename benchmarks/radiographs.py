"""The location of the real radiographs and pretrained weights that benchmarks use."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

TEST_DATA_VARIABLE = "AUTOML_CXR_TEST_DATA"
_REPOSITORY = Path(__file__).resolve().parents[1]


def test_data_folder() -> Path:
    """Return the folder with real radiographs and weights, which are not part of the repository.

    Its name is in the environment variable AUTOML_CXR_TEST_DATA; without the variable, it is the folder ``shared`` beside the
    repository. CONTRIBUTING.md lists its contents.
    """
    return Path(os.environ.get(TEST_DATA_VARIABLE) or _REPOSITORY.parent / "shared")


def existing_folder(name: str) -> str:
    """Return the name of a folder, for argparse.

    Raises:
        ArgumentTypeError: The folder does not exist.
    """
    if not Path(name).is_dir():
        raise argparse.ArgumentTypeError(f"the folder {name} must exist; name another one, or set {TEST_DATA_VARIABLE}")
    return name


def default_radiographs() -> str:
    """Return the default folder of radiographs: 910 images of three classes, with patients."""
    return str(test_data_folder() / "data" / "covid3")


def default_weights() -> str:
    """Return the default folder of pretrained weights."""
    return str(test_data_folder() / "weights")
