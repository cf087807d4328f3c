"""Thresholds of the probabilities from which findings count as present. No other module chooses them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from automl_cxr.scoring.finding_labels import known_images
from automl_cxr.scoring.predictions import Predictions
from automl_cxr.scoring.sorted_scores import sort_scores

DEFAULT_THRESHOLD = 0.5
"""For findings that are present in no image, for which every threshold has the same F1."""


def choose_thresholds(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Choose for each finding the threshold with the highest F1 (Lipton, Elkan and Naryanaswamy 2014).

    A threshold is the middle of two neighbouring probabilities, so that rounding errors of other computations of the
    probabilities, such as exported models, do not change decisions. In a tie the highest threshold is chosen.

    Args:
        labels: Label codes (n, k); only known labels count.
        probabilities: (n, k), or (n_models, n, k) for several models.

    Returns:
        float64 (k,) or (n_models, k), above 0 and at most 1. A finding counts as present if its probability is at least the
        threshold. 0.5 for findings that are present in no image.
    """
    models = probabilities.reshape(-1, *probabilities.shape[-2:])
    thresholds = np.full((len(models), labels.shape[1]), DEFAULT_THRESHOLD)
    for number, rows, positive in known_images(labels):
        if positive.any():
            thresholds[:, number] = [_best_threshold(positive, model[rows, number]) for model in models]
    return thresholds.reshape(*probabilities.shape[:-2], labels.shape[1])


def thresholds_of(models: Sequence[Predictions]) -> np.ndarray:
    """Return the thresholds of several models' decisions on findings, or choose them for models without thresholds.

    Args:
        models: Labelled predictions of findings.

    Returns:
        float64 (n_models, k).
    """
    return np.stack(
        [
            choose_thresholds(model.labels, model.probabilities) if model.thresholds is None else model.thresholds
            for model in models
        ]
    )


def with_thresholds(predictions: Predictions) -> Predictions:
    """Return predictions of findings with thresholds that are chosen on their own labels; those of classes unchanged.

    Use it for predictions of images on which the model was not fitted, such as those of the validation part.
    """
    if not predictions.is_multilabel:
        return predictions
    return replace(predictions, thresholds=choose_thresholds(predictions.labels, predictions.probabilities))


def _best_threshold(positive: np.ndarray, probabilities: np.ndarray) -> float:
    ascending, is_positive = sort_scores(positive, probabilities)
    descending = ascending[::-1].astype(np.float64)
    # Between two different neighbours; a threshold is above 0, so that a probability of 0 never counts as present.
    following = np.append(descending[1:], 0.0)
    candidates = np.flatnonzero(descending > following)
    if not candidates.size:
        return DEFAULT_THRESHOLD
    n_true_positives = is_positive[::-1].cumsum()[candidates]
    f1 = 2 * n_true_positives / (positive.sum() + candidates + 1)
    best = candidates[f1.argmax()]
    return float((descending[best] + following[best]) / 2)
