"""Labels of several findings of an image, of which some are not known: iteration, means and messages."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from automl_cxr.tasks import ABSENT, PRESENT


def known_images(labels: np.ndarray) -> Iterator[tuple[int, np.ndarray | slice, np.ndarray]]:
    """Yield for each finding its index, the images whose label is known, and whether the finding is present in them.

    Args:
        labels: Label codes (n, k).

    Yields:
        The index; the images as indices (n_known,), or a slice if all are known; and the presence, bool (n_known,).
    """
    for number in range(labels.shape[1]):
        of_finding = labels[:, number]
        is_known = of_finding >= 0
        rows = slice(None) if is_known.all() else np.flatnonzero(is_known)
        yield number, rows, of_finding[rows] == PRESENT


def score_each_finding(
    function: Callable[[np.ndarray, np.ndarray], np.ndarray], labels: np.ndarray, probabilities: np.ndarray
) -> np.ndarray:
    """Score each finding over the images whose label is known.

    Args:
        function: Takes the presence (n_known,) and probabilities (..., n_known), and returns scores (...).
        labels: Label codes (n, k).
        probabilities: (..., n, k).

    Returns:
        float64 (..., k).
    """
    scores = [function(positive, probabilities[..., rows, number]) for number, rows, positive in known_images(labels)]
    return np.stack(scores, axis=-1).astype(np.float64, copy=False)


def mean_of_findings(scores: np.ndarray) -> np.ndarray:
    """Return the mean over the findings, (..., k) to (...), without those whose score is NaN; NaN if there is no other."""
    is_defined = ~np.isnan(scores)
    n_defined = is_defined.sum(axis=-1)
    sums = np.where(is_defined, scores, 0).sum(axis=-1)
    return np.divide(sums, n_defined, out=np.full(np.shape(sums), np.nan), where=n_defined > 0)


def count_labels(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Count the images in which each finding is present, and in which it is known to be absent, both int64 (k,)."""
    return (labels == PRESENT).sum(axis=0), (labels == ABSENT).sum(axis=0)


def describe_unscored(labels: np.ndarray, findings: Sequence[str]) -> str:
    """Name the findings without a score, which means over the findings leave out.

    Args:
        labels: Label codes (n, k).
        findings: Names of the findings.

    Returns:
        A sentence for users; "" if each finding is present in an image and absent in another one.
    """
    n_present, n_absent = count_labels(labels)
    kinds = (
        ("without an image in which it is present", n_present == 0),
        ("without an image in which it is absent", (n_absent == 0) & (n_present > 0)),
    )
    lists = [
        f"{', '.join(findings[number] for number in np.flatnonzero(is_unscored).tolist())} ({reason})"
        for reason, is_unscored in kinds
        if is_unscored.any()
    ]
    return f"Means over the findings leave out {' and '.join(lists)}." if lists else ""
