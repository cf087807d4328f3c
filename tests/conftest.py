"""What several rooms' tests stand on."""

import os
from pathlib import Path

import pytest

from automl_cxr.data.phantoms import draw_phantoms

pytest_plugins = ["tests.fast_trials"]


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """Keep the tests' decoded images out of the user's cache, in child processes too."""
    folder = tmp_path_factory.mktemp("cache")
    os.environ["AUTOML_CXR_CACHE"] = str(folder)
    return folder


@pytest.fixture(scope="session")
def shared_folder() -> Path:
    """Find the material beside the repository: real radiographs and weights that are never committed."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip(f"needs the shared material in {folder}")
    return folder


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory) -> Path:
    """Sixty phantom radiographs of three classes: enough for every part to hold every class."""
    return draw_phantoms(tmp_path_factory.mktemp("phantoms") / "data", n_images=60, image_size=64, seed=1)
