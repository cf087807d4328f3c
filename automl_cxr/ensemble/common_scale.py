"""A common scale for probabilities of findings that several combiners computed for different images."""

from __future__ import annotations

import numpy as np

from automl_cxr.scoring.finding_calibration import logits, sigmoid

_SMALLEST_DEVIATION = 1e-9  # of logits; below it, a combiner gives all images the same probability


def match_scale(probabilities: np.ndarray, own: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Transform a combiner's probabilities to the scale of another combiner.

    The combiners of the folds of a comparison may use different members, whose probabilities have different scales. Ranks over
    all images would then depend on the fold of an image, and a method that selects one member would seem much worse than it
    is. For each finding, the logits are shifted and scaled, so that mean and standard deviation over some images are those of
    the other combiner. Labels are not used, and the order of the images of a fold does not change.

    Args:
        probabilities: Probabilities to transform, (n, k).
        own: Probabilities of the same combiner for other images, (m, k).
        target: Probabilities of the other combiner for these other images, (m, k).

    Returns:
        float32 (n, k); ``probabilities`` themselves if the combiners agree on the other images.
    """
    if np.array_equal(own, target):
        return probabilities
    own_logits, target_logits = logits(own), logits(target)
    deviation = own_logits.std(axis=0)
    scale = np.divide(target_logits.std(axis=0), deviation, out=np.ones_like(deviation), where=deviation > _SMALLEST_DEVIATION)
    centred = logits(probabilities) - own_logits.mean(axis=0)
    return sigmoid(centred * scale + target_logits.mean(axis=0)).astype(np.float32)
