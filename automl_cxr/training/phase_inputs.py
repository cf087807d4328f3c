"""What a phase of training reads: pixels, or what the layers that stand still say of them, computed once.

Both roads train the very weights of the whole network. That of features is taken where a frozen part can be divided off
(``model/frozen_split.py``), the cache has room, and a pass over the images costs less than it saves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import keras
import numpy as np

from automl_cxr.config import TrialConfig
from automl_cxr.data.feature_cache import FeatureCache, Features
from automl_cxr.errors import FeatureCacheError, TrialError, UndividedError
from automl_cxr.model.devices import data_parallel, has_gpu
from automl_cxr.model.flops import count_multiply_adds
from automl_cxr.model.freezing import BACKBONE, SECOND_BACKBONE
from automl_cxr.model.frozen_split import FrozenPart, divide_network, is_stochastic
from automl_cxr.training.datasets import FeaturePart, LabelledPart
from automl_cxr.training.frozen_features import features_of, open_features

PIXELS = "pixels"
_TOLERANCE = 1e-5  # of a probability, between the roads; rounding stays below it
_GROSS = 0.05  # what neither 16 bits nor a GPU's rounding explains
_N_COMPARED = 8  # images
_LEAST_SHARE = 0.2  # of the multiplications, for which shallow feature maps are worth their room


@dataclass(frozen=True, kw_only=True)
class PhaseInputs:
    """The network that is trained now, and its inputs.

    Attributes:
        network: What is compiled and fitted: the whole network, or what stands above its frozen parts.
        train: The part that it learns from; several where they are views of the same images, which epochs take in turn.
        valid: The part that it is judged by.
        reads: What it reads, for the record: "backbone@vector, float32" or "pixels", with the reason where it could be
            otherwise; "" for networks that have no backbone.
        is_exact: Whether it predicts what the whole network does but for rounding.
    """

    network: keras.Model
    train: Sequence[LabelledPart | FeaturePart]
    valid: LabelledPart | FeaturePart
    reads: str
    is_exact: bool = True

    def train_part(self, epoch: int) -> LabelledPart | FeaturePart:
        """Give what an epoch, from 1, learns from."""
        return self.train[(epoch - 1) % len(self.train)]


def choose_phase_inputs(
    network: keras.Model, config: TrialConfig, *, n_epochs: int, train: LabelledPart, valid: LabelledPart
) -> PhaseInputs:
    """Choose what a phase reads, and compute it if it is not there.

    Args:
        network: The whole network, set to the phase.
        config: Its ``features`` and ``views``.
        n_epochs: Epochs of the phase at most.
        train: Images to learn from.
        valid: Images to be judged by; of the same array.
    """
    has_backbone = any(layer.name in (BACKBONE, SECOND_BACKBONE) for layer in network.layers)
    if config.features == PIXELS or not has_backbone:
        return PhaseInputs(network=network, train=[train], valid=valid, reads=PIXELS if has_backbone else "")
    try:
        return _feature_inputs(network, config, n_epochs=n_epochs, train=train, valid=valid)
    except (UndividedError, FeatureCacheError) as reason:
        return PhaseInputs(network=network, train=[train], valid=valid, reads=f"{PIXELS}: {reason}")


def _feature_inputs(
    network: keras.Model, config: TrialConfig, *, n_epochs: int, train: LabelledPart, valid: LabelledPart
) -> PhaseInputs:
    with data_parallel():
        divided = divide_network(network, with_views=config.views > 0)
    share = 1 - count_multiply_adds(divided.trained) / count_multiply_adds(network)
    if share < _LEAST_SHARE:
        raise UndividedError(f"the layers that could be run once do {share:.0%} of the work")
    images, cache, dtype = train.images, FeatureCache(), config.features
    parts = [part for part in divided.frozen if part is not None]
    are_drawn = any(is_stochastic(operation) for part in parts for operation in part.network.operations)
    views = [0, *range(1, config.views + 1)] if are_drawn else [0]  # the validation part is seen as it is
    described = {(part.name, view): _describe(part, images, dtype, view, config) for part in parts for view in views}
    n_passes = len({view for (_, view), features in described.items() if not cache.holds(features)})
    if n_passes >= n_epochs:
        raise UndividedError(f"features take no fewer passes over the images than there are epochs ({n_passes} and {n_epochs})")

    def read_view(view: int) -> tuple[np.ndarray, ...]:
        return tuple(
            images[..., np.newaxis]
            if part is None
            else open_features(part.network, described[part.name, view], images, cache=cache, view=view)
            for part in divided.frozen
        )

    seen = [read_view(view) for view in views]
    return PhaseInputs(
        network=divided.trained,
        train=[FeaturePart(inputs, train.rows, train.labels) for inputs in seen[1:] or seen],
        valid=FeaturePart(seen[0], valid.rows, valid.labels),
        reads=f"{' and '.join(part.name for part in parts)}, {dtype}" + (f", {config.views} views" if are_drawn else ""),
        is_exact=dtype == "float32" and not has_gpu(),  # GPUs round by the size of a batch
    )


def _describe(part: FrozenPart, images: np.ndarray, dtype: str, view: int, config: TrialConfig) -> Features:
    role, _, layer = part.name.partition("@")
    backbone = config.second_backbone if role.startswith("second_") else config.backbone
    return features_of(part.network, images, dtype=dtype, view=view, label=f"{backbone}@{layer}")


def compare_with_pixels(whole: keras.Model, valid: LabelledPart, probabilities: np.ndarray) -> float:
    """Give the largest difference between predictions of a part and those of the whole network for some of its images.

    Raises:
        TrialError: It is larger than rounding explains.
    """
    positions = compared_positions(valid)
    with data_parallel():
        said = keras.ops.convert_to_numpy(whole(valid.batch(positions), training=False))
    return compare_predictions(np.asarray(said, np.float32), probabilities[positions])


def compared_positions(part: LabelledPart) -> np.ndarray:
    """Choose the images of a part that are looked at from pixels, int (k,)."""
    return np.unique(np.linspace(0, len(part.rows) - 1, _N_COMPARED).astype(int))


def compare_predictions(from_pixels: np.ndarray, from_features: np.ndarray) -> float:
    """Give the largest difference between probabilities of the same images.

    Raises:
        TrialError: It is larger than rounding explains.
    """
    differ_by = float(np.abs(from_pixels - from_features).max())
    if not differ_by <= _GROSS:
        raise TrialError(
            f"Features must be what the network computes; with them a probability differs by {differ_by:.2g}. "
            "Remove them with `automl-cxr cache clear`, or set features=pixels."
        )
    return differ_by


def agrees(differ_by: float) -> bool:
    """Tell whether a difference between the roads is rounding."""
    return differ_by <= _TOLERANCE
