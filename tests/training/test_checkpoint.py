import dataclasses
import json

import numpy as np
import pytest

from automl_cxr.config import TrialConfig
from automl_cxr.errors import TrialError
from automl_cxr.model.build import build_model
from automl_cxr.training.checkpoint import FinishedFold, load_checkpoint, load_fold, save_checkpoint, save_fold
from automl_cxr.training.datasets import LabelledPart
from automl_cxr.training.epoch_tracker import Objective
from automl_cxr.training.passes import predict_probabilities
from automl_cxr.training.trainer import Training

SMALL = {"image_size": 48, "batch_size": 8, "dense_units": 8, "epochs": 6, "patience": 6, "augmentation": 0.5, "dropout": 0.4}
SCRATCH = {**SMALL, "n_blocks": 2, "filters": 4, "block_dropout": 0.2}
RECIPE = {"optimizer": "adamw", "warmup": 0.2, "gradient_clip": 1.0, "weight_average": 0.2, "normalise": True}
TRANSFER = {**SMALL, "family": "transfer", "backbone": "squeezenet", "cut": "1", "weights": "none", "unfreeze": 3}


def parts():
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (40, 48, 48), dtype=np.uint8), rng.integers(0, 3, 40)
    return {
        "train": LabelledPart(images, np.arange(28), labels[:28]),
        "valid": LabelledPart(images, np.arange(28, 40), labels[28:]),
    }


def training_of(config):
    model = build_model(config, 3, steps_per_epoch=4)
    return model, Training(model, config, **parts(), objective=Objective())


def without_seconds(epochs):
    return [dataclasses.replace(epoch, seconds=0.0) for epoch in epochs]


@pytest.mark.long
@pytest.mark.parametrize(
    ("values", "until"),
    [
        (SCRATCH, 1),
        ({**SCRATCH, "optimizer": "sgd", "schedule": "plateau", "patience": 2, "imbalance": "oversample"}, 3),
        ({**SCRATCH, "optimizer": "adamw", "weight_decay": 0.01, "loss": "focal", "monitor": "loss"}, 3),
        ({**SCRATCH, **RECIPE}, 3),
        ({**TRANSFER, "frozen_share": 0.5}, 3),  # the last epoch of the frozen phase
        ({**TRANSFER, **RECIPE, "frozen_share": 0.5}, 4),
        ({**TRANSFER, "frozen_share": 0.5, "patience": 1}, 4),
    ],
    ids=["adam", "sgd on plateaus", "adamw", "recipe", "two phases", "two phases with the recipe", "a phase that stops early"],
)
def test_a_resumed_training_equals_an_uninterrupted_one_exactly(values, until, tmp_path):
    config = TrialConfig.from_values({**values, "seed": 3})
    model, training = training_of(config)
    whole = []
    for epoch in training.epochs():
        whole.append(epoch)
        if epoch.epoch == until:
            save_checkpoint(training.checkpoint(), tmp_path / "checkpoint.npz")
    expected = predict_probabilities(model, parts()["valid"])

    model, resumed = training_of(config)
    resumed.restore(load_checkpoint(tmp_path / "checkpoint.npz"))
    rest = list(resumed.epochs())
    assert without_seconds(resumed.history) == without_seconds(whole)
    assert without_seconds(rest) == without_seconds(whole[until:])
    assert np.array_equal(predict_probabilities(model, parts()["valid"]), expected)


@pytest.mark.long
def test_a_training_that_ends_early_holds_the_weights_of_its_best_epoch():
    config = TrialConfig.from_values({**SCRATCH, "learning_rate": 0.05})
    model, training = training_of(config)
    epochs = list(training.epochs(until=4))
    best = max(epochs, key=lambda epoch: Objective().rank(epoch, "score"))
    assert len(epochs) == 4
    assert Objective().score(parts()["valid"].labels, predict_probabilities(model, parts()["valid"])) == best.score


