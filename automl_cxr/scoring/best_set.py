"""The models that may be the best of many, because they are not significantly worse than any other."""

from __future__ import annotations

import numpy as np

LEVEL = 0.95


def chances_to_be_best(scores: np.ndarray, of_resamples: np.ndarray) -> np.ndarray:
    """Compute for each model the p-value of "no other model is better", corrected for the number of models.

    Multiple comparisons with the best (Hsu 1981; Hsu, "Multiple Comparisons", 1996) with the max-T bootstrap (Westfall and
    Young 1993; Romano and Wolf 2005): the test statistic of a model is the largest difference between another model's score
    and its own, in standard errors of the paired difference. It is compared with the largest centred difference in each
    resample, which has the distribution of the statistic if no model is better. The models with p above 0.05 include the model
    with the best true score in at least 95 % of studies. A comparison with the best model alone would be biased: the best score
    of 200 equal models exceeds the others by several standard errors.

    Args:
        scores: Score of each model, higher is better, (n_models,).
        of_resamples: Scores on common resamples, (n_models, n_resamples); resamples with a NaN do not count.

    Returns:
        p-values (n_models,), 0 to 1; NaN where the score is NaN.
    """
    chances = np.full(len(scores), np.nan)
    known = np.flatnonzero(~np.isnan(scores))
    resampled = of_resamples[known]
    resampled = resampled[:, ~np.isnan(resampled).any(axis=0)]
    if not resampled.size:
        return chances
    deviations = resampled - resampled.mean(axis=1, keepdims=True)
    # float32 halves the time of the only large computation; its rounding error is small compared to the scores.
    centred = (resampled - scores[known][:, None]).astype(np.float32)
    for row, model in enumerate(known):
        scale = _inverse_errors(deviations, row)
        largest = ((centred - centred[row]) * scale[:, None]).max(axis=0)
        observed = np.float32(((scores[known] - scores[model]) * scale).max())
        chances[model] = (1 + (largest >= observed).sum()) / (1 + len(largest))
    return chances


def _inverse_errors(deviations: np.ndarray, row: int) -> np.ndarray:
    """Compute 1 / standard error of the paired difference of each model from one; 0 where they never differ; float32 (n,)."""
    of_difference = ((deviations - deviations[row]) ** 2).mean(axis=1)
    is_more_than_rounding = of_difference > 1e-12
    return np.where(is_more_than_rounding, 1 / np.sqrt(np.where(is_more_than_rounding, of_difference, 1)), 0).astype(np.float32)
