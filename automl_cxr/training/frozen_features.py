"""Features: what the part of a network that stands still says of all images of a decoded array, from the cache or into it.

Features of one network are computed in one pass, however many cuts are asked for. Each cut has an entry of its own, named by
what it computes (``model/fingerprint.py``) and by the images' contents, so that it does not matter which network, trial or
search asks. Batches are read, run and written one by one: no more than one of them is in memory.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import layers

from automl_cxr.data.feature_cache import FeatureCache, Features, Rows, digest_array
from automl_cxr.model.devices import data_parallel, has_gpu, n_devices
from automl_cxr.model.fingerprint import fingerprint
from automl_cxr.model.frozen_split import is_stochastic
from automl_cxr.model.graph import tensors_at

_BATCH_SIZE = 32  # one for all, since the draws of a view depend on it
_POOLINGS = {"average": layers.GlobalAveragePooling2D, "max": layers.GlobalMaxPooling2D}


@dataclass(frozen=True)
class _Tap:
    """Features, and the tensor of a network that holds them."""

    features: Features
    tensor: keras.KerasTensor


def pooled_features(
    network: keras.Model,
    cuts: Sequence[str],
    images: np.ndarray,
    *,
    pooling: str = "average",
    dtype: str = "float32",
    label: str = "",
    cache: FeatureCache | None = None,
) -> dict[str, np.ndarray]:
    """Give one vector for each image and cut: feature maps of a network, pooled over all positions.

    Args:
        network: Any network that takes raw grey pixels (n, h, w, 1): a backbone with its preprocessing
            (``transfer.backbone_on_pixels``), a trunk, or the saved model of a trial. It runs as in inference.
        cuts: Names of its layers with feature maps (n, h, w, channels); within a backbone, after its name and a slash, such as
            "backbone/fire5_concat".
        images: A decoded array, uint8 (n, h, w), usually mapped.
        pooling: "average" or "max".
        dtype: "float32" or "float16".
        label: Name of the network, for people; by default its own.
        cache: Where they are kept; by default the cache folder.

    Returns:
        By cut, in the order asked for: a map of the file, read-only, (n, channels).

    Raises:
        ImpossibleModelError: The network has no such layer, or it has no feature maps.
        FeatureCacheError: They find no room.
    """
    maps, pixels = tensors_at(network, cuts), network.inputs[0]
    taps = []
    for cut, tensor in zip(cuts, maps, strict=True):
        (alone,) = tensors_at(network, [cut])  # whose digest does not depend on what else is asked for
        pooled = [_POOLINGS[pooling]()(one) for one in (alone, tensor)]
        features = features_of(
            keras.Model(pixels, pooled[0]), images, dtype=dtype, label=f"{label or network.name}@{cut}, {pooling}"
        )
        taps.append(_Tap(features, pooled[1]))
    return dict(zip(cuts, _open(taps, pixels, images, cache or FeatureCache(), view=0), strict=True))


def features_of(network: keras.Model, images: np.ndarray, *, dtype: str = "float32", view: int = 0, label: str) -> Features:
    """Describe what a network says of images, without computing it.

    Args:
        network: From raw pixels (n, h, w, 1) to one tensor.
        images: A decoded array, uint8 (n, h, w).
        dtype: "float32" or "float16".
        view: 0 for the images as they are; else a number from 1 that decides what augmentation draws.
        label: What they are, for people.
    """
    origin: dict[str, str | int] = {
        "images": digest_array(images),
        "network": fingerprint(network),
        "view": view,
        "backend": keras.backend.backend(),
        "device": "gpu" if has_gpu() else "cpu",  # which rounds otherwise
    }
    seen = f"{images.shape[1]} pixels" + (f", view {view}" if view else "")
    return Features(origin, (len(images), *network.output_shape[1:]), dtype, f"{label}, {seen}")


def open_features(
    network: keras.Model, features: Features, images: np.ndarray, *, cache: FeatureCache, view: int = 0
) -> np.ndarray:
    """Give what a network says of each image, read-only (n, ...), from the cache or computed into it.

    Args:
        network: The one that was described.
        features: Its description, by ``features_of``.
        images: As there.
        cache: Where they are kept.
        view: As there.

    Raises:
        FeatureCacheError: They find no room.
    """
    (values,) = _open([_Tap(features, network.outputs[0])], network.inputs[0], images, cache, view=view)
    return values


def _open(
    taps: Sequence[_Tap], pixels: keras.KerasTensor, images: np.ndarray, cache: FeatureCache, *, view: int
) -> list[np.ndarray]:
    """Open features of one network, after running it once over the images for all that are missing."""
    tensors = {tap.features.key: tap.tensor for tap in taps}

    def compute(missing: Sequence[Features]) -> Iterator[Rows]:
        return run_over(keras.Model(pixels, [tensors[features.key] for features in missing]), images, view=view)

    return cache.open([tap.features for tap in taps], compute)


def run_over(network: keras.Model, images: np.ndarray, *, view: int = 0) -> Iterator[Rows]:
    """Yield the outputs of a network for some images after the others, as it is in inference, or with a view's draws."""
    if view:
        network = _with_draws(network, view)
    batch_size = n_devices() * math.ceil(_BATCH_SIZE / n_devices())
    for first in range(0, len(images), batch_size):
        pixels = np.asarray(images[first : first + batch_size])
        shown = np.resize(np.arange(len(pixels)), batch_size)  # the last batch is filled up: no second graph is traced for it
        with data_parallel():
            outputs = network.predict_on_batch(pixels[shown][..., np.newaxis])
        outputs = outputs if isinstance(outputs, (list, tuple)) else [outputs]
        yield tuple(np.asarray(output, np.float32)[: len(pixels)] for output in outputs)


class _InTraining(keras.Model):
    """A network that draws when it predicts."""

    def __init__(self, network: keras.Model) -> None:
        super().__init__(name="views")
        self.network = network

    def call(self, pixels: Any) -> Any:
        return self.network(pixels, training=True)


def _with_draws(network: keras.Model, view: int) -> keras.Model:
    """Let a network draw as a view does: by the view's number alone, whatever the seed of the trial."""
    for position, operation in enumerate(operation for operation in network.operations if is_stochastic(operation)):
        weights = {id(weight) for weight in operation.weights}
        for state in (variable for variable in operation.variables if id(variable) not in weights):
            seeds = np.random.SeedSequence((view, position)).generate_state(int(np.prod(state.shape)))
            state.assign((seeds >> 1).astype(np.int64).reshape(state.shape))
    return _InTraining(network)
