"""A network below its head, all of it frozen: built once, run over the images once, and kept for every head put on it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np

from automl_cxr.config import TrialConfig
from automl_cxr.errors import UndividedError
from automl_cxr.model.build import build_model
from automl_cxr.model.head import classifier_head
from automl_cxr.training.datasets import FeaturePart, LabelledPart
from automl_cxr.training.phase_inputs import agrees, choose_phase_inputs, compare_predictions, compared_positions
from automl_cxr.training.stack_grouping import vectors_of
from automl_cxr.training.stacked_saving import StackedModelSaver
from automl_cxr.training.trainer import predict_probabilities

_VECTOR = "vector"  # the layer that heads stand on
_AT_ONCE = 256  # images
_ENOUGH = 10**9  # epochs that will read the features: of heads without number
_HEAD = (
    *("n_dense", "dense_units", "dense_growth", "dropout", "loss", "focal_gamma", "focal_alpha", "label_smoothing"),
    *("optimizer", "learning_rate", "fine_tune_rate", "schedule", "plateau_factor", "plateau_share", "weight_decay"),
    *("batch_size", "epochs", "patience", "monitor", "imbalance", "undersample_ratio", "frozen_share", "seed"),
)


def base_config_of(config: TrialConfig) -> TrialConfig:
    """Give the configuration with all that only concerns the head and its training at the defaults: equal for one trunk."""
    plain = TrialConfig()
    return dataclasses.replace(config, **{name: getattr(plain, name) for name in _HEAD})


class FrozenBase:
    """A trunk, and the features of one split.

    Args:
        config: Of any trial that it serves.
        train: Images to learn from.
        valid: Images to be judged by.
        n_classes: Number of classes.
        weights_folder: Where pretrained weights are looked for first.

    Attributes:
        road: The features.
        valid: The images to be judged by.

    Raises:
        UndividedError: Its features cannot be kept, so that heads have to be trained one by one.
        TrialError: Weights cannot be had.
    """

    def __init__(
        self, config: TrialConfig, *, train: LabelledPart, valid: LabelledPart, n_classes: int, weights_folder: Path | None
    ) -> None:
        self._n_classes = n_classes
        self.valid = valid
        self._whole = build_model(base_config_of(config), n_classes, steps_per_epoch=1, weights_folder=weights_folder)
        self._vector = self._whole.get_layer(_VECTOR).output
        self.road = choose_phase_inputs(self._whole, config, n_epochs=_ENOUGH, train=train, valid=valid)
        if not isinstance(self.road.valid, FeaturePart):
            raise UndividedError(self.road.reads)
        self._seen = compared_positions(valid)
        trunk = keras.Model(self._whole.input, self._vector)
        self._vectors_seen = _in_batches(trunk, valid.batch, self._seen)
        self._saver = StackedModelSaver(trunk.layers)

    def with_head(self, config: TrialConfig) -> keras.Model:
        """Put an untrained head on the trunk: the network that ``build_model`` gives, but that all share the trunk."""
        return keras.Model(self._whole.input, classifier_head(self._vector, config, self._n_classes), name=self._whole.name)

    def predict_valid(self, model: keras.Model) -> tuple[np.ndarray, str]:
        """Predict the validation part with one of its networks, and compare some images with what it says of their pixels.

        Returns:
            As ``Training.best_probabilities``.

        Raises:
            TrialError: The features are not what the network computes.
        """
        head = keras.Model(self._vector, model.output)
        features = self.road.valid
        probabilities = _in_batches(head, lambda positions: vectors_of(features, positions), np.arange(len(features.rows)))
        from_pixels = _in_batches(head, lambda positions: self._vectors_seen[positions], np.arange(len(self._seen)))
        differ_by = compare_predictions(from_pixels, probabilities[self._seen])
        note = f"the whole network, from pixels, predicts the same within {differ_by:.1g}"
        if self.road.is_exact and agrees(differ_by):
            return probabilities, note
        return predict_probabilities(model, self.valid), f"{note}; its own predictions are kept"

    def save(self, model: keras.Model, path: Path) -> None:
        """Write one of its networks, compiled with an optimizer that has not run, to a .keras file."""
        self._saver.save(model, path)


def _in_batches(network: keras.Model, batch: Callable[[np.ndarray], np.ndarray], positions: np.ndarray) -> np.ndarray:
    """Run a network as it is, since a graph would take longer to trace than it saves."""
    parts = np.split(positions, range(_AT_ONCE, len(positions), _AT_ONCE))
    return np.concatenate([np.asarray(keras.ops.convert_to_numpy(network(batch(part), training=False))) for part in parts])
