"""A small finished study with real networks, shared by all tests of the session."""

import pytest

from automl_cxr import api

TINY_SPACE = """
family = "scratch"
n_blocks = 2
filters = 4
batch_norm = true
[dense_units]
type = "int"
low = 4
high = 16
default = 8
[learning_rate]
type = "float"
low = 1e-3
high = 1e-1
log = true
default = 1e-2
"""


@pytest.fixture(scope="session")
def finished(tmp_path_factory, phantoms):
    """Run four trials of two epochs in this process; return the study."""
    runs = tmp_path_factory.mktemp("runs")
    (runs / "tiny.toml").write_text(TINY_SPACE)
    return api.search(
        str(runs / "tiny.toml"), phantoms, name="done", trials=4, epochs=2, image_size=32, batch_size=8, runs=runs,
        executor="inline", keep_models=3,
    )  # fmt: skip
