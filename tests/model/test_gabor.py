import keras
import numpy as np
import pytest

from automl_cxr.config import TrialConfig
from automl_cxr.model.flops import count_multiply_adds
from automl_cxr.model.gabor import GRIDS, N_ORIENTATIONS, build_gabor, gabor_filters
from automl_cxr.model.memory_estimate import measure_size

SIZE = 64
N_SCALES = 4  # 64, 32, 16 and 8 pixels
WAVE = 0.5 + 0.4 * np.sin(2.2 * np.arange(SIZE))  # the frequency of the filters


def energies(image):
    """Return the logarithms of the energies of a grey image, each (scales, regions, regions, directions), by grid."""
    size = len(image)
    network = build_gabor((size, size, 3))
    pixels = np.repeat(np.asarray(image, np.float32)[None, ..., None], 3, axis=-1)
    vector = np.asarray(network(pixels)).ravel()
    n_coarse = vector.size * GRIDS[0] ** 2 // (GRIDS[0] ** 2 + GRIDS[1] ** 2)
    return [
        part.reshape(-1, grid, grid, N_ORIENTATIONS) for part, grid in zip(np.split(vector, [n_coarse]), GRIDS, strict=True)
    ]


def test_the_parts_have_the_documented_sizes():
    for size, n_scales in ((SIZE, N_SCALES), (224, 6), (320, 6)):
        network = build_gabor((size, size, 1))
        shapes = [network.get_layer(name).output.shape[-1] for name in ("coarse", "fine")]
        assert shapes == [n_scales * 16 * 8, n_scales * (16 + 49) * 8]
        assert network.count_params() == 0


@pytest.mark.parametrize(("image", "direction"), [(np.tile(WAVE, (SIZE, 1)), 0), (np.tile(WAVE[:, None], (1, SIZE)), 4)])
def test_the_highest_energy_is_that_of_the_direction_and_scale_of_the_wave(image, direction):
    for part in energies(image):
        inner = part[:, 1:-1, 1:-1].mean(axis=(1, 2))
        assert np.unravel_index(inner.argmax(), inner.shape) == (0, direction)


def test_a_wave_at_half_the_frequency_belongs_to_the_next_scale():
    wave = 0.5 + 0.4 * np.sin(1.1 * np.arange(SIZE))
    coarse, _ = energies(np.tile(wave, (SIZE, 1)))
    inner = coarse[:, 1:-1, 1:-1].mean(axis=(1, 2))
    assert np.unravel_index(inner.argmax(), inner.shape) == (1, 0)


def test_brightness_has_no_energy_and_contrast_is_a_constant():
    image = np.random.default_rng(0).random((SIZE, SIZE))
    coarse, _ = energies(image)
    of_changed, _ = energies(0.4 + 0.5 * image)
    assert coarse[0] - of_changed[0] == pytest.approx(np.log(2), abs=0.04)
    for filters in gabor_filters():
        assert filters.sum(axis=(0, 1, 2)) == pytest.approx(0, abs=1e-6)


def test_each_region_depends_on_its_own_pixels():
    image = np.full((SIZE, SIZE), 0.5)
    image[:14, :14] += 0.4 * np.random.default_rng(0).random((14, 14))
    coarse, _ = energies(image)
    assert coarse[0, 0, 0].min() > coarse[0, 2:, 2:].max()


def test_a_saved_network_is_read_with_its_filters(tmp_path):
    network = build_gabor((SIZE, SIZE, 1))
    network.save(tmp_path / "gabor.keras")
    images = np.random.default_rng(0).random((2, SIZE, SIZE, 1)).astype(np.float32)
    again = keras.saving.load_model(tmp_path / "gabor.keras")
    np.testing.assert_array_equal(np.asarray(network(images)), np.asarray(again(images)))


def test_the_multiplications_of_the_filters_are_counted(tmp_path):
    network = build_gabor((224, 224, 3))
    n_positions = sum(side**2 for side in (224, 112, 56, 28, 14, 7))
    assert count_multiply_adds(network) == 2 * 8 * 7 * 7 * n_positions == 52_437_840
    network.save(tmp_path / "gabor.keras")
    assert count_multiply_adds(keras.saving.load_model(tmp_path / "gabor.keras")) == 52_437_840
    config = TrialConfig(family="probe", probe_layers="gabor@fine", image_size=224)
    n_features = 6 * 8 * (16 + 49)
    assert measure_size(config, 3).multiply_adds == 52_437_840 + 3 * n_features


def test_too_small_images_are_refused():
    with pytest.raises(ValueError, match="at least 32 x 32"):
        build_gabor((31, 64, 1))
