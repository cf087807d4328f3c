"""The batch size that a study chooses on a machine with GPUs."""

import io
import json

import pytest

from automl_cxr.engine.parameters import Choice
from automl_cxr.engine.space import Space
from automl_cxr.study import batch_size
from automl_cxr.study.batch_size import choose_batch_size
from automl_cxr.training.memory_needs import main

SETTINGS = {"task": "multiclass", "image_size": 64, "fit": "stretch", "batch_size": 32}
GIB = 2**30


def space_of(**constants):
    values = {"family": "scratch", "scaled_rate": True, "n_blocks": 3, **constants}
    searched = () if "filters" in constants else (Choice(name="filters", values=(8, 16)),)
    return Space("test", values, searched)


def choose(space, *, memory, n_images=100_000, gpus_per_trial=None, monkeypatch):
    monkeypatch.setattr(batch_size, "nvidia_memory_bytes", lambda: memory)
    return choose_batch_size(space, SETTINGS, n_classes=3, n_images=n_images, gpus_per_trial=gpus_per_trial)


@pytest.fixture
def needs(monkeypatch):
    """1 GiB for a network and 0.1 GiB for each image."""
    monkeypatch.setattr(batch_size, "_memory_needs", lambda configs, n_classes: [(GIB, GIB // 10)] * len(configs))


@pytest.mark.parametrize(
    ("memory", "n_images", "gpus_per_trial", "expected"),
    [
        ([], 100_000, None, 32),
        ([80 * GIB], 100_000, None, 128),
        ([80 * GIB], 100_000, 0.25, 64),  # 10 GiB: 1 + 6.4, but not 1 + 12.8
        ([80 * GIB], 100_000, 2, 128),
        ([80 * GIB, 16 * GIB], 100_000, None, 64),
        ([8 * GIB], 100_000, None, 32),
        ([80 * GIB], 6_399, None, 64),
        ([80 * GIB], 6_400, None, 128),
        ([80 * GIB], 900, None, 32),
    ],
)
@pytest.mark.usefixtures("needs")
def test_the_batch_grows_with_memory_and_images(memory, n_images, gpus_per_trial, expected, monkeypatch):
    chosen = choose(space_of(), memory=memory, n_images=n_images, gpus_per_trial=gpus_per_trial, monkeypatch=monkeypatch)
    assert chosen == expected


@pytest.mark.usefixtures("needs")
@pytest.mark.parametrize("constants", [{"scaled_rate": False}, {"batch_size": 16}])
def test_spaces_without_scaled_rates_or_with_a_batch_size_keep_it(constants, monkeypatch):
    assert choose(space_of(**constants), memory=[80 * GIB], monkeypatch=monkeypatch) == 32


def test_the_batch_does_not_change_if_memory_cannot_be_counted(monkeypatch):
    monkeypatch.setattr(batch_size, "_COMMAND", ("-c", "raise SystemExit(1)"))
    assert choose(space_of(), memory=[80 * GIB], monkeypatch=monkeypatch) == 32


def test_memory_grows_with_the_network_and_impossible_ones_are_not_counted(monkeypatch, capsys):
    configs = [{**SETTINGS, "n_blocks": 3, "filters": filters} for filters in (8, 32)] + [{**SETTINGS, "family": "fused"}]
    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps({"configs": configs, "n_classes": 3})))
    main()
    (small, small_image), (large, large_image) = json.loads(capsys.readouterr().out)
    assert 0 < small < large
    assert 0 < small_image < large_image


@pytest.mark.slow  # starts a process that imports Keras
def test_memory_is_counted_in_another_process(monkeypatch):
    assert choose(space_of(), memory=[80 * GIB], monkeypatch=monkeypatch) == 128
    assert choose(space_of(), memory=[1], monkeypatch=monkeypatch) == 32
