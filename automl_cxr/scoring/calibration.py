"""Whether probabilities mean what they say: expected calibration error, and a temperature that mends it."""

from __future__ import annotations

import numpy as np

from automl_cxr.scoring.metrics import log_loss

_LEAST_PROBABILITY = 1e-6
_TEMPERATURES = (0.05, 20.0)  # beyond these a model is not miscalibrated but wrong


def expected_calibration_error(labels: np.ndarray, probabilities: np.ndarray, *, n_bins: int = 15) -> float:
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
    confidence = probabilities.max(axis=1).astype(np.float64)
    is_right = (probabilities.argmax(axis=1) == labels).astype(np.float64)
    # A confidence on an edge belongs to the bin below, as in the papers.
    place = np.clip(np.ceil(confidence * n_bins).astype(np.int64) - 1, 0, n_bins - 1)
    gaps = np.bincount(place, is_right - confidence, minlength=n_bins)
    return float(np.abs(gaps).sum() / len(labels))


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
