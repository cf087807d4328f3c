"""Which images an epoch shows, how often, in which order, and what each counts: the ways to meet unequal classes.

The images of a class stand in a ring, in an order that the seed draws. Each epoch takes the next ones of the ring, as many as
the class has places in an epoch: all of them once, or some of them (undersampling), or all and then some again
(oversampling). So within an epoch and over any number of epochs no image is shown twice more than another of its class.
"""

from __future__ import annotations

import math

import numpy as np

from automl_cxr.config import TrialConfig


def images_per_epoch(labels: np.ndarray, n_classes: int, config: TrialConfig) -> np.ndarray:
    """Count the images of each class that an epoch shows, int (n_classes,); every epoch shows as many.

    Args:
        labels: Index of the class of each image, int (n,).
        n_classes: Number of classes; some may have no image.
        config: ``imbalance`` and ``undersample_ratio``.
    """
    sizes = np.bincount(labels, minlength=n_classes)
    present = sizes > 0
    if config.imbalance == "oversample":
        return np.where(present, sizes.max(), 0)
    if "undersample" in config.imbalance:
        return np.minimum(sizes, round(config.undersample_ratio * sizes[present].min()))
    return sizes


def epoch_order(labels: np.ndarray, n_classes: int, config: TrialConfig, *, epoch: int) -> np.ndarray:
    """Draw the positions of the images that an epoch shows, in order, int (sum of ``images_per_epoch``,).

    Depends on ``config.seed`` and the epoch's number, from 1, alone.
    """
    rings = np.random.default_rng((config.seed, 0))
    shown = []
    for label, n_places in enumerate(images_per_epoch(labels, n_classes, config)):
        ring = rings.permutation(np.flatnonzero(labels == label))
        first = (epoch - 1) * n_places
        shown.append(np.take(ring, np.arange(first, first + n_places), mode="wrap"))
    # Sorted, so that where every image is shown once the order is one permutation of all, whatever the classes.
    return np.random.default_rng((config.seed, epoch)).permutation(np.sort(np.concatenate(shown)))


def image_weights(labels: np.ndarray, n_classes: int, config: TrialConfig) -> np.ndarray:
    """Weigh the images, float32 (n,): by N / (K n_class) of an epoch, whose mean is 1, for class weights; by 1 otherwise."""
    if "class_weights" not in config.imbalance:
        return np.ones(len(labels), np.float32)
    shown = images_per_epoch(labels, n_classes, config)
    return (shown.sum() / (n_classes * shown[labels])).astype(np.float32)


def fill_up(positions: np.ndarray, weights: np.ndarray, *, multiple_of: int) -> tuple[np.ndarray, np.ndarray]:
    """Show images of a batch again until several devices can divide it evenly; its weighted mean loss stays what it was.

    What is shown again weighs 0. The others weigh more by as much as the mean, which Keras takes over the number of images
    whatever they weigh, counts more of them.

    Args:
        positions: Positions of the batch's images, int (n,), at least one.
        weights: Their weights, float32 (n,).
        multiple_of: Number of devices.

    Returns:
        Positions and weights, (m,) each, m the next multiple; the first n positions are those received.
    """
    n = len(positions)
    n_shown = multiple_of * math.ceil(n / multiple_of)
    filled = np.zeros(n_shown, weights.dtype)
    filled[:n] = weights * (n_shown / n)
    return np.resize(positions, n_shown), filled
