"""The False No-Finding Rate of predictions of several findings: the share of patients with a finding who get none."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from automl_cxr.scoring.metric_base import Metric
from automl_cxr.tasks import MULTILABEL, PRESENT

FNFR = "fnfr"


def underdiagnosis_of_findings(numbers: Sequence[int], thresholds: np.ndarray) -> Metric:
    """Build the False No-Finding Rate of several findings, by which underdiagnosis is measured (Seyyed-Kalantari et al. 2021).

    It is the share of the images with a finding for which no finding is decided, neither the right one nor another. In the
    publication (Nature Medicine 27, 2176-2182) it is the rate of a classifier's output "No Finding" in images with a finding.

    Args:
        numbers: Indices of the findings, without a "No Finding" that is predicted as if it were one.
        thresholds: Thresholds of decisions, (k,).
    """
    columns = list(numbers)

    def indicators(labels: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        has_finding = (labels[:, columns] == PRESENT).any(axis=1)
        is_missed = has_finding & (probabilities[..., columns] < thresholds[columns]).all(axis=-1)
        return has_finding, is_missed

    def of_stacks(labels: np.ndarray, probabilities: np.ndarray, _normal_class: int | None) -> np.ndarray:
        has_finding, is_missed = indicators(labels, probabilities)
        return is_missed.sum(axis=-1) / has_finding.sum() if has_finding.any() else np.full(is_missed.shape[:-1], np.nan)

    def of_weights(labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray, _normal_class: int | None) -> np.ndarray:
        has_finding, is_missed = (one.astype(np.float64) @ weights for one in indicators(labels, probabilities))
        return np.divide(is_missed, has_finding, out=np.full(has_finding.shape, np.nan), where=has_finding > 0)

    return Metric(
        FNFR,
        "minimize",
        "False No-Finding Rate: share of images with a finding for which no finding is decided",
        lambda labels, probabilities, normal_class: float(of_stacks(labels, probabilities, normal_class)),
        of_weights=of_weights,
        of_stacks=of_stacks,
        tasks=(MULTILABEL,),
        thresholds=thresholds,
    )
