import time

import numpy as np
import pytest

from automl_cxr.config import LOSSES, OPTIMIZERS, TrialConfig
from automl_cxr.errors import NonFiniteLossError
from automl_cxr.model.build import build_model
from automl_cxr.model.trainer import LabelledPart, Objective, predict_probabilities, train_epochs
from automl_cxr.scoring.metrics import METRICS

SMALL = {
    "image_size": 16,
    "n_blocks": 2,
    "filters": 4,
    "dense_units": 8,
    "batch_size": 8,
    "learning_rate": 0.01,
    "dropout": 0.0,
}


def parts(n_train=48, n_valid=24, seed=0):
    """Make images whose bright half tells the class: left, right or neither."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, n_train + n_valid)
    images = rng.integers(0, 60, (n_train + n_valid, 16, 16), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        if label < 2:
            image[:, 8 * label : 8 * label + 8] += 120
    rows = rng.permutation(n_train + n_valid)
    return (
        LabelledPart(images, rows[:n_train], labels[rows[:n_train]]),
        LabelledPart(images, rows[n_train:], labels[rows[n_train:]]),
    )


def train(config, objective=None, deadline=None):
    train_part, valid_part = parts()
    model = build_model(config, 3, steps_per_epoch=6)
    epochs = list(
        train_epochs(model, config, train=train_part, valid=valid_part, objective=objective or Objective(), deadline=deadline)
    )
    return model, valid_part, epochs


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_loss_and_optimizer_learns(loss, optimizer):
    config = TrialConfig.from_values({**SMALL, "loss": loss, "optimizer": optimizer, "epochs": 12, "pooling": "flatten"})
    _, _, epochs = train(config)
    assert max(epoch.macro_f1 for epoch in epochs) > 0.8


def test_the_best_epochs_weights_are_kept():
    config = TrialConfig.from_values({**SMALL, "epochs": 6, "patience": 6})
    objective = Objective()
    model, valid, epochs = train(config, objective)
    best = max(epochs, key=objective.goodness)
    probabilities = predict_probabilities(model, valid)
    assert objective.score(valid.labels, probabilities) == best.score
    assert METRICS["log_loss"].function(valid.labels, probabilities, None) == pytest.approx(best.valid_loss, abs=1e-5)


def test_a_metric_to_minimise_is_minimised():
    config = TrialConfig.from_values({**SMALL, "epochs": 6, "patience": 6})
    objective = Objective(METRICS["log_loss"])
    model, valid, epochs = train(config, objective)
    kept = objective.score(valid.labels, predict_probabilities(model, valid))
    assert kept == pytest.approx(min(epoch.valid_loss for epoch in epochs), abs=1e-5)


def test_patience_and_deadline_end_a_trial():
    frozen = TrialConfig.from_values({**SMALL, "learning_rate": 1e-30, "epochs": 20, "patience": 3, "batch_norm": False})
    _, _, epochs = train(frozen)
    assert len(epochs) == 1 + 3
    hurried = TrialConfig.from_values({**SMALL, "epochs": 20, "patience": 20})
    _, _, epochs = train(hurried, deadline=time.time() - 1)
    assert len(epochs) == 1


def test_the_same_seed_trains_the_same():
    config = TrialConfig.from_values({**SMALL, "epochs": 3, "augmentation": 0.5, "dropout": 0.3, "seed": 4})
    first, again = ([epoch.valid_loss for epoch in train(config)[2]] for _ in range(2))
    assert first == pytest.approx(again, abs=1e-6)


def test_a_diverging_loss_is_a_recorded_error():
    config = TrialConfig.from_values(
        {**SMALL, "optimizer": "sgd", "learning_rate": 10.0, "batch_norm": False, "epochs": 30, "patience": 30}
    )
    images = np.full((16, 16, 16), 255, np.uint8)
    part = LabelledPart(images, np.arange(16), np.arange(16) % 3)
    model = build_model(config, 3, steps_per_epoch=2)
    model.layers[-1].bias.assign([np.nan, 0.0, 0.0])
    with pytest.raises(NonFiniteLossError, match="lower learning rate"):
        list(train_epochs(model, config, train=part, valid=part, objective=Objective()))


def test_rare_classes_weigh_more_unless_told_otherwise():
    from automl_cxr.model.trainer import _class_weights

    labels = np.array([0] * 8 + [1] * 2)
    assert _class_weights(labels, 3, "class_weights") == pytest.approx([10 / 24, 10 / 6, 1.0])
    assert _class_weights(labels, 3, "none") == pytest.approx([1, 1, 1])


def test_pixels_come_back_in_the_order_asked_for():
    images = np.arange(5, dtype=np.uint8)[:, None, None] * np.ones((1, 2, 2), np.uint8)
    part = LabelledPart(images, np.array([3, 0, 4]), np.array([0, 1, 2]))
    assert part.pixels(np.array([2, 0, 1]))[:, 0, 0, 0].tolist() == [4, 3, 0]
