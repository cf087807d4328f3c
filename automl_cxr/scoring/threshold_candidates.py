"""All thresholds of a binary outcome that give different decisions, with the counts of these decisions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from automl_cxr.scoring.outcomes import Outcome
from automl_cxr.scoring.sorted_scores import sort_scores


@dataclass(frozen=True, eq=False)
class Candidates:
    """The thresholds of an outcome, highest first, and the decisions that each gives.

    Attributes:
        thresholds: float64 (m,).
        true_positives: Number of images with the outcome whose probability reaches each threshold, (m,).
        false_positives: Number of images without it, (m,).
        n_positive: Number of images with it.
        n_negative: Number of images without it.
    """

    thresholds: np.ndarray
    true_positives: np.ndarray
    false_positives: np.ndarray
    n_positive: int
    n_negative: int

    def values(self, kind: str) -> np.ndarray:
        """Return the sensitivity, specificity, PPV or NPV at each threshold, (m,); NPV is NaN without negative decisions."""
        true_negatives = self.n_negative - self.false_positives
        match kind:
            case "sensitivity":
                return self.true_positives / self.n_positive
            case "specificity":
                return true_negatives / self.n_negative
            case "ppv":
                return self.true_positives / (self.true_positives + self.false_positives)
        n_negative_decisions = true_negatives + self.n_positive - self.true_positives
        undefined = np.full(len(self.thresholds), np.nan)
        return np.divide(true_negatives, n_negative_decisions, out=undefined, where=n_negative_decisions > 0)


def candidates_of(outcome: Outcome) -> Candidates:
    """Return the middles of neighbouring probabilities, so that rounding errors of exported models do not change decisions."""
    ascending, is_positive = sort_scores(outcome.is_positive, outcome.probabilities)
    descending, is_positive = ascending[::-1], is_positive[::-1]
    following = np.append(descending[1:], 0.0)
    last = np.flatnonzero(descending > following)  # between two different neighbours, and above 0
    n_positive = int(is_positive.sum())
    return Candidates(
        thresholds=(descending[last] + following[last]) / 2,
        true_positives=is_positive.cumsum()[last],
        false_positives=(~is_positive).cumsum()[last],
        n_positive=n_positive,
        n_negative=len(is_positive) - n_positive,
    )
