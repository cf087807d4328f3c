import time

import keras
import numpy as np
import pytest
from keras import layers

from automl_cxr.config import IMBALANCES, MONITORS, OPTIMIZERS, SCHEDULES, TrialConfig
from automl_cxr.errors import NonFiniteLossError
from automl_cxr.model.build import build_model
from automl_cxr.model.inference import load_model
from automl_cxr.records import EpochRecord
from automl_cxr.scoring.metrics import METRICS
from automl_cxr.tasks import MULTICLASS
from automl_cxr.training.datasets import LabelledPart
from automl_cxr.training.epoch_tracker import Objective
from automl_cxr.training.losses import LOSSES
from automl_cxr.training.passes import predict_probabilities
from automl_cxr.training.trainer import Training, TrainingEnd

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
    """Make images whose class is given by the bright half: left, right or neither."""
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


def contradicting_parts():
    """Return validation labels that contradict the training labels, so that training increases the validation loss."""
    train_part, valid_part = parts()
    return train_part, LabelledPart(valid_part.images, valid_part.rows, (valid_part.labels + 1) % 3)


def train(config, objective=None, deadline=None, model=None, material=None):
    """Train to the end; return the model, the validation part, the epochs and the ``TrainingEnd``."""
    train_part, valid_part = material or parts()
    model = model or build_model(config, 3, steps_per_epoch=6)
    training = Training(model, config, train=train_part, valid=valid_part, objective=objective or Objective())
    training = training.epochs(deadline=deadline)
    epochs = []
    while True:
        try:
            epochs.append(next(training))
        except StopIteration as end:
            return model, valid_part, epochs, end.value


def nested_network(seed=0):
    """Build a network like one of transfer learning: convolution, normalisation, convolution in a model called backbone."""
    keras.utils.clear_session()
    keras.utils.set_random_seed(seed)
    features = x = keras.Input((16, 16, 1))
    x = layers.Conv2D(4, 3, padding="same", activation="relu", name="conv_1")(x)
    x = layers.BatchNormalization(momentum=0.5, name="bn")(x)
    x = layers.Conv2D(4, 3, strides=2, padding="same", activation="relu", name="conv_2")(x)
    backbone = keras.Model(features, x, name="backbone")
    pixels = keras.Input((16, 16, 1))
    x = layers.Flatten()(backbone(layers.Rescaling(1 / 127.5, offset=-1.0)(pixels)))
    return keras.Model(pixels, layers.Dense(3, activation="softmax")(x))


TWO_PHASES = {
    "family": "transfer",
    "unfreeze": 3,
    "frozen_share": 0.4,
    "epochs": 5,
    "patience": 5,
    "batch_size": 8,
    "learning_rate": 0.01,
    "fine_tune_rate": 0.001,
}


def backbone_weights(model):
    return [weights.copy() for weights in model.get_layer("backbone").get_weights()]


# Zeiler's Adadelta adapts its steps to a rate of 1; smaller rates slow it down.
RATES = {"adadelta": 1.0}


# Each loss and each optimizer; they are independent, so not every pair is tested.
@pytest.mark.parametrize(
    ("loss", "optimizer"),
    [*(("ce", optimizer) for optimizer in OPTIMIZERS), *((loss, "adam") for loss in LOSSES[MULTICLASS] if loss != "ce")],
)
def test_every_loss_and_optimizer_learns(loss, optimizer):
    choice = {"loss": loss, "optimizer": optimizer, "learning_rate": RATES.get(optimizer, 0.01)}
    config = TrialConfig.from_values({**SMALL, **choice, "epochs": 12, "pooling": "flatten"})
    _, _, epochs, _ = train(config)
    assert max(epoch.macro_f1 for epoch in epochs) > 0.8


@pytest.mark.slow
@pytest.mark.parametrize("imbalance", IMBALANCES)
def test_training_with_every_treatment_of_imbalance_learns(imbalance):
    config = TrialConfig.from_values({**SMALL, "imbalance": imbalance, "epochs": 12, "pooling": "flatten"})
    _, _, epochs, _ = train(config)
    assert max(epoch.macro_f1 for epoch in epochs) > 0.8


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_epochs_record_their_learning_rate(schedule):
    config = TrialConfig.from_values({**SMALL, "schedule": schedule, "epochs": 4, "patience": 1, "monitor": "loss"})
    model, _, epochs, _ = train(config)
    assert 0.9 * config.learning_rate < epochs[0].learning_rate <= config.learning_rate
    if schedule == "cosine":
        assert float(model.optimizer.learning_rate) == pytest.approx(0.0, abs=1e-9)
    else:
        assert float(model.optimizer.learning_rate) == pytest.approx(epochs[-1].learning_rate)


