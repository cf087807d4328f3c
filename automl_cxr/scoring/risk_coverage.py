"""Risk against coverage: the share of errors among the images that a classifier decides with the highest confidence.

El-Yaniv and Wiener 2010, "On the foundations of noise-free selective classification"; Geifman and El-Yaniv 2017, "Selective
classification for deep neural networks".
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from automl_cxr.scoring.predictions import Predictions


def risk_coverage_table(predictions: Predictions) -> pd.DataFrame:
    """Compute the error rate of the most confident decisions.

    The confidence of a predicted class is its probability; that of a decision on a finding is the distance of the probability
    from the threshold, as a share of the distance from the threshold to 0 or 1.

    Args:
        predictions: Labelled predictions; of findings, with thresholds. All known labels of all findings are taken together.

    Returns:
        coverage (share of the decisions that are made, from high to low confidence), confidence (the lowest one) and risk
        (share of errors among them), one row for each distinct confidence.

    Raises:
        DataError: A label is unknown, or findings have no thresholds.
    """
    predictions.require_labels()
    is_wrong, confidence = _decisions(predictions)
    order = np.argsort(-confidence, kind="stable")
    n_made = np.arange(1, len(order) + 1)
    risk, sorted_confidence = np.cumsum(is_wrong[order]) / n_made, confidence[order]
    is_last = np.append(sorted_confidence[1:] != sorted_confidence[:-1], True)  # equal confidences cannot be separated
    return pd.DataFrame({"coverage": n_made / len(order), "confidence": sorted_confidence, "risk": risk})[is_last].reset_index(
        drop=True
    )


def risks_at(risks: pd.DataFrame, coverages: Sequence[float]) -> pd.DataFrame:
    """Return the last row of ``risk_coverage_table`` whose coverage is at most each of some coverages, if there is one."""
    rows = [risks[risks["coverage"] <= coverage + 1e-12].tail(1) for coverage in coverages]
    return pd.concat(rows).drop_duplicates(ignore_index=True)


def _decisions(predictions: Predictions) -> tuple[np.ndarray, np.ndarray]:
    """Return whether each decision is wrong and its confidence, both (n_decisions,)."""
    labels, probabilities = predictions.labels, predictions.probabilities.astype(np.float64)
    if not predictions.is_multilabel:
        return predictions.predicted != labels, probabilities.max(axis=1)
    decided, thresholds = predictions.decided, np.asarray(predictions.thresholds)
    side = np.where(decided, np.maximum(1 - thresholds, 1e-9), thresholds)
    is_known = labels >= 0
    return (decided != labels)[is_known], (np.abs(probabilities - thresholds) / side)[is_known]
