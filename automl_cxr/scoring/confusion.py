"""Confusion matrices and their metrics.

All metrics accept stacks of matrices, (..., k, k), so that a bootstrap or a population of ensembles is scored in one call.
"""

from __future__ import annotations

import numpy as np

from automl_cxr.errors import DataError


def confusion_matrix(
    labels: np.ndarray, predicted: np.ndarray, n_classes: int, weights: np.ndarray | None = None
) -> np.ndarray:
    """Count images by true class (rows) and predicted class (columns).

    Args:
        labels: True classes, integers (n,) from 0 to n_classes - 1.
        predicted: Predicted classes, the same.
        n_classes: Number of classes, k.
        weights: Weight of each image, (n,); by default 1.

    Returns:
        (k, k), int64, or float64 with weights.

    Raises:
        DataError: A class is out of range, such as the unknown label -1.
    """
    for classes in (labels, predicted):
        if classes.size and (classes.min() < 0 or classes.max() >= n_classes):
            raise DataError(
                f"A confusion matrix of {n_classes} classes needs classes from 0 to {n_classes - 1}. "
                f"Received {classes.min()} to {classes.max()}. Leave images without a label out."
            )
    cells = labels.astype(np.int64) * n_classes + predicted
    return np.bincount(cells, weights, minlength=n_classes * n_classes).reshape(n_classes, n_classes)


def precision_per_class(confusion: np.ndarray) -> np.ndarray:
    """Precision of each class, (..., k, k) to (..., k); 0 where no image is predicted as the class."""
    return _ratio(_diagonal(confusion), confusion.sum(axis=-2), undefined=0.0)


def recall_per_class(confusion: np.ndarray) -> np.ndarray:
    """Recall of each class, (..., k, k) to (..., k); 0 where the class has no image."""
    return _ratio(_diagonal(confusion), confusion.sum(axis=-1), undefined=0.0)


def f1_per_class(confusion: np.ndarray) -> np.ndarray:
    """Harmonic mean of precision and recall of each class, (..., k, k) to (..., k).

    A class with neither a true nor a predicted image has F1 0, as in ``sklearn.metrics.f1_score(zero_division=0)``
    with all labels given, so that a class without images lowers the mean instead of counting as a perfect score.
    """
    return _ratio(2 * _diagonal(confusion), confusion.sum(axis=-1) + confusion.sum(axis=-2), undefined=0.0)


def macro_f1(confusion: np.ndarray) -> np.ndarray:
    """Mean F1 over all classes, (..., k, k) to (...)."""
    return f1_per_class(confusion).mean(axis=-1)


def accuracy(confusion: np.ndarray) -> np.ndarray:
    """Share of images that are predicted correctly, (..., k, k) to (...)."""
    return _ratio(_diagonal(confusion).sum(axis=-1), confusion.sum(axis=(-2, -1)), undefined=np.nan)


def balanced_accuracy(confusion: np.ndarray) -> np.ndarray:
    """Mean recall over the classes with images, (..., k, k) to (...), as ``sklearn.metrics.balanced_accuracy_score``."""
    has_images = confusion.sum(axis=-1) > 0
    return _ratio(recall_per_class(confusion).sum(axis=-1), has_images.sum(axis=-1), undefined=np.nan)


def specificity_per_class(confusion: np.ndarray) -> np.ndarray:
    """Share of the other classes' images that are not predicted as each class; NaN where there are none."""
    n_others = confusion.sum(axis=(-2, -1))[..., None] - confusion.sum(axis=-1)
    return _ratio(n_others - confusion.sum(axis=-2) + _diagonal(confusion), n_others, undefined=np.nan)


def cohen_kappa(confusion: np.ndarray) -> np.ndarray:
    """Agreement with the truth beyond chance, (..., k, k) to (...), as ``sklearn.metrics.cohen_kappa_score``.

    Cohen 1960: (accuracy - chance) / (1 - chance), where chance is the expected accuracy of random predictions with the same
    counts; NaN where one class has all images and all predictions.
    """
    n_images = confusion.sum(axis=(-2, -1))
    by_chance = (confusion.sum(axis=-1) * confusion.sum(axis=-2)).sum(axis=-1)
    agreeing = n_images * _diagonal(confusion).sum(axis=-1)
    return _ratio(agreeing - by_chance, n_images * n_images - by_chance, undefined=np.nan)


def fnfr(confusion: np.ndarray, normal_class: int) -> np.ndarray:
    """False No-Finding Rate, (..., k, k) to (...): the share of abnormal images that are predicted as normal.

    Defined in the reference report on ChestX-ray14, section 7.1; NaN where every image is normal.
    """
    not_normal = np.delete(confusion, normal_class, axis=-2)
    return _ratio(not_normal[..., normal_class].sum(axis=-1), not_normal.sum(axis=(-2, -1)), undefined=np.nan)


def _diagonal(confusion: np.ndarray) -> np.ndarray:
    return np.diagonal(confusion, axis1=-2, axis2=-1)


def _ratio(part: np.ndarray, whole: np.ndarray, *, undefined: float) -> np.ndarray:
    """Divide; ``undefined`` where the whole is 0."""
    out = np.full(np.shape(whole), undefined, dtype=np.float64)
    return np.divide(part, whole, out=out, where=np.asarray(whole) > 0)
