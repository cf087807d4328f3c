"""The frozen layers below a head. They are built once, and their features are computed once and shared by all heads."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np

from automl_cxr.config import TrialConfig
from automl_cxr.errors import NotCacheableError
from automl_cxr.model.build import build_model
from automl_cxr.model.head import classifier_head
from automl_cxr.training.datasets import FeaturePart, LabelledPart
from automl_cxr.training.passes import predict_probabilities
from automl_cxr.training.phase_inputs import choose_phase_inputs, compare_predictions, compared_positions, is_rounding_error
from automl_cxr.training.stack_grouping import vectors_of
from automl_cxr.training.stacked_saving import StackedModelSaver

_VECTOR = "vector"  # the layer whose output is the input of the heads
_BATCH_SIZE = 256  # images
_MANY_EPOCHS = 10**9  # large, because the number of heads that use the features is unknown
# The data type of the features belongs to the frozen layers, although only the training of heads uses it.
_HEAD = tuple(
    name
    for name in TrialConfig.names_affecting("head", "loss", "optimizer", "training")
    if name not in (*TrialConfig.names_affecting("architecture", "augmentation"), "features")
)


def base_config_of(config: TrialConfig) -> TrialConfig:
    """Return the configuration of the frozen layers, which is equal for all heads that share them.

    All hyperparameters that concern only the head and its training, and those that the configuration does not read, are set
    to their defaults.
    """
    default = TrialConfig()
    reset = {name for name in TrialConfig.names() if name in _HEAD or not config.reads(name)}
    return dataclasses.replace(config, **{name: getattr(default, name) for name in reset})


class FrozenBase:
    """Frozen layers, and their features for the images of one split.

    Args:
        config: The configuration of any trial that uses them.
        train: Training images.
        valid: Validation images.
        n_classes: Number of classes.
        weights_folder: Folder that is searched first for pretrained weights.

    Attributes:
        inputs: The features.
        valid: The validation images.

    Raises:
        NotCacheableError: The features cannot be cached, so the heads must be trained one by one.
        TrialError: The weights cannot be loaded.
    """

    def __init__(
        self, config: TrialConfig, *, train: LabelledPart, valid: LabelledPart, n_classes: int, weights_folder: Path | None
    ) -> None:
        self._n_classes = n_classes
        self.valid = valid
        self._whole = build_model(base_config_of(config), n_classes, steps_per_epoch=1, weights_folder=weights_folder)
        self._vector = self._whole.get_layer(_VECTOR).output
        self.inputs = choose_phase_inputs(self._whole, config, n_epochs=_MANY_EPOCHS, train=train, valid=valid)
        if not isinstance(self.inputs.valid, FeaturePart):
            raise NotCacheableError(self.inputs.description)
        self._compared = compared_positions(valid)
        base = keras.Model(self._whole.input, self._vector)
        self._vectors_from_pixels = _predict(base, valid.batch, self._compared)
        self._saver = StackedModelSaver(base.layers)

    def with_head(self, config: TrialConfig) -> keras.Model:
        """Return the network of ``build_model`` for a configuration, with an untrained head on the shared layers."""
        return keras.Model(self._whole.input, classifier_head(self._vector, config, self._n_classes), name=self._whole.name)

    def predict_valid(self, model: keras.Model) -> tuple[np.ndarray, str]:
        """Predict the validation part with one of the networks, and compare some predictions with those from pixels.

        Returns:
            The same values as ``Training.best_probabilities``.

        Raises:
            TrialError: The cached features differ from those that the network computes.
        """
        head = keras.Model(self._vector, model.output)
        features = self.inputs.valid
        probabilities = _predict(head, lambda positions: vectors_of(features, positions), np.arange(len(features.rows)))
        from_pixels = _predict(
            head, lambda positions: self._vectors_from_pixels[positions], np.arange(len(self._vectors_from_pixels))
        )
        difference = compare_predictions(from_pixels, probabilities[self._compared])
        message = f"predictions of the whole network from pixels differ by at most {difference:.1g}"
        if self.inputs.is_exact and is_rounding_error(difference):
            return probabilities, message
        return predict_probabilities(model, self.valid), f"{message}; those from pixels are saved"

    def save(self, model: keras.Model, path: Path) -> None:
        """Write one of the networks, compiled with a new optimizer, to a .keras file."""
        self._saver.save(model, path)


def _predict(network: keras.Model, batch: Callable[[np.ndarray], np.ndarray], positions: np.ndarray) -> np.ndarray:
    """Predict batch by batch in eager mode: for so small a network, tracing a graph takes longer than it saves."""
    parts = np.split(positions, range(_BATCH_SIZE, len(positions), _BATCH_SIZE))
    return np.concatenate([np.asarray(keras.ops.convert_to_numpy(network(batch(part), training=False))) for part in parts])
