"""Which of many models may be the best one: those that cannot be told apart from it."""

from __future__ import annotations

import numpy as np

LEVEL = 0.95


def chances_to_be_best(scores: np.ndarray, of_resamples: np.ndarray) -> np.ndarray:
    """Give for each model the p-value of "no other model is better", corrected for the number of models compared.

    Multiple comparisons with the best (Hsu 1981; Hsu, "Multiple Comparisons", 1996) by the bootstrap's max-T (Westfall and
    Young 1993; Romano and Wolf 2005): of each model the largest lead that any other has over it, in standard errors of the
    paired difference, is compared with the largest such lead under resampling, centred, where no model is better. Models
    with p above 0.05 contain the truly best one in at least 95 % of studies. Comparing with the winner alone would not do:
    it leads for having been chosen, of 200 equal models by several standard errors.

    Args:
        scores: Of each model, more is better, (n_models,).
        of_resamples: The same on resamples that all models share, (n_models, n_resamples); those with a NaN do not count.

    Returns:
        (n_models,), 0 to 1; NaN where a score is.
    """
    chances = np.full(len(scores), np.nan)
    known = np.flatnonzero(~np.isnan(scores))
    resampled = of_resamples[known]
    resampled = resampled[:, ~np.isnan(resampled).any(axis=0)]
    if not resampled.size:
        return chances
    leads = scores[known] - scores[known][:, None]  # of the column's model over the row's
    scale = _inverse_errors(resampled)
    # float32 halves the time of the one large computation here; scores differ by far more than its rounding.
    chance = (resampled - scores[known][:, None]).astype(np.float32)
    for row, model in enumerate(known):
        largest = ((chance - chance[row]) * scale[row][:, None]).max(axis=0)
        observed = np.float32((leads[row] * scale[row]).max())
        chances[model] = (1 + (largest >= observed).sum()) / (1 + len(largest))
    return chances


def _inverse_errors(resampled: np.ndarray) -> np.ndarray:
    """Give 1 over the standard error of each paired difference, 0 where two models never differ, float32 (n, n)."""
    covariance = np.cov(resampled, ddof=0).reshape(len(resampled), len(resampled))
    variance = np.diagonal(covariance)
    of_difference = (variance + variance[:, None] - 2 * covariance).clip(min=0)
    is_more_than_rounding = of_difference > 1e-12
    return np.where(is_more_than_rounding, 1 / np.sqrt(np.where(is_more_than_rounding, of_difference, 1)), 0).astype(np.float32)
