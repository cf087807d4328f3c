import keras
import numpy as np
import pytest

from automl_cxr.config import FAMILIES, TrialConfig
from automl_cxr.errors import ImpossibleModelError
from automl_cxr.model.augmentation import without_augmentation
from automl_cxr.model.batchnorm import batchnorm_momentum
from automl_cxr.model.build import build_model
from automl_cxr.model.inference import load_model


def build(n_classes=3, steps_per_epoch=20, **values):
    return build_model(TrialConfig.from_values(values), n_classes, steps_per_epoch=steps_per_epoch)


def test_the_published_fused_network_has_its_parameters():
    # cxr14-fused has 9,211,847 with its learnable resizer of 12,163, which comes before these layers.
    model = build(family="fused", image_size=227, input_channels=3, filters=96, n_dense=2, dense_units=2048, n_classes=4)
    assert model.count_params() == 9_211_847 - 12_163
    assert [model.get_layer(f"pool{number}").output.shape[1:3] for number in (1, 2, 5)] == [(27, 27), (13, 13), (6, 6)]
    assert model.get_layer("fuse").output.shape[1:] == (6, 6, 608)


def test_the_parameters_of_a_scratch_network():
    model = build(n_blocks=2, filters=8, kernel_size=3, batch_norm=False, n_dense=1, dense_units=16, image_size=32)
    convolutions = (9 * 1 * 8 + 8) + (9 * 8 * 16 + 16)
    head = (16 * 16 + 16) + (16 * 3 + 3)
    assert model.count_params() == convolutions + head


@pytest.mark.parametrize("size", [67, 96, 100, 112, 131, 227])
@pytest.mark.parametrize("taps", ["5", "1+5", "2+5", "1+2+5"])
def test_the_fused_network_accepts_any_image_size(size, taps):
    model = build(family="fused", image_size=size, taps=taps, filters=8, dense_units=8)
    assert model.output_shape == (None, 3)


def test_too_small_images_are_refused():
    with pytest.raises(ImpossibleModelError, match="at least 67 pixels; received 66"):
        build(family="fused", image_size=66)


@pytest.mark.parametrize(("size", "last"), [(16, 1), (48, 1), (100, 2), (128, 2)])
def test_scratch_networks_of_any_depth_fit_any_image(size, last):
    model = build(image_size=size, n_blocks=6, filters=4, dense_units=4)
    assert model.get_layer("block6_pool").output.shape[1] == last


SMALL = {
    "scratch": {"family": "scratch", "image_size": 32, "n_blocks": 2, "filters": 4, "dense_units": 8, "augmentation": 0.5},
    "fused": {"family": "fused", "image_size": 67, "filters": 8, "dense_units": 8, "augmentation": 0.5},
    "transfer": {
        "family": "transfer",
        "image_size": 48,
        "backbone": "squeezenet",
        "cut": "4",
        "weights": "none",
        "dense_units": 8,
    },
    "concat": {
        "family": "concat",
        "image_size": 48,
        "backbone": "squeezenet",
        "cut": "2",
        "weights": "none",
        "n_blocks": 3,
        "filters": 4,
        "second_cut": "2",
        "projection": 8,
        "dense_units": 8,
        "augmentation": 0.5,
    },
    "probe": {"family": "probe", "image_size": 48, "probe_layers": "squeezenet@4+efficientnetlite0@2", "weights": "none"},
}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_predicts_the_same_after_saving_and_loading(family, tmp_path):
    model = build(**SMALL[family])
    size = SMALL[family]["image_size"]
    pixels = np.random.default_rng(0).integers(0, 256, (5, size, size, 1), dtype=np.uint8)
    before = model.predict(pixels, verbose=0)
    assert before.shape == (5, 3)
    assert before.sum(axis=1) == pytest.approx(1.0, abs=1e-5)
    model.save(tmp_path / "model.keras")
    assert load_model(str(tmp_path / "model.keras")).predict(pixels, verbose=0) == pytest.approx(before, abs=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_seed_determines_the_initial_weights(family):
    first, again, other = (build(**SMALL[family], seed=seed).get_weights() for seed in (1, 1, 2))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert any(not np.array_equal(a, b) for a, b in zip(first, other, strict=True))


def test_augmentation_is_active_in_training_only():
    pixels = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 1), dtype=np.uint8)
    augmented = build(**SMALL["scratch"])
    assert np.array_equal(augmented.predict(pixels, verbose=0), augmented.predict(pixels, verbose=0))
    called = [keras.ops.convert_to_numpy(augmented(pixels)) for _ in range(2)]
    assert np.array_equal(*called), "a direct call must not augment"
    assert called[0] == pytest.approx(augmented.predict(pixels, verbose=0), abs=1e-6)
    assert not np.array_equal(*(keras.ops.convert_to_numpy(augmented(pixels, training=True)) for _ in range(2)))
    plain = build(**{**SMALL["scratch"], "augmentation": 0.0})
    assert "augmentation" in {layer.name for layer in augmented.layers} - {layer.name for layer in plain.layers}


