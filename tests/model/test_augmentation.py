"""Augmentation: each movement equals that of Keras' layer, movements are composed, and the training step can be compiled."""

import dataclasses
import json
import zipfile
from dataclasses import asdict

import keras
import numpy as np
import pytest

from automl_cxr.config import TrialConfig
from automl_cxr.model.augmentation import DRAWS, AugmentationRanges, RandomAugmentation, augment, without_augmentation
from automl_cxr.model.build import blueprint, build_model
from automl_cxr.study.presets import find_preset

HEIGHT, WIDTH = 24, 20
FILLS = ("constant", "nearest", "reflect")  # Keras' "wrap" differs between backends
OFF = {"flip": False, "rotation_low": 0.0, "rotation_high": 0.0, "shift": 0.0, "zoom": 0.0, "brightness": 0.0, "contrast": 0.0}


@pytest.fixture(scope="module")
def pictures():
    return np.random.default_rng(0).uniform(0, 255, (64, HEIGHT, WIDTH, 1)).astype(np.float32)


def augmented(pictures, *, seed=0, **ranges):
    layer = RandomAugmentation(seed, asdict(AugmentationRanges(**ranges)))
    return keras.ops.convert_to_numpy(layer(pictures, training=True))


def augmented_with(pictures, draws, **ranges):
    """Augment with given random numbers; the others are 0.5, which changes nothing."""
    numbers = {name: np.full(len(pictures), draws.get(name, 0.5), np.float32) for name in DRAWS}
    numbers = {name: keras.ops.convert_to_tensor(number) for name, number in numbers.items()}
    return keras.ops.convert_to_numpy(augment(keras.ops.convert_to_tensor(pictures), numbers, AugmentationRanges(**ranges)))


def by_keras(pictures, layer):
    return keras.ops.convert_to_numpy(layer(pictures, training=True))


def by_affine_transform(pictures, matrix, fill):
    matrices = np.tile(np.array([*matrix, 0.0, 0.0], np.float32), (len(pictures), 1))
    transformed = keras.ops.image.affine_transform(pictures, matrices, fill_mode=fill)
    return keras.ops.convert_to_numpy(transformed)


@pytest.mark.parametrize("fill", FILLS)
def test_movements_equal_those_of_keras(pictures, fill):
    pictures = pictures[:3]
    for angle in (17.0, -40.0, 90.0):
        turn = keras.layers.RandomRotation((angle / 360, angle / 360), fill_mode=fill)
        assert augmented(pictures, rotation=(angle, angle), fill=fill) == pytest.approx(by_keras(pictures, turn), abs=0.01)
    move = keras.layers.RandomTranslation((0.15, 0.15), (-0.09, -0.09), fill_mode=fill)
    shifted = augmented_with(pictures, {"shift_y": 0.75, "shift_x": 0.35}, shift=0.3, fill=fill)
    assert shifted == pytest.approx(by_keras(pictures, move), abs=0.01)
    enlarge = keras.layers.RandomZoom((-0.12, -0.12), fill_mode=fill)
    zoomed = augmented_with(pictures, {"zoom": 0.3}, zoom=0.3, fill=fill)
    assert zoomed == pytest.approx(by_keras(pictures, enlarge), abs=0.01)
    for side, sign in ((0.4, 1), (0.6, -1)):
        sheared = augmented_with(pictures, {"shear_side": side, "shear": 0.25}, shear=20.0, fill=fill)
        matrix = [1.0, sign * 0.25 * np.tan(np.radians(20.0)), 0.0, 0.0, 1.0, 0.0]
        assert sheared == pytest.approx(by_affine_transform(pictures, matrix, fill), abs=0.01)


