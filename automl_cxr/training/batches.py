"""Batches of an epoch of training."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from automl_cxr.config import TrialConfig
from automl_cxr.model.devices import n_devices
from automl_cxr.training.datasets import Part
from automl_cxr.training.sampling import epoch_order, fill_up
from automl_cxr.training.targets import training_targets


def n_steps(n_images: int, batch_size: int) -> int:
    """Return the number of gradient steps of an epoch; the last one may have fewer images."""
    return math.ceil(n_images / batch_size)


def divisible_size(batch_size: int) -> int:
    """Return the smallest batch size, at least ``batch_size``, that can be divided among the devices."""
    return n_devices() * math.ceil(batch_size / n_devices())


class TrainingBatches:
    """Batches of (inputs, targets, weights) of one epoch; they depend only on epoch and configuration.

    All batches have the same number of images (``sampling.fill_up``).

    Args:
        part: The training part.
        n_classes: Number of classes or findings.
        config: The configuration.
        epoch: Number of the epoch, from 1.
    """

    def __init__(self, part: Part, n_classes: int, config: TrialConfig, *, epoch: int) -> None:
        self._part = part
        self._targets = training_targets(part.labels, n_classes, config)
        self._order = epoch_order(part.labels, n_classes, config, epoch=epoch)
        self._n_images = min(config.images_at_once, len(self._order))
        self._n_last = len(self._order) - (len(self) - 1) * self._n_images
        self._size = divisible_size(self._n_images)

    def __len__(self) -> int:
        return n_steps(len(self._order), self._n_images)

    def __getitem__(self, step: int) -> tuple[Any, np.ndarray, np.ndarray]:
        positions, weights = fill_up(self._order, self._targets.weights, step=step, n_images=self._n_images, size=self._size)
        return self._part.batch(positions), self._targets.values[positions], weights

    def mean_loss(self, before_last: float, all_steps: float) -> float:
        """Return the mean loss of the images of the epoch.

        Args:
            before_last: Mean loss of all steps but the last, each weighted equally; any number if there is one step only.
            all_steps: Mean loss of all steps, each weighted equally.
        """
        n_before = len(self) - 1
        last = (n_before + 1) * all_steps - n_before * before_last
        return (self._n_images * n_before * before_last + self._n_last * last) / len(self._order)
