"""The optimal weights of two members for several findings: the exact optimum for log loss and for areas under the ROC curve."""

from __future__ import annotations

import numpy as np

from automl_cxr.ensemble.finding_weight_scoring import FindingWeightScorer
from automl_cxr.ensemble.objective import LOG_LOSS
from automl_cxr.scoring.finding_labels import count_labels, known_images
from automl_cxr.tasks import PRESENT

_MACRO_AUC = "macro_auc"
_MAX_PAIRS = 2**22  # of images with different labels whose order may change


def is_sweep_of_pairs_possible(scorer: FindingWeightScorer) -> bool:
    """Return whether the objective is the mean area under the ROC curve, and its changes fit into memory."""
    n_present, n_absent = count_labels(scorer.labels)
    return scorer.objective.name == _MACRO_AUC and 0 < int((n_present * n_absent).sum()) <= _MAX_PAIRS


def best_first_weight(scorer: FindingWeightScorer) -> float | None:
    """Find the weight of the first of two members that is optimal; None for objectives that are not minimised exactly."""
    if scorer.objective.name == LOG_LOSS:
        return _least_log_loss(scorer)
    return _best_of_intervals(scorer) if is_sweep_of_pairs_possible(scorer) else None


def _best_of_intervals(scorer: FindingWeightScorer) -> float:
    """Return the middle of the best interval between two changes of the mean area; the widest of equally good ones."""
    changes_at, gains = _changes_of_order(scorer)
    ends = np.concatenate([[0.0], changes_at, [1.0]])
    areas = np.concatenate([[0.0], gains.cumsum()])
    widths = np.diff(ends)
    is_wide = widths > np.finfo(np.float32).eps
    if not is_wide.any():
        return 0.5
    is_best = is_wide & (areas >= areas[is_wide].max() - 1e-12)
    widest = np.where(is_best, widths, -1).argmax()
    return float((ends[widest] + ends[widest + 1]) / 2)


def _changes_of_order(scorer: FindingWeightScorer) -> tuple[np.ndarray, np.ndarray]:
    """Find the weights of the first member at which an image with a finding and one without it change their order.

    Returns:
        The weights between 0 and 1 in ascending order, and how much the mean area grows at each.
    """
    found: list[tuple[np.ndarray, np.ndarray]] = []
    for number, rows, positive in known_images(scorer.labels):
        if positive.all() or not positive.any():
            continue
        first, second = scorer.probabilities[:, rows, number].astype(np.float64)
        at_0 = (second[positive][:, None] - second[~positive]).ravel()
        at_1 = (first[positive][:, None] - first[~positive]).ravel()
        changes = at_0 * at_1 < 0
        weight = 1 / at_0.size
        found.append((at_0[changes] / (at_0[changes] - at_1[changes]), np.where(at_1[changes] > 0, weight, -weight)))
    changes_at, gains = (np.concatenate(part) for part in zip(*found, strict=True))
    order = changes_at.argsort(kind="stable")
    return changes_at[order], gains[order] / len(found)


def _least_log_loss(scorer: FindingWeightScorer) -> float:
    from scipy.optimize import minimize_scalar  # the import takes 0.2 s

    is_known, is_present = scorer.labels >= 0, scorer.labels == PRESENT
    given = np.where(is_present, scorer.probabilities, 1 - scorer.probabilities.astype(np.float64))[:, is_known]

    def loss(first: float) -> float:
        share = first * given[0] + (1 - first) * given[1]
        return float(-np.log(share.clip(np.finfo(np.float32).eps, 1)).mean())

    inside = float(minimize_scalar(loss, bounds=(0, 1), method="bounded", options={"xatol": 1e-7}).x)
    return min((inside, 0.0, 1.0), key=loss)
