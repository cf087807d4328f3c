"""Fixtures for the tests of several packages."""

import os
from pathlib import Path

import pytest

from automl_cxr.data.phantoms import draw_phantoms

REPOSITORY = Path(__file__).resolve().parents[1]
TEST_DATA_VARIABLE = "AUTOML_CXR_TEST_DATA"

pytest_plugins = ["tests.fast_trials"]


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """Use a temporary cache folder instead of the user's, also in child processes."""
    folder = tmp_path_factory.mktemp("cache")
    os.environ["AUTOML_CXR_CACHE"] = str(folder)
    return folder


@pytest.fixture(scope="session")
def test_data() -> Path:
    """Return the folder with real radiographs and weights, which are not part of the repository.

    Its name is in the environment variable AUTOML_CXR_TEST_DATA; without the variable, a folder ``shared`` beside the
    repository is used.
    """
    named = os.environ.get(TEST_DATA_VARIABLE)
    folder = Path(named or REPOSITORY.parent / "shared")
    if not (folder / "data").is_dir():
        if named:
            pytest.fail(f"{TEST_DATA_VARIABLE} must name a folder that contains the folder data; received {named}")
        pytest.skip(f"needs real radiographs: set {TEST_DATA_VARIABLE}, see CONTRIBUTING")
    return folder


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory) -> Path:
    """Draw 60 phantom radiographs of three classes, which is enough for each class in each part."""
    return draw_phantoms(tmp_path_factory.mktemp("phantoms") / "data", n_images=60, image_size=64, seed=1)
