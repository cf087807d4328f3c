"""Features: the outputs of frozen layers for all images of a decoded array, computed once and cached.

The features at all cuts of a network are computed in one pass over the images. Each cut has a separate cache entry, whose key
depends on the layers and weights below the cut (``model/fingerprint.py``) and on the contents of the images. Therefore
networks, trials and searches share entries. One batch at a time is in memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import layers

from automl_cxr.data.feature_cache import FeatureCache, Features, Rows, digest_array
from automl_cxr.data.image_rows import ImageArray
from automl_cxr.model.devices import data_parallel, has_gpu
from automl_cxr.model.fingerprint import fingerprint
from automl_cxr.model.frozen_split import is_stochastic
from automl_cxr.model.graph import tensors_at
from automl_cxr.model.head import deviation
from automl_cxr.model.inference import prediction_batch_size
from automl_cxr.prefetch import Prefetched
from automl_cxr.training.batches import divisible_size, n_steps

_VIEW_BATCH_SIZE = 32  # fixed, because the random numbers of a view depend on it


@dataclass(frozen=True)
class _FeatureOutput:
    """Features, and the output tensor of a network that computes them."""

    features: Features
    tensor: keras.KerasTensor


def pooled_features(
    network: keras.Model,
    cuts: Sequence[str],
    images: ImageArray,
    *,
    pooling: str = "average",
    dtype: str = "float32",
    label: str = "",
    cache: FeatureCache | None = None,
) -> dict[str, np.ndarray]:
    """Return one vector for each image and cut: the feature maps of a network, pooled over all positions.

    Args:
        network: Any network that takes raw grey pixels (n, h, w, 1): a backbone with its preprocessing
            (``transfer.backbone_on_pixels``), a convolution stack, or the saved model of a trial. It runs in inference mode.
        cuts: Names of layers with feature maps (n, h, w, channels). The name of a backbone and a slash precede the name of a
            layer in the backbone, such as "backbone/fire5_concat".
        images: A decoded array, uint8 (n, h, w), usually mapped.
        pooling: "average", "max", or "average+deviation", which is twice as long.
        dtype: "float32" or "float16".
        label: Name of the network in cache listings; by default ``network.name``.
        cache: The cache; by default the one in the cache folder.

    Returns:
        A read-only memory map (n, channels) for each cut, in the order of ``cuts``.

    Raises:
        ImpossibleModelError: The network has no such layer, or it has no feature maps.
        FeatureCacheError: The cache has too little free disk space.
    """
    maps, pixels = tensors_at(network, cuts), network.inputs[0]
    outputs = []
    for cut, tensor in zip(cuts, maps, strict=True):
        (single,) = tensors_at(network, [cut])  # its digest does not depend on the other cuts
        pooled = [_pool(one, pooling) for one in (single, tensor)]
        features = features_of(
            keras.Model(pixels, pooled[0]), images, dtype=dtype, label=f"{label or network.name}@{cut}, {pooling}"
        )
        outputs.append(_FeatureOutput(features, pooled[1]))
    return dict(zip(cuts, _open(outputs, pixels, images, cache or FeatureCache(), view=0), strict=True))


def _pool(maps: keras.KerasTensor, pooling: str) -> keras.KerasTensor:
    if pooling == "max":
        return layers.GlobalMaxPooling2D()(maps)
    average = layers.GlobalAveragePooling2D()(maps)
    return average if pooling == "average" else layers.Concatenate()([average, deviation(maps)])


def features_of(network: keras.Model, images: ImageArray, *, dtype: str = "float32", view: int = 0, label: str) -> Features:
    """Describe the outputs of a network for images, without computing them.

    Args:
        network: A network from raw pixels (n, h, w, 1) to one tensor.
        images: A decoded array, uint8 (n, h, w).
        dtype: "float32" or "float16".
        view: 0 for the images without augmentation; else a number from 1, the seed of the augmentation.
        label: Description of the features in cache listings.
    """
    origin: dict[str, str | int] = {
        "images": digest_array(images),
        "network": fingerprint(network),
        "view": view,
        "backend": keras.backend.backend(),
        "device": "gpu" if has_gpu() else "cpu",  # rounding differs between devices
    }
    view_label = f"{images.shape[1]} pixels" + (f", view {view}" if view else "")
    return Features(origin, (len(images), *network.output_shape[1:]), dtype, f"{label}, {view_label}")


def open_features(
    network: keras.Model, features: Features, images: ImageArray, *, cache: FeatureCache, view: int = 0
) -> np.ndarray:
    """Return the outputs of a network for each image, read-only (n, ...). They are computed if they are not cached.

    Args:
        network: The network that ``features`` describes.
        features: The description, from ``features_of``.
        images: The same as for ``features_of``.
        cache: The cache.
        view: The same as for ``features_of``.

    Raises:
        FeatureCacheError: The cache has too little free disk space.
    """
    (values,) = _open([_FeatureOutput(features, network.outputs[0])], network.inputs[0], images, cache, view=view)
    return values


def _open(
    outputs: Sequence[_FeatureOutput], pixels: keras.KerasTensor, images: ImageArray, cache: FeatureCache, *, view: int
) -> list[np.ndarray]:
    """Open features of one network; compute all missing features in one pass over the images."""
    tensors = {output.features.key: output.tensor for output in outputs}

    def compute(missing: Sequence[Features]) -> Iterator[Rows]:
        return compute_features(keras.Model(pixels, [tensors[features.key] for features in missing]), images, view=view)

    return cache.open([output.features for output in outputs], compute)


def compute_features(network: keras.Model, images: ImageArray, *, view: int = 0) -> Iterator[Rows]:
    """Yield the outputs of a network batch by batch, in inference mode or with the augmentation of a view.

    Another thread reads the next images meanwhile.
    """
    batch_size = divisible_size(_VIEW_BATCH_SIZE if view else prediction_batch_size(images.shape[1]))
    if view:
        network = _with_view(network, view)

    def pixels(number: int) -> np.ndarray:
        first = number * batch_size
        rows = np.asarray(images[first : first + batch_size])
        shown = np.resize(np.arange(len(rows)), batch_size)  # pads the last batch, so that no second graph is traced
        return rows[shown][..., np.newaxis]

    for number, batch in enumerate(Prefetched(pixels, n_steps(len(images), batch_size))):
        with data_parallel():
            outputs = network.predict_on_batch(batch)
        outputs = outputs if isinstance(outputs, (list, tuple)) else [outputs]
        n_rows = min(batch_size, len(images) - number * batch_size)
        yield tuple(np.asarray(output, np.float32)[:n_rows] for output in outputs)


class _AugmentedNetwork(keras.Model):
    """A network whose random layers are active in predictions."""

    def __init__(self, network: keras.Model) -> None:
        super().__init__(name="views")
        self.network = network

    def call(self, pixels: Any) -> Any:
        return self.network(pixels, training=True)


def _with_view(network: keras.Model, view: int) -> keras.Model:
    """Activate the random layers of a network. Their seed is the number of the view and does not depend on the trial."""
    for position, operation in enumerate(operation for operation in network.operations if is_stochastic(operation)):
        weights = {id(weight) for weight in operation.weights}
        for state in (variable for variable in operation.variables if id(variable) not in weights):
            seeds = np.random.SeedSequence((view, position)).generate_state(int(np.prod(state.shape)))
            state.assign((seeds >> 1).astype(np.int64).reshape(state.shape))
    return _AugmentedNetwork(network)
