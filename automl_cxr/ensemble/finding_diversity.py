"""Differences between the members of an ensemble for several findings."""

from __future__ import annotations

import numpy as np

from automl_cxr.scoring.finding_calibration import logits
from automl_cxr.scoring.finding_labels import known_images
from automl_cxr.scoring.thresholds import choose_thresholds


def decisions(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Decide for each model which findings are present, at its own thresholds, bool (..., n, k); False for unknown labels."""
    thresholds = choose_thresholds(labels, probabilities)
    return (probabilities >= thresholds[..., None, :]) & (labels >= 0)


def disagreements(decided: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Compute the share of the findings reported by a model or the reference that only one of them reports.

    Absent findings that neither reports do not count, because most findings are absent in most images.

    Args:
        decided: Decisions of models, (n_models, n, k).
        reference: Decisions of the reference, (n, k).

    Returns:
        float64 (n_models,), 0 to 1.
    """
    n_either = (decided | reference).sum(axis=(1, 2))
    return (decided != reference).sum(axis=(1, 2)) / np.maximum(n_either, 1)


def logit_correlations(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Correlate members' logits over images with the same label, over all findings.

    The means of the images with and without each finding are subtracted first. Errors themselves are not correlated, because
    those of all members of a rare finding are nearly equal: the images with the finding, whose probabilities are low.

    Args:
        labels: Label codes (n, k).
        probabilities: (n_members, n, k).

    Returns:
        float64 (n_members, n_members); 0 for a member whose logits do not vary.
    """
    n_members = len(probabilities)
    products = np.zeros((n_members, n_members))
    for number, rows, positive in known_images(labels):
        of_finding = logits(probabilities[:, rows, number])
        for is_of_group in (positive, ~positive):
            if is_of_group.any():
                group = of_finding[:, is_of_group]
                group = group - group.mean(axis=1, keepdims=True)
                products += group @ group.T
    sizes = np.sqrt(np.diag(products))
    scale = np.outer(sizes, sizes)
    correlations = np.divide(products, scale, out=np.zeros_like(products), where=scale > 0)
    np.fill_diagonal(correlations, 1.0)
    return correlations
