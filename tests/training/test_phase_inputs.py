import dataclasses

import keras
import numpy as np
import pytest
from keras import layers

from automl_cxr.config import TrialConfig
from automl_cxr.data.feature_cache import FeatureCache
from automl_cxr.errors import TrialError
from automl_cxr.model.build import build_model
from automl_cxr.model.freezing import set_phase
from automl_cxr.model.preprocessing import raw_pixels
from automl_cxr.training.checkpoint import load_checkpoint, save_checkpoint
from automl_cxr.training.datasets import FeaturePart, LabelledPart
from automl_cxr.training.passes import predict_probabilities
from automl_cxr.training.phase_inputs import choose_phase_inputs, compare_with_pixels
from automl_cxr.training.trainer import Objective, Training

RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 3, 40)
IMAGES = (RNG.integers(0, 120, (40, 32, 32)) + 60 * LABELS[:, None, None]).astype(np.uint8)
ROWS = RNG.permutation(40)
PARTS = {
    "train": LabelledPart(IMAGES, ROWS[:28], LABELS[ROWS[:28]]),
    "valid": LabelledPart(IMAGES, ROWS[28:], LABELS[ROWS[28:]]),
}
FROZEN = {"family": "transfer", "image_size": 32, "epochs": 4, "batch_size": 8, "learning_rate": 0.01, "patience": 9}
TWO_PHASES = {**FROZEN, "unfreeze": 3, "frozen_share": 0.5, "fine_tune_rate": 0.01}


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("AUTOML_CXR_CACHE", str(tmp_path / "cache"))


def network(config):
    """Build a network like one of transfer learning, with a small residual backbone, and with a dropout in the head."""
    keras.utils.clear_session()
    keras.utils.set_random_seed(config.seed)
    image = x = keras.Input((32, 32, 1))
    x = layers.Conv2D(4, 9, strides=2, activation="relu", name="stem")(x)
    y = layers.Conv2D(4, 3, padding="same", name="conv_1")(x)
    y = layers.BatchNormalization(momentum=0.5, name="bn")(y)
    y = layers.Conv2D(4, 3, padding="same", name="conv_2")(y)
    backbone = keras.Model(image, layers.Add(name="sum")([x, y]), name="backbone")
    pixels, x = raw_pixels(config)
    x = layers.GlobalAveragePooling2D(name="vector")(backbone(layers.Rescaling(1 / 127.5, offset=-1.0)(x)))
    x = layers.Dropout(0.3, seed=config.seed)(layers.Dense(8, activation="relu")(x))
    model = keras.Model(pixels, layers.Dense(3, activation="softmax")(x))
    set_phase(model, config, frozen=config.frozen_epochs > 0)
    return model


def train(config, *, model=None, resume=None):
    model = model or network(config)
    training = Training(model, config, **PARTS, objective=Objective())
    if resume is not None:
        training.restore(resume)
    return model, training, list(training.epochs())


def squeezenet(config):
    model = build_model(config, 3, steps_per_epoch=4)
    stem = model.get_layer("backbone").get_layer("conv1")
    stem.kernel.assign(stem.kernel / 50)  # random weights would take pixels of -124 to 151 to logits of hundreds
    return model


@pytest.mark.long
@pytest.mark.parametrize(
    ("values", "build", "reads"),
    [
        (TWO_PHASES, network, ["backbone@vector, float32"] * 2 + ["backbone@stem, float32"] * 2),
        (
            {**TWO_PHASES, "backbone": "squeezenet", "weights": "none", "unfreeze": 4, "dense_units": 8, "learning_rate": 1e-3},
            squeezenet,
            ["backbone@vector, float32"] * 2 + ["backbone@fire8_squeeze1x1, float32"] * 2,
        ),
        ({**FROZEN, "gradient_accumulation": 2, "imbalance": "oversample"}, network, ["backbone@vector, float32"] * 4),
    ],
)
def test_training_on_features_equals_training_on_pixels(values, build, reads):
    config = TrialConfig(**values)
    model, training, epochs = train(config, model=build(config))
    assert [epoch.features for epoch in epochs] == reads
    probabilities, message = training.best_probabilities()
    assert "differ by at most" in message
    assert probabilities == pytest.approx(predict_probabilities(model, PARTS["valid"]), abs=1e-5)

    pixels = dataclasses.replace(config, features="pixels")
    whole, by_pixels, from_pixels = train(pixels, model=build(pixels))
    assert {epoch.features for epoch in from_pixels} == {"pixels"}
    assert probabilities == pytest.approx(by_pixels.best_probabilities()[0], abs=1e-5)
    assert [epoch.loss for epoch in epochs] == pytest.approx([epoch.loss for epoch in from_pixels], abs=1e-5)
    for one, other in zip(model.get_weights(), whole.get_weights(), strict=True):
        assert one == pytest.approx(other, abs=1e-4)


