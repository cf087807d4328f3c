import keras
import numpy as np

from automl_cxr.model.otsu import keep_below_otsu


def otsu_by_exhaustive_search(values):
    """Try every value as a threshold and return the one with the largest variance between the groups."""
    candidates = np.unique(values)[1:]
    return max(
        candidates,
        key=lambda threshold: (
            (values < threshold).sum()
            * (values >= threshold).sum()
            * np.ptp([values[values < threshold].mean(), values[values >= threshold].mean()]) ** 2
        ),
    )


def test_pixels_at_and_above_the_threshold_become_black():
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 90, (2, 24, 24, 1)).astype(np.float32)
    pixels[0, :, 12:] += 150
    pixels[1, 6:20] += 100
    image = keras.Input((24, 24, 1))
    network = keras.Model(image, keep_below_otsu(image))
    masked = np.asarray(network(pixels))
    blurred = np.asarray(keras.Model(image, network.get_layer("blur2").output)(pixels))
    for image_masked, image_pixels, image_blurred in zip(masked, pixels, blurred, strict=True):
        below = image_blurred < otsu_by_exhaustive_search(image_blurred.astype(np.float64))
        assert (
            np.mean(image_masked == np.where(below, image_pixels, 0)) > 0.99
        )  # float32 sums that are nearly equal may be ordered differently
    assert masked[0, :, 14:].max() == 0
    assert np.array_equal(masked[0, :, :10], pixels[0, :, :10])


def test_an_image_with_one_value_gives_finite_pixels():
    image = keras.Input((8, 8, 1))
    masked = np.asarray(keras.Model(image, keep_below_otsu(image))(np.full((1, 8, 8, 1), 7, np.float32)))
    assert np.isfinite(masked).all()
