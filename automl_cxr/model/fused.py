"""The fused network (Pang et al. 2018): the classifier uses shallow and deep feature maps."""

from __future__ import annotations

from pathlib import Path

import keras
from keras import layers

from automl_cxr.config import TrialConfig
from automl_cxr.input_sizes import refuse_small_images
from automl_cxr.model.convolution import rectified_convolution
from automl_cxr.model.head import classifier_head, pooled_vector
from automl_cxr.model.preprocessing import raw_pixels, scaled_channels

_PUBLISHED_FILTERS = (96, 256, 384, 384, 256)


def build_fused(config: TrialConfig, n_classes: int, *, weights_folder: Path | None = None) -> keras.Model:
    """Build five convolutions like AlexNet's and concatenate the outputs of pools 1, 2 and 5 (``config.taps``) for the head.

    The chosen maps are max-pooled to the size of the last one, for any size of the input: at the published 227 pixels, maps of
    27 and 13 pixels to 6. ``config.filters`` is the number of filters of the first convolution; the others have the published
    ratio 96 : 256 : 384 : 384 : 256. ``weights_folder`` is not used.

    Raises:
        ImpossibleModelError: The image is smaller than 67 pixels.
    """
    refuse_small_images(config)
    pixels, x = raw_pixels(config)
    x = scaled_channels(x, config)
    filters = [max(1, round(n * config.filters / _PUBLISHED_FILTERS[0])) for n in _PUBLISHED_FILTERS]
    x = rectified_convolution(x, filters[0], kernel=11, name="conv1", strides=4, padding="valid")
    pool_1 = layers.MaxPooling2D(3, strides=2, name="pool1")(x)
    x = layers.LayerNormalization(name="norm1")(pool_1)
    x = rectified_convolution(x, filters[1], kernel=5, name="conv2")
    pool_2 = layers.MaxPooling2D(3, strides=2, name="pool2")(x)
    x = layers.LayerNormalization(name="norm2")(pool_2)
    x = rectified_convolution(x, filters[2], kernel=3, name="conv3")
    x = rectified_convolution(x, filters[3], kernel=3, name="conv4")
    x = rectified_convolution(x, filters[4], kernel=3, name="conv5")
    pool_5 = layers.MaxPooling2D(3, strides=2, name="pool5")(x)

    pools = {"1": pool_1, "2": pool_2, "5": pool_5}
    tapped = [_shrink_to(pool_5.shape[1], pools[tap], name=f"tap{tap}") for tap in config.taps.split("+")]
    x = layers.Concatenate(name="fuse")(tapped) if len(tapped) > 1 else tapped[0]
    return keras.Model(pixels, classifier_head(pooled_vector(x, config), config, n_classes), name="fused")


def _shrink_to(size: int, maps: keras.KerasTensor, *, name: str) -> keras.KerasTensor:
    """Max-pool square maps to ``size`` pixels and crop the pixels at the right and lower edge that do not fill a window."""
    factor = maps.shape[1] // size
    surplus = maps.shape[1] // factor - size
    if factor > 1:
        maps = layers.MaxPooling2D(factor, name=f"{name}_pool")(maps)
    return layers.Cropping2D(((0, surplus), (0, surplus)), name=f"{name}_crop")(maps) if surplus > 0 else maps
