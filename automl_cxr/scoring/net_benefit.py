"""Net benefit of decisions by a probability threshold: decision curves.

Vickers and Elkin 2006, "Decision curve analysis: a novel method for evaluating prediction models". At a threshold t, a reader
acts on images with a probability of at least t and accepts (1 - t) / t unnecessary actions for each necessary one. The net
benefit is the share of true positives minus the share of false positives times t / (1 - t). It is compared with acting on
every image (treat all) and on none (treat none), whose net benefit is 0."""

from __future__ import annotations

import numpy as np
import pandas as pd

from automl_cxr.scoring.clustered_errors import PatientClusters, normal_interval
from automl_cxr.scoring.outcomes import Outcome

CURVE_THRESHOLDS = tuple(round(percent / 100, 2) for percent in range(1, 100))
_DIGITS = 12  # of a net benefit: rounding errors are not a benefit
TABLE_THRESHOLDS = (0.05, 0.1, 0.2, 0.3, 0.5)


def net_benefit_table(outcome: Outcome, thresholds: tuple[float, ...] = CURVE_THRESHOLDS) -> pd.DataFrame:
    """Compute the net benefit of an outcome's predictions.

    Args:
        outcome: The outcome with its probabilities.
        thresholds: Probabilities from which a reader acts, each above 0 and below 1.

    Returns:
        threshold, net_benefit, low and high (95 % interval by patient), treat_all and treat_none; one row for each threshold.
    """
    clusters, share = PatientClusters(outcome.patients), float(outcome.is_positive.mean())
    rows = []
    for threshold in thresholds:
        cost = threshold / (1 - threshold)
        gains = np.where(outcome.is_positive, 1.0, -cost) * (outcome.probabilities >= threshold)
        benefit = round(float(gains.mean()), _DIGITS)
        interval = normal_interval(benefit, clusters.variance_of_mean(gains))
        rows.append(
            {
                "threshold": threshold,
                "net_benefit": benefit,
                "low": interval.low,
                "high": interval.high,
                "treat_all": share - (1 - share) * cost,
                "treat_none": 0.0,
            }
        )
    return pd.DataFrame(rows)