def test_a_plateau_lowers_the_learning_rate_before_early_stopping():
    unchanged = {"learning_rate": 1e-30, "schedule": "plateau", "plateau_share": 0.5, "batch_norm": False}
    config = TrialConfig.from_values({**SMALL, **unchanged, "epochs": 20, "patience": 4})
    _, _, epochs, _ = train(config)
    assert [epoch.learning_rate for epoch in epochs] == pytest.approx([1e-30, 1e-30, 1e-30, 5e-31, 5e-31])


def test_class_weights_and_focal_loss_multiply_in_training():
    config = TrialConfig.from_values(
        {**SMALL, "loss": "focal", "focal_alpha": "0.2,0.3,0.5", "learning_rate": 1e-30, "epochs": 1, "batch_norm": False}
    )
    model, _, epochs, _ = train(config)
    part, _ = parts()
    of_truth = predict_probabilities(model, part)[np.arange(48), part.labels].astype(np.float64)
    weights = (48 / (3 * np.bincount(part.labels)))[part.labels] * np.array([0.2, 0.3, 0.5])[part.labels]
    assert epochs[0].loss == pytest.approx(np.mean(weights * (1 - of_truth) ** 2 * -np.log(of_truth)), rel=1e-4)


def test_gradient_accumulation_takes_the_same_steps_as_whole_batches():
    settings = {**SMALL, "batch_norm": False, "optimizer": "adam", "epochs": 2, "schedule": "constant"}
    whole, _, whole_epochs, _ = train(TrialConfig(**settings))
    parted, _, parted_epochs, _ = train(TrialConfig(**settings, gradient_accumulation=4))
    for one, other in zip(whole.get_weights(), parted.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, atol=2e-5)
    assert [epoch.score for epoch in whole_epochs] == pytest.approx([epoch.score for epoch in parted_epochs])


@pytest.mark.parametrize("batch_size", [1, 3])
def test_gradient_accumulation_works_with_batches_of_few_images(batch_size):
    config = TrialConfig(**{**SMALL, "batch_size": batch_size, "epochs": 1}, gradient_accumulation=2)
    _, _, epochs, _ = train(config)
    assert np.isfinite(epochs[0].loss)


@pytest.mark.parametrize("monitor", MONITORS)
def test_the_model_holds_the_weights_of_the_best_epoch(monitor):
    config = TrialConfig.from_values({**SMALL, "epochs": 6, "patience": 6, "monitor": monitor})
    objective = Objective()
    model, valid, epochs, end = train(config, objective)
    best = max(epochs, key=lambda record: objective.rank(record, monitor))
    assert end == TrainingEnd(best_epoch=best.epoch, cut_short=False)
    probabilities = predict_probabilities(model, valid)
    assert objective.score(valid.labels, probabilities) == best.score
    assert METRICS["log_loss"].function(valid.labels, probabilities, None) == pytest.approx(best.valid_loss, abs=1e-5)


def record(score, valid_loss, valid_accuracy):
    rest = {
        "epoch": 1,
        "phase": 1,
        "learning_rate": 0.1,
        "macro_f1": 0.0,
        "loss": 0.0,
        "seconds": 0.0,
        "n_parameters": 1,
        "image_size": 48,
    }
    return EpochRecord(score=score, valid_loss=valid_loss, valid_accuracy=valid_accuracy, **rest)


def test_epochs_are_ranked_by_the_monitored_value_and_then_by_the_loss():
    scored, accurate, quiet = record(0.9, 3.0, 0.5), record(0.5, 2.0, 0.9), record(0.5, 1.0, 0.5)

    def best(monitor, metric="macro_f1"):
        objective = Objective(METRICS[metric])
        return max((scored, accurate, quiet), key=lambda item: objective.rank(item, monitor))

    assert best("score") is scored
    assert best("score", "fnfr") is quiet  # fnfr is minimised: two are equal and one of them has the lower loss
    assert best("accuracy") is accurate
    assert best("loss") is quiet
    assert Objective().rank(quiet, "accuracy") > Objective().rank(scored, "accuracy")


