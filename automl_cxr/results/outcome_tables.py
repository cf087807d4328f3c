"""Tables of calibration and net benefit for each class, finding or decision."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from automl_cxr.scoring.net_benefit import TABLE_THRESHOLDS, net_benefit_table
from automl_cxr.scoring.outcomes import decisions_of, outcomes_of
from automl_cxr.scoring.predictions import Predictions
from automl_cxr.scoring.recalibration import recalibrate


def calibration_table(predictions: Predictions) -> pd.DataFrame:
    """Compute the calibration of each class against the rest, or of each finding over its known labels.

    Returns:
        class (or finding), observed (share of images with it), expected (mean probability), slope and intercept
        (``scoring.recalibration``), and the limits of their 95 % intervals by patient (``_low``, ``_high``). Classes and
        findings that no image or every image has are omitted.
    """
    rows = []
    for outcome in outcomes_of(predictions):
        found = recalibrate(outcome)
        rows.append(
            {
                predictions.kind: outcome.name,
                "observed": float(outcome.is_positive.mean()),
                "expected": float(outcome.probabilities.mean()),
                "slope": found.slope.value,
                "slope_low": found.slope.interval.low,
                "slope_high": found.slope.interval.high,
                "intercept": found.intercept.value,
                "intercept_low": found.intercept.interval.low,
                "intercept_high": found.intercept.interval.high,
            }
        )
    return pd.DataFrame(rows)


def net_benefits(
    predictions: Predictions, normal_class: int | None, *, thresholds: Sequence[float] = TABLE_THRESHOLDS
) -> pd.DataFrame:
    """Compute the net benefit of each decision (``scoring.outcomes.decisions_of``).

    Returns:
        outcome, threshold, net_benefit, net_benefit_low and net_benefit_high (95 % interval by patient), treat_all and
        treat_none.
    """
    tables = []
    for outcome in decisions_of(predictions, normal_class):
        table = net_benefit_table(outcome, tuple(thresholds))
        table.insert(0, "outcome", outcome.name)
        tables.append(table.rename(columns={"low": "net_benefit_low", "high": "net_benefit_high"}))
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()
