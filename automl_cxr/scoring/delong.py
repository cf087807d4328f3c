"""DeLong's test of the difference between areas under ROC curves of several models on the same images.

DeLong, DeLong and Clarke-Pearson 1988, "Comparing the areas under two or more correlated receiver operating characteristic
curves: a nonparametric approach", by the fast algorithm of Sun and Xu 2014, "Fast implementation of DeLong's algorithm for
comparing the areas under correlated receiver operating characteristic curves", which needs midranks only.

The test assumes independent images. Images of one patient are not, so a bootstrap by patient belongs beside it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class RocAreas:
    """The areas under the ROC curves of several models and their covariance. NaN where the labels do not define them.

    Attributes:
        areas: (n_models,), from 0 to 1.
        covariance: (n_models, n_models).
    """

    areas: np.ndarray
    covariance: np.ndarray

    def p_value(self, model: int, other: int) -> float:
        """Return the two-sided p-value of the hypothesis that two models have the same area, from 0 to 1.

        1 if both order the images in the same way; NaN with fewer than two images with or without the finding.
        """
        difference = self.areas[model] - self.areas[other]
        covariance = self.covariance
        variance = covariance[model, model] + covariance[other, other] - 2 * covariance[model, other]
        if math.isnan(variance):
            return math.nan
        if abs(difference) < 1e-12:
            return 1.0
        # Rounding makes a variance of zero slightly negative.
        return math.erfc(abs(difference) / math.sqrt(2 * variance)) if variance > 0 else 0.0


def roc_areas(is_positive: np.ndarray, probabilities: np.ndarray) -> RocAreas:
    """Compute the areas under the ROC curves of several models and their covariance.

    Args:
        is_positive: Whether each image has the class or finding, bool (n,).
        probabilities: Probability of the class or finding by each model, (n_models, n).
    """
    from scipy.stats import rankdata  # the import takes 0.3 s

    positive, negative = probabilities[:, is_positive], probabilities[:, ~is_positive]
    n_models, n_positive, n_negative = len(probabilities), positive.shape[1], negative.shape[1]
    if not n_positive or not n_negative:
        return RocAreas(np.full(n_models, np.nan), np.full((n_models, n_models), np.nan))
    ranks = rankdata(probabilities, axis=1)
    # The share of the other group's images that are on the right side of each image; ties count half.
    of_positive = (ranks[:, is_positive] - rankdata(positive, axis=1)) / n_negative
    of_negative = 1 - (ranks[:, ~is_positive] - rankdata(negative, axis=1)) / n_positive
    covariance = np.full((n_models, n_models), np.nan)
    if min(n_positive, n_negative) > 1:
        covariance = np.atleast_2d(np.cov(of_positive)) / n_positive + np.atleast_2d(np.cov(of_negative)) / n_negative
    return RocAreas(of_positive.mean(axis=1), covariance)


def holm_adjusted(p_values: np.ndarray) -> np.ndarray:
    """Adjust p-values for their number (Holm 1979), (n,). NaN values do not count and remain NaN."""
    adjusted = np.full(len(p_values), np.nan)
    order = np.argsort(p_values)[: int((~np.isnan(p_values)).sum())]  # NaN is last
    factors = len(order) - np.arange(len(order))
    adjusted[order] = np.maximum.accumulate(np.minimum(p_values[order] * factors, 1.0))
    return adjusted
