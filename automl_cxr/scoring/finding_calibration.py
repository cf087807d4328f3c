"""Calibration of the probabilities of findings: log loss, expected calibration error and temperature scaling.

Functions named ``prepared_...`` return functions of weights (n, n_resamples), the number of times that each image counts, to
scores (n_resamples,).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from automl_cxr.scoring.calibration import MIN_PROBABILITY, N_BINS, find_temperature
from automl_cxr.tasks import PRESENT

_SMALLEST_LOSS_ARGUMENT = np.finfo(np.float32).eps


def log_loss(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Mean negative logarithm of the probability given to each known label, clipped at float32's epsilon.

    Args:
        labels: Label codes (n, k).
        probabilities: (..., n, k).

    Returns:
        float64 (...); NaN if no label is known.
    """
    n_known = int((labels >= 0).sum())
    if not n_known:
        return np.full(probabilities.shape[:-2], np.nan)
    return _losses(labels, probabilities).sum(axis=(-2, -1)) / n_known


def prepared_log_loss(labels: np.ndarray, probabilities: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function that computes ``log_loss`` for images that count several times or not at all."""
    of_images = np.stack([_losses(labels, probabilities).sum(axis=1), (labels >= 0).sum(axis=1)])

    def of_weights(weights: np.ndarray) -> np.ndarray:
        total, n_known = of_images @ weights.astype(np.float64)
        return np.divide(total, n_known, out=np.full(len(n_known), np.nan), where=n_known > 0)

    return of_weights


def calibration_errors(positive: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Compute the expected calibration error of a finding: the difference between probability and frequency.

    Images are divided into 15 bins of equal width by the probability of the finding (Naeini et al. 2015, for two classes). The
    error is the mean over the images of the difference between the mean probability and the share of images with the finding in
    their bin.

    Args:
        positive: Whether the finding is present, (n,).
        probabilities: (..., n).

    Returns:
        float64 (...), 0 to 1; NaN without images.
    """
    if not len(positive):
        return np.full(probabilities.shape[:-1], np.nan)
    models = probabilities.reshape(-1, len(positive))
    errors = []
    for model in models:
        bin_of_image, gap = _bins(positive, model)
        errors.append(np.abs(np.bincount(bin_of_image, gap, minlength=N_BINS)).sum() / len(positive))
    return np.array(errors).reshape(probabilities.shape[:-1])


def prepared_calibration_errors(positive: np.ndarray, probabilities: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function that computes ``calibration_errors`` of one model for images that count several times or not at all."""
    from scipy.sparse import csr_array  # the import takes 0.2 s

    bin_of_image, gap = _bins(positive, probabilities)
    by_bin = csr_array((gap, (bin_of_image, np.arange(len(gap)))), shape=(N_BINS, len(gap)))

    def of_weights(weights: np.ndarray) -> np.ndarray:
        gaps_in_bins, n_images = by_bin @ weights.astype(np.float64), weights.sum(axis=0)
        return np.divide(np.abs(gaps_in_bins).sum(axis=0), n_images, out=np.full(len(n_images), np.nan), where=n_images > 0)

    return of_weights


def _losses(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Return the loss of each label, float64 (..., n, k); 0 for labels that are not known."""
    given = np.where(labels == PRESENT, probabilities, 1 - probabilities.astype(np.float64))
    return np.where(labels >= 0, -np.log(given.clip(_SMALLEST_LOSS_ARGUMENT, 1.0)), 0.0)


def _bins(positive: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the bin of each image, and its label (1 or 0) minus its probability."""
    exact = probabilities.astype(np.float64)
    # A probability at an edge belongs to the lower bin, as for classes.
    return np.clip(np.ceil(exact * N_BINS).astype(np.int64) - 1, 0, N_BINS - 1), positive - exact


def with_temperature(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Divide logits by a temperature: above 1 softens, below 1 sharpens; float32.

    Args:
        probabilities: Of findings, any shape.
        temperature: Above 0.
    """
    return sigmoid(logits(probabilities) / temperature).astype(np.float32)


def fit_temperature(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Find the temperature of all findings that minimises the log loss of the known labels, from 0.05 to 20.

    Args:
        labels: Label codes (n, k).
        probabilities: (n, k), for images that the model was not fitted on.
    """
    return find_temperature(lambda temperature: float(log_loss(labels, with_temperature(probabilities, temperature))))


def logits(probabilities: np.ndarray) -> np.ndarray:
    """Return the logarithms of the odds, float64, of probabilities limited to one millionth from 0 and 1."""
    exact = probabilities.astype(np.float64)
    return np.log(np.maximum(exact, MIN_PROBABILITY)) - np.log(np.maximum(1 - exact, MIN_PROBABILITY))


def sigmoid(values: np.ndarray) -> np.ndarray:
    """Return 1 / (1 + exp(-values)) without overflow, float64."""
    small = np.exp(-np.abs(values))
    return np.where(values >= 0, 1, small) / (1 + small)