@pytest.mark.long
def test_a_checkpoint_from_features_can_be_resumed_from_pixels(tmp_path):
    config = TrialConfig(**{**TWO_PHASES, "epochs": 6})  # 3 frozen epochs, then 3 more
    _, whole, _ = train(config)
    interrupted = Training(network(config), config, **PARTS, objective=Objective())
    for epoch in interrupted.epochs():
        if epoch.epoch == 4:
            save_checkpoint(interrupted.checkpoint(), tmp_path / "c.npz")
            break
    other = dataclasses.replace(config, features="pixels")
    _, resumed, epochs = train(other, resume=load_checkpoint(tmp_path / "c.npz"))
    assert [epoch.epoch for epoch in epochs] == [5, 6]
    assert resumed.best_probabilities()[0] == pytest.approx(whole.best_probabilities()[0], abs=1e-5)
    assert [epoch.loss for epoch in resumed.history] == pytest.approx([epoch.loss for epoch in whole.history], abs=1e-5)


def frozen(**values):
    return TrialConfig(**{**FROZEN, **values})


def inputs_of(config, n_epochs=4, build=network):
    return choose_phase_inputs(build(config), config, n_epochs=n_epochs, **PARTS)


def test_epochs_use_the_views_in_rotation():
    inputs = inputs_of(frozen(augmentation=0.5, views=2))
    assert inputs.description == "backbone@vector, float32, 2 views"
    positions = np.arange(28)
    shown = [inputs.train_part(epoch).batch(positions) for epoch in (1, 2, 3)]
    assert np.array_equal(shown[0], shown[2])
    assert not np.allclose(shown[0], shown[1])
    plain = inputs_of(frozen()).valid.batch(np.arange(12))
    assert inputs.valid.batch(np.arange(12)) == pytest.approx(plain, abs=1e-5, rel=1e-5)


def test_without_augmentation_there_is_one_view():
    inputs = inputs_of(frozen(views=3))
    assert inputs.description == "backbone@vector, float32"
    assert len(FeatureCache().entries()) == 1


def test_with_float16_features_the_predictions_come_from_pixels():
    config = frozen(features="float16", epochs=2)
    model, training, epochs = train(config)
    assert epochs[0].features == "backbone@vector, float16"
    probabilities, message = training.best_probabilities()
    assert "those from pixels are saved" in message
    assert np.array_equal(probabilities, predict_probabilities(model, PARTS["valid"], batch_size=8))


@pytest.mark.parametrize(
    ("values", "reads"),
    [
        ({"augmentation": 0.5}, "pixels: augmentation is drawn again in each epoch; views=K caches K draws"),
        ({"features": "pixels"}, "pixels"),
        ({"unfreeze": 1000}, "pixels: the first layers of the backbone are trained"),
    ],
)
def test_the_record_gives_the_reason_for_pixels(values, reads):
    inputs = inputs_of(frozen(**values))
    assert inputs.description == reads
    assert FeatureCache().entries() == []


def test_shallow_feature_maps_are_not_cached():
    inputs = inputs_of(TrialConfig(**{**FROZEN, "backbone": "squeezenet", "weights": "none", "unfreeze": 22}), build=squeezenet)
    assert inputs.description == "pixels: the frozen layers account for only 14% of the multiply-adds"


def test_the_record_of_a_network_without_backbone_is_empty():
    config = TrialConfig(image_size=32, n_blocks=1, filters=4)
    assert choose_phase_inputs(build_model(config, 3, steps_per_epoch=4), config, n_epochs=4, **PARTS).description == ""


def test_features_are_not_computed_for_one_epoch_but_cached_ones_are_used():
    assert (
        inputs_of(frozen(), n_epochs=1).description
        == "pixels: features would not save passes over the images (1 with features, 1 without)"
    )
    inputs_of(frozen(), n_epochs=2)
    assert inputs_of(frozen(), n_epochs=1).description == "backbone@vector, float32"


def test_training_reads_pixels_if_the_cache_is_full(monkeypatch):
    monkeypatch.setenv("AUTOML_CXR_CACHE_LIMIT", "500")
    assert inputs_of(frozen()).description.startswith("pixels: Features must fit into the cache's limit")


def test_features_of_another_network_are_an_error():
    model = network(frozen())
    predictions = predict_probabilities(model, PARTS["valid"])
    assert compare_with_pixels(model, PARTS["valid"], predictions) < 1e-5
    with pytest.raises(TrialError, match="automl-cxr cache clear"):
        compare_with_pixels(model, PARTS["valid"], predictions + 0.1)


def test_rows_are_read_in_ascending_order_and_returned_as_requested():
    class Rows(np.ndarray):
        def __getitem__(self, rows):
            assert (np.diff(rows) >= 0).all()
            return np.asarray(self)[rows]

    values = np.arange(20, dtype=np.float16).reshape(10, 2)
    part = FeaturePart((values.view(Rows),), np.array([7, 2, 9]), np.zeros(3, int))
    batch = part.batch(np.array([2, 0, 1, 0]))
    assert batch.dtype == np.float32
    assert batch[:, 0].tolist() == [18, 14, 4, 14]