def test_a_metric_with_direction_minimize_selects_the_lowest_value():
    config = TrialConfig.from_values({**SMALL, "epochs": 6, "patience": 6})
    objective = Objective(METRICS["log_loss"])
    model, valid, epochs, _ = train(config, objective)
    best = objective.score(valid.labels, predict_probabilities(model, valid))
    assert best == pytest.approx(min(epoch.valid_loss for epoch in epochs), abs=1e-5)


def test_patience_stops_training_early():
    unchanged = TrialConfig.from_values({**SMALL, "learning_rate": 1e-30, "epochs": 20, "patience": 3, "batch_norm": False})
    _, _, epochs, end = train(unchanged)
    assert len(epochs) == 1 + 3
    assert end == TrainingEnd(best_epoch=1, cut_short=False)


def test_after_the_deadline_one_epoch_is_trained_and_further_ones_are_cut_short():
    config = TrialConfig.from_values({**SMALL, "epochs": 20, "patience": 20})
    _, _, epochs, end = train(config, deadline=time.monotonic() - 1)
    assert len(epochs) == 1
    assert end == TrainingEnd(best_epoch=1, cut_short=True)
    of_one_epoch = TrialConfig.from_values({**SMALL, "epochs": 1})
    assert train(of_one_epoch, deadline=time.monotonic() - 1)[3] == TrainingEnd(best_epoch=1, cut_short=False)


def test_the_backbone_is_frozen_in_the_first_phase_and_trained_in_the_second():
    model, (train_part, valid_part) = nested_network(), parts()
    before = backbone_weights(model)
    trained_in, config = [], TrialConfig.from_values(TWO_PHASES)
    training = Training(model, config, train=train_part, valid=valid_part, objective=Objective())
    for epoch in training.epochs():
        moved = [bool((new != old).any()) for new, old in zip(backbone_weights(model), before, strict=True)]
        trained_in.append((epoch.epoch, epoch.phase, set(moved)))  # moving means and variances of "bn" are among them
    assert trained_in == [(1, 1, {False}), (2, 1, {False}), (3, 2, {True}), (4, 2, {True}), (5, 2, {True})]


def test_each_phase_has_its_own_learning_rate_and_cosine_schedule():
    _, _, epochs, _ = train(TrialConfig.from_values(TWO_PHASES), model=nested_network())
    assert [epoch.learning_rate for epoch in epochs] == pytest.approx(
        [0.00853553, 0.00146447, 0.000933013, 0.0005, 0.0000669873], rel=1e-4
    )


def test_each_phase_has_its_own_patience_and_epochs_are_counted_over_phases():
    unchanged = {"learning_rate": 1e-30, "fine_tune_rate": 1e-30, "epochs": 30, "frozen_share": 0.5, "patience": 2}
    _, _, epochs, end = train(TrialConfig.from_values({**TWO_PHASES, **unchanged}), model=nested_network())
    assert [epoch.epoch for epoch in epochs] == list(range(1, len(epochs) + 1))
    assert [epoch.phase for epoch in epochs[:4]] == [1, 1, 1, 2]  # the first waited for 2 epochs after its first
    assert len(epochs) < 30
    assert not end.cut_short


CONTRADICTING = {"schedule": "constant", "monitor": "loss", "epochs": 8, "frozen_share": 0.5, "learning_rate": 0.01}


def test_fine_tuning_starts_from_the_best_frozen_weights():
    config = TrialConfig.from_values({**TWO_PHASES, **CONTRADICTING, "fine_tune_rate": 1e-30, "unfreeze": 1})
    _, _, epochs, _ = train(config, model=nested_network(), material=contradicting_parts())
    best = min(epoch.valid_loss for epoch in epochs[:4])
    assert epochs[3].valid_loss > best + 0.01
    assert epochs[4].phase == 2
    assert epochs[4].valid_loss == pytest.approx(best, abs=1e-5)


def test_fine_tuning_without_an_improvement_is_discarded():
    config = TrialConfig.from_values({**TWO_PHASES, **CONTRADICTING, "fine_tune_rate": 0.01})
    model = nested_network()
    before = backbone_weights(model)
    model, valid, epochs, end = train(config, model=model, material=contradicting_parts())
    best = min(epochs, key=lambda epoch: epoch.valid_loss)
    assert best.phase == 1
    assert epochs[-1].phase == 2
    assert end.best_epoch == best.epoch
    assert all((new == old).all() for new, old in zip(backbone_weights(model), before, strict=True))
    loss = METRICS["log_loss"].function(valid.labels, predict_probabilities(model, valid), None)
    assert loss == pytest.approx(best.valid_loss, abs=1e-5)


