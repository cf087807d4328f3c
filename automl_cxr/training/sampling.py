"""Sampling of the images of an epoch: their selection, order and weights, depending on the handling of class imbalance.

The images of a class form a circular list in random order. Each epoch uses the next images of the list: all of them once, fewer
(undersampling), or more, so that some are repeated (oversampling). Therefore, after any number of epochs, two images of the
same class have been used equally often, or one of them once more.

Images with several findings have no class; each epoch uses all of them once.
"""

from __future__ import annotations

import math

import numpy as np

from automl_cxr.config import TrialConfig


def epoch_size(labels: np.ndarray, n_classes: int, config: TrialConfig) -> int:
    """Return the number of images of an epoch; it is the same in every epoch.

    Args:
        labels: Class index of each image, int (n,), or label codes of its findings, int (n, n_classes).
        n_classes: Number of classes or findings.
        config: The configuration.
    """
    return len(labels) if config.is_multilabel else int(images_per_epoch(labels, n_classes, config).sum())


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
    """Return the positions of the images of an epoch, in order, int (``epoch_size``,).

    They depend only on ``config.seed`` and the number of the epoch, from 1.
    """
    if config.is_multilabel:
        return np.random.default_rng((config.seed, epoch)).permutation(len(labels))
    rng = np.random.default_rng((config.seed, 0))
    shown = []
    for label, n_images in enumerate(images_per_epoch(labels, n_classes, config)):
        shuffled = rng.permutation(np.flatnonzero(labels == label))
        first = (epoch - 1) * n_images
        shown.append(np.take(shuffled, np.arange(first, first + n_images), mode="wrap"))
    # Sorted, so that the order does not depend on the classes if each image is used once.
    return np.random.default_rng((config.seed, epoch)).permutation(np.sort(np.concatenate(shown)))


def image_weights(labels: np.ndarray, n_classes: int, config: TrialConfig) -> np.ndarray:
    """Return the weights of the images, float32 (n,).

    With class weights, the weight of an image is N / (K n_class), where N and n_class count the images of an epoch, so the mean
    weight is 1. Otherwise all weights are 1.
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
    """Pad a batch with repeated images so that its size is divisible by the number of devices. Its mean loss does not change.

    Repeated images have weight 0. Keras divides the sum of the weighted losses by the number of images, so the weights of the
    other images are multiplied by the ratio of the new and the old batch size.

    Args:
        positions: Positions of the images of the batch, int (n,), at least one.
        weights: Their weights, float32 (n,), or those of their labels, float32 (n, k).
        multiple_of: Number of devices.

    Returns:
        Positions and weights, (m,) and (m,) or (m, k), where m is the next multiple; the first n positions are ``positions``.
    """
    n = len(positions)
    n_shown = multiple_of * math.ceil(n / multiple_of)
    filled = np.zeros((n_shown, *weights.shape[1:]), weights.dtype)
    filled[:n] = weights * (n_shown / n)
    return np.resize(positions, n_shown), filled
