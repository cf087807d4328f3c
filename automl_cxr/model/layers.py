"""The two ends that every network here shares: raw pixels in, class probabilities out.

Only layers that Keras itself ships are used, so that a saved model opens with plain Keras and nothing beside it.
"""

from __future__ import annotations

import keras
from keras import layers

from automl_cxr.config import TrialConfig


def raw_pixels(config: TrialConfig) -> tuple[keras.KerasTensor, keras.KerasTensor]:
    """Make the input of a network and the tensor that its first convolution sees.

    Returns:
        The input, raw grey pixels 0..255 of shape (n, h, w, 1), and the same augmented (in training only), scaled to
        -1..1 and repeated to ``config.input_channels`` channels.
    """
    pixels = keras.Input((config.image_size, config.image_size, 1), name="pixels")
    x = pixels
    for layer in _augmentation(config.augmentation, config.seed):
        x = layer(x)
    x = layers.Rescaling(1 / 127.5, offset=-1.0, name="scale")(x)
    if config.input_channels > 1:
        x = layers.Concatenate(name="repeat_grey")([x] * config.input_channels)
    return pixels, x


def _augmentation(strength: float, seed: int) -> list[layers.Layer]:
    """List the random layers of a strength from 0 (none) to 1.

    At 1 the rotation reaches 18 degrees, shift and zoom 10 %, brightness 20 % and contrast 30 %. The horizontal flip is
    there from any strength above 0: a radiograph's diagnosis rarely depends on the side, its look does.
    """
    if strength == 0:
        return []
    return [
        layers.RandomFlip("horizontal", seed=seed, name="flip"),
        layers.RandomRotation(0.05 * strength, fill_mode="constant", seed=seed + 1, name="rotation"),
        layers.RandomTranslation(0.1 * strength, 0.1 * strength, fill_mode="constant", seed=seed + 2, name="shift"),
        layers.RandomZoom(0.1 * strength, fill_mode="constant", seed=seed + 3, name="zoom"),
        layers.RandomBrightness(0.2 * strength, value_range=(0, 255), seed=seed + 4, name="brightness"),
        layers.RandomContrast(0.3 * strength, value_range=(0, 255), seed=seed + 5, name="contrast"),
    ]


def classifier_head(x: keras.KerasTensor, config: TrialConfig, n_classes: int) -> keras.KerasTensor:
    """Put hidden dense layers with dropout and a softmax of ``n_classes`` on a vector."""
    for number in range(1, config.n_dense + 1):
        x = layers.Dense(config.dense_units, activation="relu", name=f"dense_{number}")(x)
        x = layers.Dropout(config.dropout, seed=config.seed + number, name=f"dropout_{number}")(x)
    if config.n_dense == 0:
        x = layers.Dropout(config.dropout, seed=config.seed, name="dropout")(x)
    # float32 even under a mixed-precision policy: a float16 softmax loses the small probabilities.
    return layers.Dense(n_classes, activation="softmax", dtype="float32", name="probabilities")(x)


def normalisation_momentum(steps_per_epoch: int) -> float:
    """Choose the momentum of BatchNormalization's moving averages so that they follow within about half an epoch.

    Keras' 0.99 averages over about 100 steps. On a small data set that is several epochs, and validation scores of the
    first epochs, which early stopping decides by, are noise. Bounded to 0.5..0.99.
    """
    return min(0.99, max(0.5, 1 - 2 / steps_per_epoch))
