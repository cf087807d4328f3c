"""The preprocessing layers of every network: Otsu's mask, augmentation, scaling, channels and resizer.

Except for the augmentation, which saved models do not contain, only layers and operations of Keras are used, so that a saved
model can be loaded without this package.
"""

from __future__ import annotations

from dataclasses import asdict

import keras
from keras import layers

from automl_cxr.config import TrialConfig
from automl_cxr.input_sizes import inner_size
from automl_cxr.model.augmentation import AugmentationRanges, RandomAugmentation
from automl_cxr.model.otsu import keep_below_otsu
from automl_cxr.model.resizer import learnable_resizer
from automl_cxr.model.table_input import table_input

_SMALLEST_VARIANCE = 1.0  # of the grey levels 0..255 of an image; added to their variance


def raw_pixels(config: TrialConfig) -> tuple[keras.KerasTensor, keras.KerasTensor]:
    """Build the input of a network, averaged and with Otsu's mask if configured, and with augmentation in training mode only.

    Returns:
        The input, raw grey pixels 0..255 of shape (n, h, w, 1); and the averaged, masked and augmented pixels. With a table of
        features, the results of ``table_input``.
    """
    if config.takes_features:
        return table_input(config.n_features)
    pixels = keras.Input((config.image_size, config.image_size, 1), name="pixels")
    x = layers.AveragePooling2D(config.downsample, name="downsample")(pixels) if config.downsample > 1 else pixels
    x = keep_below_otsu(x) if config.otsu else x
    ranges = AugmentationRanges.from_config(config)
    return pixels, RandomAugmentation(config.seed, asdict(ranges))(x) if ranges.has_effect else x


def scaled_channels(x: keras.KerasTensor, config: TrialConfig) -> keras.KerasTensor:
    """Scale grey pixels 0..255 by ``scaling``, repeat them to ``input_channels`` and resize them by ``resizer``."""
    if config.scaling == "symmetric":
        x = layers.Rescaling(1 / 127.5, offset=-1.0, name="scale")(x)
    elif config.scaling == "unit":
        x = layers.Rescaling(1 / 255, name="scale")(x)
    elif config.scaling == "standard":
        x = layers.LayerNormalization(axis=(1, 2, 3), center=False, scale=False, epsilon=_SMALLEST_VARIANCE, name="scale")(x)
    else:
        raise NotImplementedError(f"No layer is implemented for scaling '{config.scaling}'.")
    return _resized(repeat_grey(x, config.input_channels), config)


def three_channels(x: keras.KerasTensor, config: TrialConfig) -> keras.KerasTensor:
    """Repeat grey pixels to three channels for a backbone and resize them by ``resizer``; values stay in 0..255."""
    if config.takes_features:
        return x
    x = repeat_grey(x, 3)
    if config.resizer == 0:
        return x
    x = _resized(layers.Rescaling(1 / 255, name="scale")(x), config)
    return layers.Rescaling(255.0, name="unscale")(x)


def repeat_grey(x: keras.KerasTensor, n_channels: int) -> keras.KerasTensor:
    """Repeat the channel of images (n, h, w, 1)."""
    return x if n_channels == 1 else layers.Concatenate(name="repeat_grey")([x] * n_channels)


def _resized(x: keras.KerasTensor, config: TrialConfig) -> keras.KerasTensor:
    if config.resizer == 0:
        return x
    return learnable_resizer(x.shape[1], inner_size(config), n_channels=x.shape[-1])(x)
