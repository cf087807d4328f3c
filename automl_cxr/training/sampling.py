"""Sampling of the images of an epoch: their selection, order and weights, depending on the handling of class imbalance.

The images of a class form a circular list in random order. Each epoch uses the next images of the list: all of them once, fewer
(undersampling), or more, so that some are repeated (oversampling). Therefore, after any number of epochs, two images of the
same class have been used equally often, or one of them once more.

Images with several findings have no class; each epoch uses all of them once.
"""

from __future__ import annotations

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


def fill_up(order: np.ndarray, weights: np.ndarray, *, step: int, n_images: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the images of a gradient step, completed to a batch of a constant size, so that one graph suits all steps.

    The added images are the next ones in the order of the epoch; after its end, those of its beginning. Their weight is 0, so
    they have no loss. Keras divides the sum of the weighted losses by the number of images of the batch, so the weights of the
    other images are multiplied by the ratio of the batch size and their number. The loss of the step is therefore the mean
    loss of its own images.

    Batch normalisation computes its statistics over all images of the batch. The added images are different from the others,
    unless the epoch has fewer images than the batch, and their order is random. Therefore the statistics of the last batch are
    those of a random sample of the same size as in all batches. Repeated images of the last batch itself would give the
    statistics of a smaller sample, and in an extreme case those of one image.

    Args:
        order: Positions of the images of the epoch, in order, int (n,).
        weights: Weights of the images of the part, float32 (n_part,), or those of their labels, float32 (n_part, k).
        step: Number of the gradient step, from 0.
        n_images: Number of images of a step; the last step of the epoch may have fewer.
        size: Number of images of a batch, at least ``n_images``.

    Returns:
        Positions, int (size,), of which the first belong to the step; and weights, float32 (size,) or (size, k).
    """
    first = step * n_images
    positions = np.take(order, np.arange(first, first + size), mode="wrap")
    n_own = min(n_images, len(order) - first)
    filled = np.zeros((size, *weights.shape[1:]), weights.dtype)
    filled[:n_own] = weights[positions[:n_own]] * (size / n_own)
    return positions, filled