def test_a_deadline_between_the_phases_cuts_training_short():
    config = TrialConfig.from_values({**TWO_PHASES, "epochs": 2, "frozen_share": 0.5})
    _, _, epochs, end = train(config, model=nested_network(), deadline=time.monotonic() + 3600)
    assert (len(epochs), end.cut_short) == (2, False)
    _, _, epochs, end = train(config, model=nested_network(), deadline=time.monotonic() - 1)
    assert (len(epochs), end) == (1, TrainingEnd(best_epoch=1, cut_short=True))


def test_a_training_of_one_epoch_may_have_the_frozen_phase_only():
    config = TrialConfig.from_values({**TWO_PHASES, "epochs": 1})
    model = nested_network()
    before = backbone_weights(model)
    model, _, epochs, end = train(config, model=model)
    assert [(epoch.epoch, epoch.phase) for epoch in epochs] == [(1, 1)]
    assert end == TrainingEnd(best_epoch=1, cut_short=False)
    assert all((new == old).all() for new, old in zip(backbone_weights(model), before, strict=True))


@pytest.mark.long
def test_training_in_two_phases_is_reproducible():
    config = TrialConfig.from_values({**TWO_PHASES, "seed": 3, "imbalance": "oversample"})
    first, again = ([epoch.valid_loss for epoch in train(config, model=nested_network(3))[2]] for _ in range(2))
    assert first == pytest.approx(again, abs=1e-6)


@pytest.mark.long
def test_training_is_reproducible():
    config = TrialConfig.from_values({**SMALL, "epochs": 3, "augmentation": 0.5, "dropout": 0.3, "seed": 4})
    first, again = ([epoch.valid_loss for epoch in train(config)[2]] for _ in range(2))
    assert first == pytest.approx(again, abs=1e-6)


@pytest.mark.long
def test_a_training_does_not_depend_on_those_before_it_in_the_process():
    config = TrialConfig.from_values({**SMALL, "epochs": 2, "dropout": 0.3, "block_dropout": 0.1, "seed": 4})
    model, _, first, _ = train(config)
    expected = model.get_weights()
    train(TrialConfig.from_values({**SMALL, "epochs": 1, "loss": "focal", "optimizer": "sgd", "filters": 5, "seed": 5}))
    model, _, again, _ = train(config)
    assert [epoch.loss for epoch in again] == [epoch.loss for epoch in first]
    assert all((one == other).all() for one, other in zip(model.get_weights(), expected, strict=True))


def test_a_saved_model_is_compiled_without_the_state_of_training(tmp_path):
    model, valid, _, _ = train(TrialConfig.from_values({**SMALL, "epochs": 1}))
    expected = predict_probabilities(model, valid)
    model.compile()
    model.save(tmp_path / "model.keras")
    loaded = load_model(str(tmp_path / "model.keras"))
    assert predict_probabilities(loaded, valid) == pytest.approx(expected, abs=1e-6)


def test_a_loss_that_diverges_is_an_error():
    config = TrialConfig.from_values(
        {**SMALL, "optimizer": "sgd", "learning_rate": 10.0, "batch_norm": False, "epochs": 30, "patience": 30}
    )
    images = np.full((16, 16, 16), 255, np.uint8)
    part = LabelledPart(images, np.arange(16), np.arange(16) % 3)
    model = build_model(config, 3, steps_per_epoch=2)
    model.layers[-1].bias.assign([np.nan, 0.0, 0.0])
    with pytest.raises(NonFiniteLossError, match="lower learning rate"):
        list(Training(model, config, train=part, valid=part, objective=Objective()).epochs())


def test_a_batch_has_the_images_in_the_requested_order():
    images = np.arange(5, dtype=np.uint8)[:, None, None] * np.ones((1, 2, 2), np.uint8)
    part = LabelledPart(images, np.array([3, 0, 4]), np.array([0, 1, 2]))
    assert part.batch(np.array([2, 0, 1]))[:, 0, 0, 0].tolist() == [4, 3, 0]
