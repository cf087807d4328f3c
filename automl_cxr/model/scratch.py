"""Convolutional networks trained from random weights: blocks of convolutions and pools, then a dense head."""

from __future__ import annotations

import keras
from keras import layers

from automl_cxr.config import TrialConfig
from automl_cxr.model.layers import classifier_head, normalisation_momentum, raw_pixels

_MOST_FILTERS = 512
_VECTORS = {
    "average": layers.GlobalAveragePooling2D,
    "max": layers.GlobalMaxPooling2D,
    "flatten": layers.Flatten,
}


def build_scratch(config: TrialConfig, n_classes: int, *, steps_per_epoch: int) -> keras.Model:
    """Build ``n_blocks`` blocks of (convolution, batch normalisation, ReLU), each ended by a 2x2 max pool.

    Pools are padded, so that a block leaves at least one pixel and any depth fits any image.
    """
    pixels, x = raw_pixels(config)
    for block in range(config.n_blocks):
        filters = min(_MOST_FILTERS, max(1, round(config.filters * config.filter_growth**block)))
        for convolution in range(config.convs_per_block):
            x = layers.Conv2D(
                filters,
                config.kernel_size,
                padding="same",
                use_bias=not config.batch_norm,
                kernel_initializer="he_normal",
                name=f"block{block + 1}_conv{convolution + 1}",
            )(x)
            if config.batch_norm:
                momentum = normalisation_momentum(steps_per_epoch)
                x = layers.BatchNormalization(momentum=momentum, name=f"block{block + 1}_bn{convolution + 1}")(x)
            x = layers.ReLU(name=f"block{block + 1}_relu{convolution + 1}")(x)
        x = layers.MaxPooling2D(2, padding="same", name=f"block{block + 1}_pool")(x)
        if config.block_dropout > 0:
            x = layers.Dropout(config.block_dropout, seed=config.seed + 100 + block, name=f"block{block + 1}_dropout")(x)
    x = _VECTORS[config.pooling](name="vector")(x)
    return keras.Model(pixels, classifier_head(x, config, n_classes), name="scratch")