@pytest.mark.long
def test_a_checkpoint_of_an_earlier_version_is_resumed(tmp_path):
    config = TrialConfig.from_values({**SCRATCH, "schedule": "constant", "seed": 3})
    _, training = training_of(config)
    whole = list(training.epochs())
    _, interrupted = training_of(config)
    for _ in interrupted.epochs(until=2):
        save_checkpoint(interrupted.checkpoint(), tmp_path / "new.npz")
    with np.load(tmp_path / "new.npz") as file:
        arrays = dict(file)
    values = json.loads(str(arrays.pop("told")))
    del values["has_rate"]
    moments = [arrays.pop(f"optimizer/{number}") for number in range(sum(name.startswith("optimizer/") for name in arrays))]
    earlier = [moments[0], np.float32(0.001), *moments[1:]]  # with the learning rate after the number of steps
    arrays |= {f"optimizer/{number}": array for number, array in enumerate(earlier)}
    np.savez(tmp_path / "old.npz", told=np.array(json.dumps(values)), **arrays)
    _, resumed = training_of(config)
    resumed.restore(load_checkpoint(tmp_path / "old.npz"))
    list(resumed.epochs())
    assert without_seconds(resumed.history) == without_seconds(whole)


@pytest.fixture(scope="module")
def checkpoint():
    """Return the checkpoint after one epoch."""
    _, training = training_of(TrialConfig.from_values(SCRATCH))
    next(training.epochs())
    return training.checkpoint()


@pytest.mark.slow
def test_a_checkpoint_of_another_network_is_refused(checkpoint):
    _, other = training_of(TrialConfig.from_values({**SCRATCH, "filters": 5}))
    other.restore(checkpoint)
    with pytest.raises(TrialError, match="its shapes differ"):
        next(other.epochs())


@pytest.mark.slow
def test_a_damaged_checkpoint_is_reported(checkpoint, tmp_path):
    save_checkpoint(checkpoint, tmp_path / "a.npz")
    content = (tmp_path / "a.npz").read_bytes()
    for n_bytes in (0, 100, 5000):
        (tmp_path / "a.npz").write_bytes(content[:n_bytes])
        with pytest.raises(TrialError, match="cannot be read"):
            load_checkpoint(tmp_path / "a.npz")
    with pytest.raises(TrialError, match="cannot be read"):
        load_checkpoint(tmp_path / "none.npz")


@pytest.mark.slow
def test_a_finished_fold_round_trips_through_its_file(tmp_path):
    model, training = training_of(TrialConfig.from_values({**SCRATCH, "epochs": 1}))
    list(training.epochs())
    probabilities = predict_probabilities(model, parts()["valid"])
    fold = FinishedFold(history=training.history, weights=model.get_weights(), probabilities=probabilities, cut_short=True)
    save_fold(fold, tmp_path / "fold.npz")
    again = load_fold(tmp_path / "fold.npz")
    assert (again.history, again.cut_short) == (fold.history, True)
    assert np.array_equal(again.probabilities, probabilities)
    assert all(np.array_equal(one, other) for one, other in zip(again.weights, fold.weights, strict=True))
    assert [path.name for path in tmp_path.iterdir()] == ["fold.npz"]
    (tmp_path / "fold.npz").write_bytes((tmp_path / "fold.npz").read_bytes()[:500])
    with pytest.raises(TrialError, match="from the beginning"):
        load_fold(tmp_path / "fold.npz")


@pytest.mark.long
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_a_training_can_be_resumed_with_smaller_parts_of_batches(optimizer, tmp_path):
    values = {**SCRATCH, "batch_norm": False, "dropout": 0.0, "block_dropout": 0.0, "augmentation": 0.0, "optimizer": optimizer}
    config = TrialConfig.from_values({**values, "batch_size": 14, "seed": 3})
    _, whole = training_of(config)
    list(whole.epochs())
    for parts, until in ((1, 2), (2, 4)):
        _, interrupted = training_of(dataclasses.replace(config, gradient_accumulation=parts))
        if parts > 1:
            interrupted.restore(load_checkpoint(tmp_path / "checkpoint.npz"))
        for _ in interrupted.epochs(until=until):
            save_checkpoint(interrupted.checkpoint(), tmp_path / "checkpoint.npz")
    _, in_parts = training_of(dataclasses.replace(config, gradient_accumulation=7))
    in_parts.restore(load_checkpoint(tmp_path / "checkpoint.npz"))
    list(in_parts.epochs())
    losses = [[epoch.valid_loss for epoch in training.history] for training in (whole, in_parts)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)


@pytest.mark.slow
def test_a_failed_write_leaves_the_previous_checkpoint_and_no_partial_file(checkpoint, tmp_path, monkeypatch):
    save_checkpoint(checkpoint, tmp_path / "checkpoint.npz")
    before = (tmp_path / "checkpoint.npz").read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        save_checkpoint(checkpoint, tmp_path / "checkpoint.npz")
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.npz"]
    assert (tmp_path / "checkpoint.npz").read_bytes() == before