def test_brightness_is_added_or_multiplied():
    pixels = np.concatenate([np.zeros((64, 32, 16, 1)), np.full((64, 32, 16, 1), 100.0)], axis=2).astype(np.float32)
    only = {
        "augmentation": 1.0,
        "flip": False,
        "rotation_low": 0.0,
        "rotation_high": 0.0,
        "shift": 0.0,
        "zoom": 0.0,
        "contrast": 0.0,
    }
    brightened = {}
    for kind in ("add", "multiply"):
        model = build(**{**SMALL["scratch"], **only, "brightness": 0.2, "brightening": kind, "scaling": "unit"})
        scaled = keras.Model(model.input, model.get_layer("scale").output)
        brightened[kind] = 255 * keras.ops.convert_to_numpy(scaled(pixels, training=True))
        assert keras.ops.convert_to_numpy(scaled(pixels)) * 255 == pytest.approx(pixels, abs=1e-3)
    assert brightened["add"][:, :, :16].max() > 20, "black must become grey"
    assert brightened["multiply"][:, :, :16].max() == 0, "black must stay black"
    factors = brightened["multiply"][:, 0, 31, 0] / 100
    assert 0.79 < factors.min() < 0.9
    assert 1.1 < factors.max() < 1.21


def test_two_dropouts_of_a_block_have_different_seeds():
    model = build(image_size=16, layers="conv4k3 drop0.5 drop0.5", pooling="average")
    first, second = (model.get_layer(name).get_config()["seed"] for name in ("block1_dropout", "block1_dropout2"))
    assert first != second


def test_the_momentum_of_every_normalisation_is_set():
    for values in (
        SMALL["scratch"],
        {**SMALL["fused"], "image_size": 80, "resizer": 0.9},
        {**SMALL["concat"], "backbone": "mobilenetv2"},
    ):
        model = build(**values, steps_per_epoch=10)

        def momenta(network):
            for layer in network.layers:
                if isinstance(layer, keras.Model):
                    yield from momenta(layer)
                elif isinstance(layer, keras.layers.BatchNormalization):
                    yield layer.momentum

        found = list(momenta(model))
        assert found
        assert found == pytest.approx([0.8] * len(found))


def test_otsu_stores_no_image_in_the_model_file(tmp_path):
    build(**{**SMALL["scratch"], "image_size": 128, "otsu": True}).save(tmp_path / "model.keras")
    plain = build(**{**SMALL["scratch"], "image_size": 128})
    plain.save(tmp_path / "plain.keras")
    assert (tmp_path / "model.keras").stat().st_size < (tmp_path / "plain.keras").stat().st_size + 20_000


def test_every_preprocessing_option_can_be_saved_and_loaded(tmp_path):
    values = {**SMALL["scratch"], "otsu": True, "resizer": 0.5, "scaling": "unit", "input_channels": 3, "shear": 5.0}
    model = build(**{**values, "augmentation": 1.0, "fill": "reflect"})
    assert model.get_layer("block1_conv1").output.shape[1] == 16
    pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 1), dtype=np.uint8)
    without_augmentation(model).save(tmp_path / "model.keras")
    loaded = load_model(str(tmp_path / "model.keras"))
    assert loaded.predict(pixels, verbose=0) == pytest.approx(model.predict(pixels, verbose=0), abs=1e-6)