def test_several_movements_are_one_interpolation_of_the_composed_map(pictures):
    """The movements of a chain of layers are applied from the last one to the first one to find the source of a pixel."""
    draws = {"flip": 0.2, "rotation": 0.9, "shift_x": 0.3, "shift_y": 0.6, "zoom": 0.7, "shear_side": 0.1, "shear": 0.5}
    ranges = {"flip": True, "rotation": (-20.0, 20.0), "shift": 0.1, "zoom": 0.2, "shear": 10.0}
    x, y, turn, factor = (WIDTH - 1) / 2, (HEIGHT - 1) / 2, np.radians(16.0), 1.08
    cos, sin = np.cos(turn), np.sin(turn)
    maps = [
        [[-1, 0, WIDTH - 1], [0, 1, 0], [0, 0, 1]],
        [[cos, -sin, x - x * cos + y * sin], [sin, cos, y - x * sin - y * cos], [0, 0, 1]],
        [[1, 0, 0.04 * WIDTH], [0, 1, -0.02 * HEIGHT], [0, 0, 1]],
        [[factor, 0, x * (1 - factor)], [0, factor, y * (1 - factor)], [0, 0, 1]],
        [[1, 0.5 * np.tan(np.radians(10.0)), 0], [0, 1, 0], [0, 0, 1]],
    ]
    composed = np.linalg.multi_dot([np.array(one, float) for one in maps])
    expected = by_affine_transform(pictures[:3], composed[:2].ravel(), "nearest")
    assert augmented_with(pictures[:3], draws, **ranges, fill="nearest") == pytest.approx(expected, abs=0.02)


@pytest.mark.parametrize("fill", FILLS)
def test_composed_movements_have_the_order_of_a_chain_of_layers(fill):
    """On a smooth image one interpolation and three differ by less than 2 of 255 grey levels away from the edges."""
    size, middle = 48, slice(12, 36)
    y, x = np.mgrid[:size, :size] / size
    picture = (127 + 60 * np.sin(5 * x) + 60 * np.cos(4 * y + 2 * x)).astype(np.float32)[None, ..., None]
    chain = [
        keras.layers.RandomRotation((20 / 360, 20 / 360), fill_mode=fill),
        keras.layers.RandomTranslation((0.06, 0.06), (-0.08, -0.08), fill_mode=fill),
        keras.layers.RandomZoom((-0.15, -0.15), fill_mode=fill),
    ]
    draws = {"shift_y": 0.8, "shift_x": 0.1, "zoom": 0.125}
    composed = augmented_with(picture, draws, rotation=(20.0, 20.0), shift=0.1, zoom=0.2, fill=fill)

    def difference(layers):
        expected = picture
        for layer in layers:
            expected = by_keras(expected, layer)
        return np.abs(composed - expected)[:, middle, middle].max()

    assert difference(chain) < 2
    assert difference(reversed(chain)) > 5


@pytest.mark.parametrize("draw", [0.1, 0.8])
def test_grey_levels_change_as_in_keras(pictures, draw):
    share = 0.4 * (2 * draw - 1)
    brighter = keras.layers.RandomBrightness((share, share), value_range=(0, 255))
    changed = augmented_with(pictures, {"brightness": draw}, brightness=0.4)
    assert changed == pytest.approx(by_keras(pictures, brighter), abs=0.01)
    multiplied = augmented_with(pictures, {"brightness": draw}, brightness=0.4, brightening="multiply")
    assert multiplied == pytest.approx(np.clip(pictures * (1 + share), 0, 255), abs=0.01)
    mean = pictures.mean(axis=(1, 2, 3), keepdims=True)
    stretched = augmented_with(pictures, {"contrast": draw}, contrast=0.4)
    assert stretched == pytest.approx(np.clip((pictures - mean) * (1 + share) + mean, 0, 255), abs=0.01)


def test_shifts_have_the_range_of_keras():
    column = np.zeros((2000, 40, 40, 1), np.float32)
    column[:, 20, 20] = 255
    moved = augmented(column, shift=0.1, fill="constant")[..., 0]
    total = moved.sum(axis=(1, 2))
    x, y = (moved.sum(axis=axis) @ np.arange(40) / total - 20 for axis in (1, 2))
    assert total == pytest.approx(np.full(2000, 255), abs=0.1)
    for offsets in (x, y):
        assert (offsets.min(), offsets.max()) == pytest.approx((-4, 4), abs=0.05)
        assert offsets.mean() == pytest.approx(0, abs=0.2)
    assert abs(np.corrcoef(x, y)[0, 1]) < 0.1


def test_half_of_the_images_are_flipped(pictures):
    flipped = augmented(np.tile(pictures, (10, 1, 1, 1)), flip=True)
    originals = np.tile(pictures, (10, 1, 1, 1))
    is_flipped = np.abs(flipped - originals[:, :, ::-1]).max(axis=(1, 2, 3)) < 1e-3
    is_same = np.abs(flipped - originals).max(axis=(1, 2, 3)) < 1e-3
    assert (is_flipped | is_same).all()
    assert 0.4 < is_flipped.mean() < 0.6


