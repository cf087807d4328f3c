"""Calibration of probabilities: log loss, expected calibration error and temperature scaling.

Functions named ``weighted_...`` take weights (n, n_resamples), the number of times that each image counts, and return scores
(n_resamples,).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

N_BINS = 15  # as in Guo et al. 2017
MIN_PROBABILITY = 1e-6
_TEMPERATURES = (0.05, 20.0)  # range of the fit


def log_loss(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Mean negative logarithm of the probability given to the true class, clipped at float32's epsilon."""
    return float(_losses(labels, probabilities).mean())


def weighted_log_loss(labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Compute ``log_loss`` for images that count several times or not at all."""
    return _losses(labels, probabilities) @ weights / weights.sum(axis=0)


def expected_calibration_error(labels: np.ndarray, probabilities: np.ndarray, *, n_bins: int = N_BINS) -> float:
    """Compute the expected calibration error: the difference between confidence and accuracy.

    Naeini et al. 2015 and Guo et al. 2017, "On calibration of modern neural networks": images are divided into ``n_bins`` bins
    of equal width by the probability of the predicted class. The error is the mean over the images of the difference between
    mean confidence and accuracy in their bin.

    Args:
        labels: True classes, integers (n,).
        probabilities: (n, k), rows sum to 1.
        n_bins: Number of bins.

    Returns:
        From 0 to 1; NaN without images.
    """
    if not len(labels):
        return float("nan")
    bin_of_image, gap = _bins(labels, probabilities, n_bins)
    return float(np.abs(np.bincount(bin_of_image, gap, minlength=n_bins)).sum() / len(labels))


def stacked_calibration_error(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Compute ``expected_calibration_error`` of several models, (..., n, k) to (...)."""
    models = probabilities.reshape(-1, *probabilities.shape[-2:])
    errors = [expected_calibration_error(labels, model) for model in models]
    return np.array(errors).reshape(probabilities.shape[:-2])


def weighted_calibration_error(labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Compute ``expected_calibration_error`` for images that count several times or not at all."""
    bin_of_image, gap = _bins(labels, probabilities, N_BINS)
    gaps_in_bins = np.where(bin_of_image == np.arange(N_BINS)[:, None], gap, 0) @ weights
    return np.abs(gaps_in_bins).sum(axis=0) / weights.sum(axis=0)


def _losses(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    true_probability = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    return -np.log(true_probability.clip(np.finfo(np.float32).eps, 1.0))


def _bins(labels: np.ndarray, probabilities: np.ndarray, n_bins: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the bin of each image, and its correctness (1 or 0) minus its confidence."""
    confidence = probabilities.max(axis=1).astype(np.float64)
    is_correct = probabilities.argmax(axis=1) == labels
    # A confidence at an edge belongs to the lower bin, as in the papers.
    bin_of_image = np.clip(np.ceil(confidence * n_bins).astype(np.int64) - 1, 0, n_bins - 1)
    return bin_of_image, is_correct - confidence


def with_temperature(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Divide logits by a temperature: above 1 softens, below 1 sharpens; float32, rows sum to 1.

    Args:
        probabilities: (n, k), rows sum to 1.
        temperature: Above 0.
    """
    logits = np.log(np.maximum(probabilities.astype(np.float64), MIN_PROBABILITY)) / temperature
    powers = np.exp(logits - logits.max(axis=1, keepdims=True, initial=-np.inf))
    return (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)


def fit_temperature(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Find the temperature that minimises log loss (Guo et al. 2017), from 0.05 to 20.

    Args:
        labels: True classes, integers (n,).
        probabilities: (n, k), rows sum to 1, for images that the model was not fitted on.
    """
    return find_temperature(lambda temperature: log_loss(labels, with_temperature(probabilities, temperature)))


def find_temperature(loss: Callable[[float], float]) -> float:
    """Find the temperature from 0.05 to 20 that minimises a loss."""
    from scipy.optimize import minimize_scalar  # the import takes 0.2 s

    def of_logarithm(log_temperature: float) -> float:
        return loss(float(np.exp(log_temperature)))

    found = minimize_scalar(of_logarithm, bounds=tuple(np.log(_TEMPERATURES)), method="bounded", options={"xatol": 1e-4})
    return float(np.exp(found.x))
