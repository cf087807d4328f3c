"""The seed of a study determines its split, proposals, initial weights and augmentation."""

import numpy as np
import pytest

from automl_cxr import api

SPACE = """
family = "scratch"
n_blocks = 1
filters = 4
dropout = 0.3
augmentation = 0.5
batch_norm = true
[dense_units]
type = "int"
low = 4
high = 64
[learning_rate]
type = "float"
low = 1e-3
high = 1e-1
log = true
"""


@pytest.fixture
def search(tmp_path, phantoms):
    (tmp_path / "tiny.toml").write_text(SPACE)

    def search_tiny(folder, seed):
        return api.search(
            str(tmp_path / "tiny.toml"), phantoms, name="s", trials=1, epochs=2, image_size=32, batch_size=64, seed=seed,
            runs=tmp_path / folder, executor="inline",
        )  # fmt: skip

    return search_tiny


def results(study):
    """Return everything that the seed of a study determines."""
    store = study._store
    trials = [(dict(trial.params), trial.seed, dict(trial.scores), trial.score) for trial in study.trials]
    probabilities = np.concatenate([store.predictions(trial.number).probabilities for trial in study.trials])
    return trials, (store.folder / "split.json").read_text(), probabilities


@pytest.mark.slow
def test_equal_seeds_give_equal_studies_and_different_seeds_different_ones(search):
    trials, split, probabilities = results(search("a", 7))
    trials_again, split_again, probabilities_again = results(search("b", 7))
    assert trials == trials_again
    assert split == split_again
    assert np.array_equal(probabilities, probabilities_again)
    others, other_split, _ = results(search("c", 8))
    assert split != other_split
    for one, other in zip(trials, others, strict=True):
        assert one[0] != other[0]
        assert one[1] != other[1]
        assert one[2] != other[2]