def test_the_ranges_of_scaling():
    pixels = np.full((1, 32, 32, 1), 255, np.uint8)
    for scaling, black in (("symmetric", -1.0), ("unit", 0.0)):
        model = build(**{**SMALL["scratch"], "augmentation": 0.0, "scaling": scaling})
        scaled = keras.Model(model.input, model.get_layer("scale").output)
        assert np.unique(scaled(pixels)) == pytest.approx([1.0])
        assert np.unique(scaled(0 * pixels)) == pytest.approx([black])


def test_standard_scaling_removes_exposure_and_contrast_and_accepts_uniform_images():
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 100, (1, 32, 32, 1)).astype(np.uint8)
    model = build(**{**SMALL["scratch"], "augmentation": 0.0, "scaling": "standard"})
    scaled = keras.Model(model.input, model.get_layer("scale").output)
    values = np.asarray(scaled(picture))
    assert (values.mean(), values.std()) == pytest.approx((0.0, 1.0), abs=1e-3)
    np.testing.assert_allclose(values, np.asarray(scaled(2 * picture + 50)), atol=2e-3)
    assert np.asarray(scaled(np.full_like(picture, 200))) == pytest.approx(0.0, abs=1e-3)


@pytest.mark.parametrize("family", ["scratch", "fused"])
def test_normalised_features_have_mean_0_and_variance_1_and_no_weights(family):
    plain, normalised = (build(**SMALL[family], normalise=value) for value in (False, True))
    assert normalised.count_params() == plain.count_params()
    pixels = np.random.default_rng(0).integers(0, 256, (2, *normalised.input_shape[1:])).astype(np.uint8)
    vectors = np.asarray(keras.Model(normalised.input, normalised.get_layer("vector").output)(pixels))
    assert vectors.mean(axis=1) == pytest.approx([0.0, 0.0], abs=1e-4)
    assert vectors.var(axis=1) == pytest.approx([1.0, 1.0], abs=1e-2)


@pytest.mark.parametrize(
    ("values", "rule"),
    [
        (
            {"layers": "conv8k3v pool2 conv8k3v pool2 conv8k4v"},
            "Layer block3_conv1 has a window of 4x4 pixels; received maps of 3x3",
        ),
        ({"layers": "conv8k3 pool9 pool9"}, "block1_pool2 has a window of 9x9"),
        ({"family": "transfer", "backbone": "scratch"}, "needs a published backbone"),
        ({"family": "concat", "backbone": "scratch", "second_backbone": "scratch", "cut": "9"}, "splice points 1 to 4"),
        (
            {"family": "concat", "backbone": "scratch", "second_backbone": "scratch", "cut": "block1_cnv1"},
            "Did you mean 'block1_conv1'",
        ),
    ],
)
def test_an_impossible_network_is_refused_with_the_reason(values, rule):
    with pytest.raises(ImpossibleModelError, match=rule):
        build(image_size=18, **values)


def test_mixed_precision_is_used_on_gpus_only(monkeypatch):
    values = {**SMALL["scratch"], "precision": "mixed"}
    assert build(**values).get_layer("block1_conv1").compute_dtype == "float32"
    monkeypatch.setattr("automl_cxr.model.precision.has_gpu", lambda: True)
    model = build(**values)
    assert model.get_layer("block1_conv1").compute_dtype == "bfloat16"
    assert model.get_layer("block1_conv1").variable_dtype == "float32"
    probabilities = model.predict(np.zeros((2, 32, 32, 1), np.uint8), verbose=0)
    assert probabilities.dtype == np.float32
    assert build(**SMALL["scratch"]).get_layer("block1_conv1").compute_dtype == "float32", "not inherited"


def test_both_branches_may_be_scratch_branches():
    model = build(image_size=32, family="concat", backbone="scratch", cut="1", second_cut="block3_conv1", filters=4)
    assert model.get_layer("vector").output.shape[1] == 4 + 16


@pytest.mark.parametrize(("steps", "momentum"), [(1, 0.5), (4, 0.5), (20, 0.9), (200, 0.99), (10_000, 0.99)])
def test_momentum_depends_on_the_steps_per_epoch(steps, momentum):
    assert batchnorm_momentum(steps) == pytest.approx(momentum)


def test_a_damaged_model_file_is_refused(tmp_path):
    path = tmp_path / "model.keras"
    path.write_bytes(b"PK\x03\x04 not a model")
    with pytest.raises(Exception, match="is damaged") as caught:
        load_model(str(path))
    assert "\n" not in str(caught.value)
