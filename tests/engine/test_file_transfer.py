"""The transfer of the files of an objective, on one machine of a real cluster."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import ray

from automl_cxr.engine.file_transfer import pack, unpack


@dataclasses.dataclass(frozen=True)
class Reading:
    """An objective with an input that names the file with its content."""

    images: Path

    @property
    def inputs(self):
        return (self.images,)

    def as_one_file(self, path):
        return Path(path.read_text())

    def reading(self, places):
        return dataclasses.replace(self, images=places[self.images])

    def __call__(self, proposal): ...


@pytest.mark.long
def test_the_file_with_the_content_of_an_input_is_copied(tmp_path, monkeypatch):
    monkeypatch.setattr("automl_cxr.engine.file_transfer._BLOCK", 10_000)  # three blocks
    images = np.random.default_rng(0).integers(0, 255, (6, 64, 64), dtype=np.uint8)
    np.save(tmp_path / "images.npy", images)
    (tmp_path / "selection.txt").write_text(str(tmp_path / "images.npy"))
    objective = Reading(tmp_path / "selection.txt")
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
    try:
        sources = pack(objective)
        assert unpack(objective, sources) == objective  # the input exists here
        missing = {path: dataclasses.replace(source, n_bytes=0) for path, source in sources.items()}
        copied = unpack(objective, missing).images
    finally:
        ray.shutdown()
    assert copied.parent.name == "copies"
    assert np.array_equal(np.load(copied), images)
