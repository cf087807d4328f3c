import numpy as np
import pytest
from skimage.feature import hog

from automl_cxr.model.hog import N_ORIENTATIONS, build_hog

SIZE = 64
STRIPES = 0.5 + 0.4 * np.sin(np.arange(SIZE) / 2)
N_THUMBNAIL, N_BLOCKS = 32 * 32, 7 * 7


def descriptor(image):
    """Return the three parts of the descriptor of a grey image, (size, size)."""
    network = build_hog((SIZE, SIZE, 3))
    pixels = np.repeat(np.asarray(image, np.float32)[None, ..., None], 3, axis=-1)
    vector = np.asarray(network(pixels)).ravel()
    assert len(vector) == N_THUMBNAIL + 2 * N_BLOCKS * 4 * N_ORIENTATIONS
    thumbnail, coarse, fine = np.split(vector, [N_THUMBNAIL, N_THUMBNAIL + N_BLOCKS * 4 * N_ORIENTATIONS])
    shape = (N_BLOCKS, 4, N_ORIENTATIONS)
    return thumbnail, coarse.reshape(shape), fine.reshape(shape)


@pytest.mark.parametrize(("image", "best"), [(np.tile(STRIPES, (SIZE, 1)), 0), (np.tile(STRIPES[:, None], (1, SIZE)), 4)])
def test_the_largest_bin_is_that_of_the_gradient(image, best):
    _, coarse, fine = descriptor(image)
    for histograms in (coarse, fine):
        largest = histograms[24].sum(axis=0).argsort()[::-1]
        assert largest[0] in (best, best + (best > 0)), "vertical gradients lie between the bins 4 and 5 of 9"


def test_contrast_and_brightness_do_not_change_the_histograms():
    image = np.random.default_rng(0).random((SIZE, SIZE))
    thumbnail, _, fine = descriptor(image)
    _, _, of_changed = descriptor(0.3 + 0.5 * image)
    assert of_changed == pytest.approx(fine, abs=1e-3)
    assert thumbnail == pytest.approx(image.reshape(32, 2, 32, 2).mean(axis=(1, 3)).ravel(), abs=1e-5)


def test_blocks_correlate_with_those_of_scikit_image():
    image = np.random.default_rng(0).random((8, 8)).repeat(8, axis=0).repeat(8, axis=1) * 0.5
    image += np.random.default_rng(1).random((SIZE, SIZE)) * 0.1
    _, _, fine = descriptor(image)
    reference = hog(image, orientations=N_ORIENTATIONS, pixels_per_cell=(8, 8), cells_per_block=(2, 2), block_norm="L2")
    ours = np.square(fine).reshape(7, 7, 2, 2, N_ORIENTATIONS).sum(axis=-1)
    theirs = reference.reshape(7, 7, 2, 2, N_ORIENTATIONS).sum(axis=-1)
    # The order of the cells differs, so each block is compared by its sorted cells.
    one, other = (np.sort(blocks.reshape(49, 4), axis=1).ravel() for blocks in (ours, theirs))
    assert np.corrcoef(one, other)[0, 1] > 0.9
