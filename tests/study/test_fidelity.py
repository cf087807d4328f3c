"""Fidelity image_size: brackets whose rungs increase the image size and the epochs. The networks are real."""

import csv

import numpy as np
import pytest

from automl_cxr.config import TrialConfig
from automl_cxr.data.downscaled import downscaled_images
from automl_cxr.data.image_rows import open_images
from automl_cxr.errors import ImpossibleModelError, StudyMismatchError, UnknownNameError, UsageError
from automl_cxr.model.inference import load_model
from automl_cxr.records import TrialState
from automl_cxr.results.replay import replay_trial
from automl_cxr.study.fidelity import rung_image_size
from automl_cxr.training.trial import TrialTask, run_trial

SPACE = """
family = "scratch"
n_blocks = 1
dense_units = 4
patience = 1
[filters]
type = "int"
low = 2
high = 4
default = 3
[learning_rate]
type = "float"
low = 1e-3
high = 1e-1
log = true
default = 1e-2
"""


@pytest.mark.parametrize(("epoch", "size"), [(1, 32), (2, 32), (4, 48), (10, 64), (15, 80), (30, 112), (31, 112)])
def test_the_number_of_pixels_is_proportional_to_the_epochs(epoch, size):
    assert rung_image_size(112, epoch, 30) == size


def test_images_below_the_minimum_size_are_not_downscaled():
    assert {rung_image_size(24, epoch, 30) for epoch in range(1, 31)} == {24}


@pytest.mark.long
def test_a_bracket_increases_the_image_size_with_the_epochs(prepare, tmp_path, hyperband_search):
    (tmp_path / "tiny.toml").write_text(SPACE)
    prepared = prepare(
        space=str(tmp_path / "tiny.toml"), sampler="kt-hyperband", fidelity="image_size", epochs=3, batch_size=64, image_size=64
    )
    hyperband_search(prepared)
    store = prepared.store
    for record in store.records():
        facts = store.facts(record.number)
        size = 64 if record.state is TrialState.COMPLETE else rung_image_size(64, facts["rung"], 3)
        config = TrialConfig.from_json((store.trial_folder(record.number) / "config.json").read_text())
        assert config.image_size == facts["image_size"] == size
        with (store.trial_folder(record.number) / "history.csv").open(newline="") as file:
            history = [(int(row["epoch"]), int(row["image_size"])) for row in csv.DictReader(file)]
        if record.parent is None:
            assert {image_size for _, image_size in history} == {size}
    promoted = [record for record in store.records() if record.parent is not None]
    assert promoted
    for record in promoted:
        n_parent_epochs = max(store.record(record.parent).scores)
        assert list(record.scores) == [2, 3], (
            "the trial continues after its parent's last epoch, although its patience is one epoch"
        )
        assert store.facts(record.number)["image_sizes"] == [32, 64]
        with (store.trial_folder(record.number) / "history.csv").open(newline="") as file:
            assert [(row["epoch"], row["image_size"]) for row in csv.DictReader(file)] == [
                ("1", "32"),
                ("2", "64"),
                ("3", "64"),
            ]
        assert record.best_epoch > n_parent_epochs, "scores at a lower image size are not compared"
    replayed = replay_trial(store, promoted[-1].number)
    assert replayed.is_same, replayed
    assert list(replayed.replayed_scores) == [1, 2, 3]
    best = store.ranked()[0].number
    assert load_model(str(store.model_file(best))).input_shape == (None, 64, 64, 1)


@pytest.mark.long
def test_weights_that_depend_on_the_image_size_are_trained_from_the_start_at_the_larger_size(prepare, tmp_path):
    prepared = prepare(image_size=64)
    values = {"n_blocks": 1, "filters": 2, "dense_units": 4, "pooling": "flatten", "epochs": 2, "batch_size": 64}
    checkpoint = tmp_path / "c.npz"

    def run(image_size, **settings):
        folder = tmp_path / str(image_size)
        folder.mkdir()
        config = TrialConfig(**values, image_size=image_size)
        split = prepared.store.folder / "split.json"
        return run_trial(TrialTask(config=config, images=prepared.images, split=split, folder=folder, **settings))

    assert [epoch.epoch for epoch in run(48, until=1, checkpoint=checkpoint)] == [1]
    assert [(epoch.epoch, epoch.image_size) for epoch in run(64, resume=checkpoint)] == [(1, 64), (2, 64)]
    assert "started from initial weights" in (tmp_path / "64" / "train.log").read_text()


@pytest.mark.long
def test_a_network_that_cannot_be_built_for_a_size_uses_the_next_size(prepare, tmp_path):
    prepared = prepare(image_size=96)
    config = TrialConfig(family="fused", filters=4, dense_units=4, image_size=48, epochs=1, batch_size=64)
    task = {
        "config": config,
        "images": prepared.images,
        "split": prepared.store.folder / "split.json",
        "folder": tmp_path / "t",
    }
    (tmp_path / "t").mkdir()
    assert [epoch.image_size for epoch in run_trial(TrialTask(**task, largest_image=96))] == [80]
    assert TrialConfig.from_json((tmp_path / "t" / "config.json").read_text()).image_size == 80
    for largest in (None, 60):
        with pytest.raises(ImpossibleModelError, match="at least 67 pixels"):
            next(run_trial(TrialTask(**task, largest_image=largest)))


def test_downscaled_images_are_averages_and_computed_once(prepare):
    prepared = prepare(image_size=64)
    images = open_images(prepared.images)[:]
    assert downscaled_images(prepared.images, 64) == prepared.images
    path = downscaled_images(prepared.images, 32)
    downscaled = np.load(path)
    assert downscaled.shape == (len(images), 32, 32)
    means = images.reshape(len(images), 32, 2, 32, 2).mean(axis=(2, 4))
    assert np.abs(downscaled - means).mean() < 4
    modification_time = path.stat().st_mtime_ns
    assert downscaled_images(prepared.images, 32) == path
    assert path.stat().st_mtime_ns == modification_time


def test_a_sampler_without_rungs_is_rejected(prepare):
    with pytest.raises(UsageError, match=r"tpe has no rungs.*Add --sampler kt-hyperband"):
        prepare(fidelity="image_size", sampler="tpe", pruner="asha")
    with pytest.raises(UnknownNameError, match="Did you mean 'image_size'"):
        prepare(fidelity="image-size", sampler="kt-hyperband")
    assert prepare(fidelity="image_size", sampler="kt-hyperband").store.spec.fidelity == "image_size"
    assert prepare(sampler="kt-hyperband").store.spec.fidelity == "image_size"
    with pytest.raises(UsageError, match="tpe has no rungs"):
        prepare(sampler="tpe")
    with pytest.raises(StudyMismatchError, match="created with fidelity 'image_size'"):
        prepare(fidelity="epochs", sampler="kt-hyperband")
