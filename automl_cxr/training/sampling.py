"""Images of an epoch: which, how often, in which order and with which weight, depending on the treatment of unequal classes.

The images of a class form a circular list, in an order drawn from the seed. Each epoch takes the next images of the list: all
once, a part of them (undersampling), or all and then a part again (oversampling). Therefore, over any number of epochs, the
numbers of times that two images of a class are used differ by at most 1.
"""

from __future__ import annotations

import math

import numpy as np

from automl_cxr.config import TrialConfig


def images_per_epoch(labels: np.ndarray, n_classes: int, config: TrialConfig) -> np.ndarray:
    """Return the number of images of each class in an epoch, int (n_classes,); it is the same in every epoch.

    Args:
        labels: Class index of each image, int (n,).
        n_classes: Number of classes; some may have no image.
        config: ``imbalance`` and ``undersample_ratio``.
    """
    sizes = np.bincount(labels, minlength=n_classes)
    is_present = sizes > 0
    match config.imbalance:
        case "oversample":
            return np.where(is_present, sizes.max(), 0)
        case "undersample" | "undersample+class_weights":
            return np.minimum(sizes, round(config.undersample_ratio * sizes[is_present].min()))
        case "class_weights" | "none":
            return sizes
    raise NotImplementedError(f"No sampling is implemented for imbalance '{config.imbalance}'.")


def epoch_order(labels: np.ndarray, n_classes: int, config: TrialConfig, *, epoch: int) -> np.ndarray:
    """Return the positions of the images of an epoch, in order, int (sum of ``images_per_epoch``,).

    They depend only on ``config.seed`` and the number of the epoch, from 1.
    """
    rng = np.random.default_rng((config.seed, 0))
    shown = []
    for label, n_images in enumerate(images_per_epoch(labels, n_classes, config)):
        circle = rng.permutation(np.flatnonzero(labels == label))
        first = (epoch - 1) * n_images
        shown.append(np.take(circle, np.arange(first, first + n_images), mode="wrap"))
    # Sorted, so that the order is one permutation of all images, whatever their classes, if each is used once.
    return np.random.default_rng((config.seed, epoch)).permutation(np.sort(np.concatenate(shown)))


def image_weights(labels: np.ndarray, n_classes: int, config: TrialConfig) -> np.ndarray:
    """Return the weights of the images, float32 (n,).

    With class weights they are N / (K n_class), in numbers of images of an epoch, and their mean over an epoch is 1. Otherwise
    they are 1.
    """
    match config.imbalance:
        case "none" | "oversample" | "undersample":
            return np.ones(len(labels), np.float32)
        case "class_weights" | "undersample+class_weights":
            pass
        case _:
            raise NotImplementedError(f"No image weights are implemented for imbalance '{config.imbalance}'.")
    shown = images_per_epoch(labels, n_classes, config)
    return (shown.sum() / (n_classes * shown[labels])).astype(np.float32)


def fill_up(positions: np.ndarray, weights: np.ndarray, *, multiple_of: int) -> tuple[np.ndarray, np.ndarray]:
    """Repeat images of a batch until several devices can divide it evenly, without changing its weighted mean loss.

    Repeated images get weight 0. Keras divides the sum of the losses by the number of images, whatever their weights, so the
    weights of the others are multiplied by the factor by which the batch grows.

    Args:
        positions: Positions of the images of the batch, int (n,), at least one.
        weights: Their weights, float32 (n,).
        multiple_of: Number of devices.

    Returns:
        Positions and weights, (m,) each, with m the next multiple; the first n positions are ``positions``.
    """
    n = len(positions)
    n_shown = multiple_of * math.ceil(n / multiple_of)
    filled = np.zeros(n_shown, weights.dtype)
    filled[:n] = weights * (n_shown / n)
    return np.resize(positions, n_shown), filled
