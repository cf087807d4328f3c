"""The preprocessing layers of every network: Otsu's mask, augmentation, scaling, channels and resizer.

Only layers and operations of Keras are used, so that a saved model can be loaded without this package.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import keras
from keras import layers, ops

from automl_cxr.config import TrialConfig
from automl_cxr.input_sizes import inner_size
from automl_cxr.model.otsu import keep_below_otsu
from automl_cxr.model.resizer import learnable_resizer

_SMALLEST_VARIANCE = 1.0  # of the grey levels 0..255 of an image; added to their variance


def raw_pixels(config: TrialConfig) -> tuple[keras.KerasTensor, keras.KerasTensor]:
    """Build the input of a network, averaged and with Otsu's mask if configured, and with augmentation in training mode only.

    Returns:
        The input, raw grey pixels 0..255 of shape (n, h, w, 1); and the averaged, masked and augmented pixels.
    """
    pixels = keras.Input((config.image_size, config.image_size, 1), name="pixels")
    x = layers.AveragePooling2D(config.downsample, name="downsample")(pixels) if config.downsample > 1 else pixels
    x = keep_below_otsu(x) if config.otsu else x
    for augment in _augmentation(config):
        # Without this argument, Keras' random layers are active when a model is called directly, outside of training.
        x = augment(x, training=None)
    return pixels, x


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


def _brightening(kind: str, strength: float, seed: int) -> Callable[..., keras.KerasTensor]:
    if kind not in ("add", "multiply"):
        raise NotImplementedError(f"No layer is implemented for brightening '{kind}'.")
    if kind == "add":
        return layers.RandomBrightness(strength, value_range=(0, 255), seed=seed, name="brightness")

    def multiply(x: keras.KerasTensor, training: bool | None) -> keras.KerasTensor:
        # Keras has no layer for it. RandomBrightness on one pixel per image yields the factor of the image.
        grey = 0.5 * ops.ones_like(x[:, :1, :1, :])
        brighten = layers.RandomBrightness(strength / 2, value_range=(0, 1), seed=seed, name="brightness")
        factor = 2 * brighten(grey, training=training)
        return ops.clip(x * factor, 0, 255)

    return multiply


def _augmentation(config: TrialConfig) -> list[Callable[..., keras.KerasTensor]]:
    """List the random layers with an effect, each at its own strength times ``config.augmentation``.

    The horizontal flip has no strength of its own: it is used whenever ``config.augmentation`` is above 0, because the side
    rarely matters for a diagnosis.
    """
    strength, seed, fill = config.augmentation, config.seed, config.fill
    rotation = (config.rotation_low * strength / 360, config.rotation_high * strength / 360)
    shear = math.tan(math.radians(config.shear * strength))
    shift, zoom = config.shift * strength, config.zoom * strength
    brightness, contrast = config.brightness * strength, config.contrast * strength
    candidates = [
        (config.flip and strength > 0, lambda: layers.RandomFlip("horizontal", seed=seed, name="flip")),
        (any(rotation), lambda: layers.RandomRotation(rotation, fill_mode=fill, seed=seed + 1, name="rotation")),
        (shift > 0, lambda: layers.RandomTranslation(shift, shift, fill_mode=fill, seed=seed + 2, name="shift")),
        (zoom > 0, lambda: layers.RandomZoom(zoom, fill_mode=fill, seed=seed + 3, name="zoom")),
        (brightness > 0, lambda: _brightening(config.brightening, brightness, seed + 4)),
        (contrast > 0, lambda: layers.RandomContrast(contrast, value_range=(0, 255), seed=seed + 5, name="contrast")),
        # Keras 3.15 cannot load the range that it saves for a single number. With (0, shear) it draws both signs.
        (shear > 0, lambda: layers.RandomShear((0.0, shear), fill_mode=fill, seed=seed + 6, name="shear")),
    ]
    return [build() for has_effect, build in candidates if has_effect]
