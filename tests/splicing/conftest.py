"""A study with two small networks trained from scratch. Only the best one has a model and can be a branch."""

import pytest

from automl_cxr import api

SCRATCH_BRANCH = """
family = "scratch"
n_blocks = 2
filters = 4
n_dense = 0
[learning_rate]
type = "choice"
values = [0.01, 0.001]
"""


@pytest.fixture(scope="session")
def trained(tmp_path_factory, phantoms):
    """Return the study. Its seed gives it a validation part that no other study has."""
    runs = tmp_path_factory.mktemp("runs")
    (runs / "tiny.toml").write_text(SCRATCH_BRANCH)
    settings = {"trials": 2, "epochs": 1, "image_size": 32, "batch_size": 64, "seed": 3, "keep_models": 1, "executor": "inline"}
    return api.search(str(runs / "tiny.toml"), phantoms, name="tiny", runs=runs, **settings)
