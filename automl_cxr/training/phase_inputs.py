"""The inputs of a phase of training: pixels, or features of frozen layers that are computed once.

With both, the weights of the whole network are trained. Features are used if a frozen part can be separated from the network
(``model/frozen_split.py``), the cache has enough disk space, and computing them takes fewer passes over the images than
training from pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import keras
import numpy as np

from automl_cxr.config import TrialConfig
from automl_cxr.data.feature_cache import FeatureCache, Features
from automl_cxr.errors import FeatureCacheError, NotCacheableError, TrialError
from automl_cxr.model.devices import data_parallel, has_gpu
from automl_cxr.model.flops import count_multiply_adds
from automl_cxr.model.freezing import BACKBONE, SECOND_BACKBONE
from automl_cxr.model.frozen_split import FrozenPart, divide_network, is_stochastic
from automl_cxr.training.datasets import FeaturePart, LabelledPart, Part
from automl_cxr.training.frozen_features import features_of, open_features

PIXELS = "pixels"
_TOLERANCE = 1e-5  # of probabilities from features and from pixels; float32 rounding errors on a CPU are smaller
_LARGEST_DIFFERENCE = 0.05  # rounding in float16 or on a GPU causes smaller differences
_N_COMPARED = 8  # images
_LEAST_SHARE = 0.2  # of the multiply-adds; below this share, caching saves too little time for its disk space


@dataclass(frozen=True, kw_only=True)
class PhaseInputs:
    """The network that is trained in a phase, and its inputs.

    Attributes:
        network: The network to compile and fit: the whole network, or the layers above its frozen parts.
        train: The training part; with augmented views, one training part for each view, used by the epochs in rotation.
        valid: The validation part.
        description: Inputs, for the record: "backbone@vector, float32", or "pixels" and the reason why
            features are not used; "" for networks without a backbone.
        is_exact: Whether its predictions differ from those of the whole network by rounding only.
        from_features: Whether the inputs are cached features.
    """

    network: keras.Model
    train: Sequence[Part]
    valid: Part
    description: str
    is_exact: bool = True
    from_features: bool = False

    def train_part(self, epoch: int) -> Part:
        """Return the training part of an epoch, numbered from 1."""
        return self.train[(epoch - 1) % len(self.train)]


def choose_phase_inputs(
    network: keras.Model, config: TrialConfig, *, n_epochs: int, train: LabelledPart, valid: LabelledPart
) -> PhaseInputs:
    """Choose the inputs of a phase, and compute features that are not cached.

    Args:
        network: The whole network, with the trainable layers of the phase.
        config: ``features`` and ``views``, and the names of the backbones.
        n_epochs: Maximum number of epochs of the phase.
        train: Training images.
        valid: Validation images, in the same array.
    """
    has_backbone = any(layer.name in (BACKBONE, SECOND_BACKBONE) for layer in network.layers)
    if config.features == PIXELS or not has_backbone:
        return PhaseInputs(network=network, train=[train], valid=valid, description=PIXELS if has_backbone else "")
    try:
        return _feature_inputs(network, config, n_epochs=n_epochs, train=train, valid=valid)
    except (NotCacheableError, FeatureCacheError) as reason:
        return PhaseInputs(network=network, train=[train], valid=valid, description=f"{PIXELS}: {reason}")


def _feature_inputs(
    network: keras.Model, config: TrialConfig, *, n_epochs: int, train: LabelledPart, valid: LabelledPart
) -> PhaseInputs:
    with data_parallel():
        divided = divide_network(network, with_views=config.views > 0)
    share = 1 - count_multiply_adds(divided.trained) / count_multiply_adds(network)
    if share < _LEAST_SHARE:
        raise NotCacheableError(f"the frozen layers account for only {share:.0%} of the multiply-adds")
    images, cache, dtype = train.images, FeatureCache(), config.features
    parts = [part for part in divided.frozen if part is not None]
    are_drawn = any(is_stochastic(operation) for part in parts for operation in part.network.operations)
    views = [0, *range(1, config.views + 1)] if are_drawn else [0]  # the validation part is not augmented
    described = {(part.name, view): _describe(part, images, dtype, view, config) for part in parts for view in views}
    n_passes = len({view for (_, view), features in described.items() if not cache.holds(features)})
    if n_passes >= n_epochs:
        raise NotCacheableError(
            f"features would not save passes over the images ({n_passes} with features, {n_epochs} without)"
        )

    def read_view(view: int) -> tuple[np.ndarray, ...]:
        return tuple(
            images[..., np.newaxis]
            if part is None
            else open_features(part.network, described[part.name, view], images, cache=cache, view=view)
            for part in divided.frozen
        )

    inputs_of_views = [read_view(view) for view in views]
    return PhaseInputs(
        network=divided.trained,
        train=[FeaturePart(inputs, train.rows, train.labels) for inputs in inputs_of_views[1:] or inputs_of_views],
        valid=FeaturePart(inputs_of_views[0], valid.rows, valid.labels),
        description=f"{' and '.join(part.name for part in parts)}, {dtype}" + (f", {config.views} views" if are_drawn else ""),
        is_exact=dtype == "float32" and not has_gpu(),  # on a GPU, rounding depends on the batch size
        from_features=True,
    )


def _describe(part: FrozenPart, images: np.ndarray, dtype: str, view: int, config: TrialConfig) -> Features:
    role, _, layer = part.name.partition("@")
    branch = config.branches[1 if role.startswith("second_") else 0]
    return features_of(part.network, images, dtype=dtype, view=view, label=f"{branch.label}@{layer}")


def compare_with_pixels(whole: keras.Model, valid: LabelledPart, probabilities: np.ndarray) -> float:
    """Return the largest difference between predictions from features and those from pixels, for some images of a part.

    Raises:
        TrialError: The difference is too large for a rounding error.
    """
    positions = compared_positions(valid)
    with data_parallel():
        from_pixels = keras.ops.convert_to_numpy(whole(valid.batch(positions), training=False))
    return compare_predictions(np.asarray(from_pixels, np.float32), probabilities[positions])


def compared_positions(part: LabelledPart) -> np.ndarray:
    """Return the positions of the images of a part that are also predicted from pixels, int (k,)."""
    return np.unique(np.linspace(0, len(part.rows) - 1, _N_COMPARED).astype(int))


def compare_predictions(from_pixels: np.ndarray, from_features: np.ndarray) -> float:
    """Return the largest difference between probabilities of the same images.

    Raises:
        TrialError: The difference is too large for a rounding error.
    """
    difference = float(np.abs(from_pixels - from_features).max())
    if not difference <= _LARGEST_DIFFERENCE:
        raise TrialError(
            f"Predictions from cached features and from pixels must be equal; a probability differs by {difference:.2g}. "
            "Delete the features with `automl-cxr cache clear`, or set features=pixels."
        )
    return difference


def is_rounding_error(difference: float) -> bool:
    """Return whether a difference between predictions from features and from pixels can be a rounding error."""
    return difference <= _TOLERANCE
