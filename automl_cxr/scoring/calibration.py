"""Whether probabilities mean what they say: log loss, expected calibration error, and a temperature that mends it.

Scores of weights take how often each image counts, (n, n_resamples), and give (n_resamples,).
"""

from __future__ import annotations

import numpy as np

N_BINS = 15  # of Guo et al.
_LEAST_PROBABILITY = 1e-6
_TEMPERATURES = (0.05, 20.0)  # beyond these a model is not miscalibrated but wrong


def log_loss(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Mean negative logarithm of the probability given to the true class, clipped at float32's epsilon."""
    return float(_losses(labels, probabilities).mean())


def weighted_log_loss(labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Give ``log_loss`` where images count several times or not at all."""
    return _losses(labels, probabilities) @ weights / weights.sum(axis=0)


def expected_calibration_error(labels: np.ndarray, probabilities: np.ndarray, *, n_bins: int = N_BINS) -> float:
    """Give the expected calibration error: how far the probability of the predicted class is from the share that is right.

    Naeini et al. 2015 and Guo et al. 2017, "On calibration of modern neural networks": images are put into ``n_bins`` bins of
    equal width by the probability of the predicted class; the error is the mean over the images of their bin's difference.

    Args:
        labels: True classes, integers (n,).
        probabilities: (n, k), rows sum to 1.
        n_bins: Bins.

    Returns:
        From 0 to 1; NaN without images.
    """
    if not len(labels):
        return float("nan")
    place, gap = _bins(labels, probabilities, n_bins)
    return float(np.abs(np.bincount(place, gap, minlength=n_bins)).sum() / len(labels))


def weighted_calibration_error(labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Give ``expected_calibration_error`` where images count several times or not at all."""
    place, gap = _bins(labels, probabilities, N_BINS)
    gaps_in_bins = np.where(place == np.arange(N_BINS)[:, None], gap, 0) @ weights
    return np.abs(gaps_in_bins).sum(axis=0) / weights.sum(axis=0)


def _losses(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    of_truth = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    return -np.log(of_truth.clip(np.finfo(np.float32).eps, 1.0))


def _bins(labels: np.ndarray, probabilities: np.ndarray, n_bins: int) -> tuple[np.ndarray, np.ndarray]:
    """Give each image's bin, and how far being right (1 or 0) is above its confidence."""
    confidence = probabilities.max(axis=1).astype(np.float64)
    is_right = probabilities.argmax(axis=1) == labels
    # A confidence on an edge belongs to the bin below, as in the papers.
    place = np.clip(np.ceil(confidence * n_bins).astype(np.int64) - 1, 0, n_bins - 1)
    return place, is_right - confidence


def with_temperature(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Divide logits by a temperature: above 1 softens, below 1 sharpens; float32, rows sum to 1.

    Args:
        probabilities: (n, k), rows sum to 1.
        temperature: Above 0.
    """
    logits = np.log(np.maximum(probabilities.astype(np.float64), _LEAST_PROBABILITY)) / temperature
    powers = np.exp(logits - logits.max(axis=1, keepdims=True, initial=-np.inf))
    return (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)


def fit_temperature(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Find the temperature of least log loss (Guo et al. 2017), from 0.05 to 20.

    Args:
        labels: True classes, integers (n,).
        probabilities: (n, k), rows sum to 1; of images that the model was not fitted on.
    """
    from scipy.optimize import minimize_scalar  # a fifth of a second to load

    def loss(log_temperature: float) -> float:
        return log_loss(labels, with_temperature(probabilities, float(np.exp(log_temperature))))

    found = minimize_scalar(loss, bounds=tuple(np.log(_TEMPERATURES)), method="bounded", options={"xatol": 1e-4})
    return float(np.exp(found.x))