def test_wrapped_pixels_come_from_the_opposite_edge():
    layer = RandomAugmentation(0, asdict(AugmentationRanges(shift=0.5, fill="wrap")))
    pictures = np.random.default_rng(0).uniform(0, 255, (8, 16, 16, 1)).astype(np.float32)
    moved = keras.ops.convert_to_numpy(layer(pictures, training=True))
    # Bilinear interpolation of a periodic image keeps the sum over each period.
    assert moved.sum(axis=(1, 2, 3)) == pytest.approx(pictures.sum(axis=(1, 2, 3)), rel=1e-4)


def test_draws_follow_the_seed_and_differ_between_images_and_steps(pictures):
    ranges = asdict(AugmentationRanges.from_config(TrialConfig(augmentation=0.5)))
    first, same, other = (RandomAugmentation(seed, ranges) for seed in (3, 3, 4))
    called = [keras.ops.convert_to_numpy(layer(pictures, training=True)) for layer in (first, same, other, first)]
    assert np.array_equal(called[0], called[1])
    assert not np.array_equal(called[0], called[2])
    assert not np.array_equal(called[0], called[3]), "the second step must differ"
    repeated = RandomAugmentation(3, ranges)(np.repeat(pictures[:1], 4, axis=0), training=True)
    assert len(np.unique(keras.ops.convert_to_numpy(repeated), axis=0)) == 4


def test_each_strength_is_scaled_by_the_common_one():
    config = TrialConfig(augmentation=0.5, rotation_low=-90.0, rotation_high=108.0, shear=5.0, brightness=0.4, fill="nearest")
    ranges = AugmentationRanges.from_config(config)
    assert ranges.rotation == pytest.approx((-45.0, 54.0))
    assert (ranges.shear, ranges.brightness, ranges.shift, ranges.fill) == (2.5, 0.2, 0.05, "nearest")
    assert ranges.flip
    assert not AugmentationRanges.from_config(TrialConfig(augmentation=0.0)).has_effect
    assert not AugmentationRanges.from_config(TrialConfig(augmentation=1.0, **OFF)).has_effect


def test_saved_networks_have_no_augmentation_and_need_no_package(tmp_path):
    config = TrialConfig(image_size=16, layers="conv4k3", pooling="average", augmentation=0.5, precision="float32")
    network = build_model(config, 3, steps_per_epoch=1)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 1)).astype(np.float32)
    saved = without_augmentation(network)
    assert saved.predict(pixels, verbose=0) == pytest.approx(network.predict(pixels, verbose=0), abs=1e-6)
    assert saved.name == network.name
    saved.save(tmp_path / "model.keras")
    with zipfile.ZipFile(tmp_path / "model.keras") as archive:
        assert "automl_cxr" not in json.dumps(json.loads(archive.read("config.json")))
    plain = build_model(TrialConfig(**{**vars(config), "augmentation": 0.0}), 3, steps_per_epoch=1)
    assert without_augmentation(plain) is plain


@pytest.mark.parametrize("name", ["scratch", "fused", "concat", "cxr14-scratch-2", "covid2-cnn"])
def test_every_layer_of_a_preset_can_be_compiled(name):
    """One layer without ``supports_jit`` switches XLA off for the whole training step."""
    config = dataclasses.replace(find_preset(name, {}).config, weights="none", augmentation=0.5, image_size=224)
    with blueprint(config, 3) as network:
        assert "augmentation" in [layer.name for layer in network.layers]
        assert [layer.name for layer in network._flatten_layers() if not layer.supports_jit] == []


@pytest.mark.slow
@pytest.mark.skipif(keras.backend.backend() == "torch", reason="torch.compile needs a C++ compiler and minutes")
def test_a_training_step_runs_compiled():
    values = {"image_size": 16, "layers": "conv4k3", "pooling": "average", "augmentation": 0.5, "shear": 5.0}
    network = build_model(TrialConfig.from_values(values), 3, steps_per_epoch=1)
    network.compile(loss="sparse_categorical_crossentropy", jit_compile=True)
    pixels = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 1)).astype(np.float32)
    losses = [float(network.train_on_batch(pixels, np.array([0, 1, 2, 0]))) for _ in range(2)]
    assert network.jit_compile
    assert np.isfinite(losses).all()
    assert losses[0] != losses[1]
