"""Counts of decisions on findings, and their metrics.

The last axis of counts, (..., k, 4), contains the numbers of true positives, false positives, false negatives and true
negatives of each finding, over the images whose label is known.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from automl_cxr.scoring.finding_labels import mean_of_findings
from automl_cxr.tasks import ABSENT, PRESENT

if TYPE_CHECKING:
    from scipy.sparse import csr_array


def count_decisions(labels: np.ndarray, decided: np.ndarray) -> np.ndarray:
    """Count correct and wrong decisions for each finding.

    Args:
        labels: Label codes (n, k).
        decided: Whether each finding counts as present, bool (..., n, k).

    Returns:
        int64 (..., k, 4).
    """
    is_present, is_absent = labels == PRESENT, labels == ABSENT
    true_positives = (decided & is_present).sum(axis=-2)
    false_positives = (decided & is_absent).sum(axis=-2)
    return complete_counts(true_positives, false_positives, is_present.sum(axis=0), is_absent.sum(axis=0))


class DecisionCounter:
    """Counts the decisions of several models for images that count several times or not at all.

    Args:
        labels: Label codes (n, k).
        decided: Whether each finding counts as present, bool (n_models, n, k).
    """

    def __init__(self, labels: np.ndarray, decided: np.ndarray) -> None:
        self._shape = (len(decided), labels.shape[1])
        self._decided_by_label = [_indicators(decided & (labels == code)) for code in (PRESENT, ABSENT)]
        # Most labels are absent, so they are counted as those that are neither present nor unknown.
        self._labels = [_indicators(is_counted[None]) for is_counted in (labels == PRESENT, labels < 0)]

    def count(self, weights: np.ndarray) -> np.ndarray:
        """Return the counts with weights (n, n_block), float64 (n_models, n_block, k, 4)."""
        reported_present, reported_absent = (self._sums(cells, weights, self._shape) for cells in self._decided_by_label)
        n_present, n_unknown = (self._sums(cells, weights, (1, self._shape[1])) for cells in self._labels)
        n_images = weights.sum(axis=0, dtype=np.float64)[:, np.newaxis]
        return complete_counts(reported_present, reported_absent, n_present, n_images - n_present - n_unknown)

    @staticmethod
    def _sums(cells: csr_array, weights: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
        return np.moveaxis((cells @ weights).reshape(*shape, -1), -1, 1).astype(np.float64)


def _indicators(is_counted: np.ndarray) -> csr_array:
    """Return which images count for each model and finding, bool (n_models, n, k), as ones in a matrix (n_models * k, n)."""
    from scipy.sparse import csr_array  # the import takes 0.2 s

    n_models, n_images, n_findings = is_counted.shape
    model, image, finding = np.nonzero(is_counted)
    ones = np.ones(len(model), dtype=np.float32)
    return csr_array((ones, (model * n_findings + finding, image)), shape=(n_models * n_findings, n_images))


def complete_counts(
    true_positives: np.ndarray, false_positives: np.ndarray, n_present: np.ndarray, n_absent: np.ndarray
) -> np.ndarray:
    """Return counts (..., k, 4) from those of positive decisions, (..., k), and those of labels, which are broadcast."""
    parts = (true_positives, false_positives, n_present - true_positives, n_absent - false_positives)
    return np.stack(parts, axis=-1)


def f1_per_finding(counts: np.ndarray) -> np.ndarray:
    """Harmonic mean of precision and recall, (..., k, 4) to (..., k); NaN for findings that are present in no image."""
    true_positives, false_positives, false_negatives, _ = _parts(counts)
    scores = _ratio(2 * true_positives, 2 * true_positives + false_positives + false_negatives)
    return np.where(true_positives + false_negatives > 0, scores, np.nan)


def precision_per_finding(counts: np.ndarray) -> np.ndarray:
    """Share of correct positive decisions; 0 without a positive decision; NaN for findings that are present in no image."""
    true_positives, false_positives, false_negatives, _ = _parts(counts)
    scores = np.nan_to_num(_ratio(true_positives, true_positives + false_positives))
    return np.where(true_positives + false_negatives > 0, scores, np.nan)


def recall_per_finding(counts: np.ndarray) -> np.ndarray:
    """Share of the images with the finding that are decided positive; NaN for findings that are present in no image."""
    true_positives, _, false_negatives, _ = _parts(counts)
    return _ratio(true_positives, true_positives + false_negatives)


def specificity_per_finding(counts: np.ndarray) -> np.ndarray:
    """Share of the images without the finding that are decided negative; NaN for findings that are absent in no image."""
    _, false_positives, _, true_negatives = _parts(counts)
    return _ratio(true_negatives, true_negatives + false_positives)


def macro_f1(counts: np.ndarray) -> np.ndarray:
    """Mean F1 over the findings that are present in an image, (..., k, 4) to (...)."""
    return mean_of_findings(f1_per_finding(counts))


def micro_f1(counts: np.ndarray) -> np.ndarray:
    """F1 of the decisions on all findings together, (..., k, 4) to (...); NaN if no finding is present in any image."""
    return f1_per_finding(counts.sum(axis=-2))


def _parts(counts: np.ndarray) -> tuple[np.ndarray, ...]:
    return counts[..., 0], counts[..., 1], counts[..., 2], counts[..., 3]


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Divide; NaN where the whole is 0."""
    return np.divide(part, whole, out=np.full(np.shape(whole), np.nan), where=np.asarray(whole) > 0)
