"""Sensitivity, specificity, PPV and NPV at frozen operating points, on labelled images. No threshold is chosen here."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from automl_cxr.scoring.aims import BOUNDED, Request
from automl_cxr.scoring.clustered_errors import exact_share_interval
from automl_cxr.scoring.operating_points import OperatingPoint
from automl_cxr.scoring.outcomes import Outcome, outcome_of
from automl_cxr.scoring.predictions import Predictions


@dataclass(frozen=True, eq=False)
class OperatingScores:
    """The scores of frozen operating points.

    Attributes:
        table: One row for each operating point: class (or finding), aim, threshold, positive and negative (numbers of images),
            and sensitivity, specificity, ppv and npv, each with the limits of its 95 % interval by patient (``_low``,
            ``_high``); NaN where there is no image.
        warnings: A sentence for each aim above the interval of what was measured.
    """

    table: pd.DataFrame
    warnings: tuple[str, ...]


def score_operating_points(points: Sequence[OperatingPoint], predictions: Predictions, *, place: str) -> OperatingScores:
    """Score operating points on labelled images on which their thresholds were not chosen.

    Args:
        points: The operating points.
        predictions: Predictions of the classifier for which the thresholds were chosen.
        place: Description of the images, for warnings.
    """
    rows, warnings = [], []
    for point in points:
        outcome = outcome_of(predictions, predictions.classes.index(point.name))
        row = _score(outcome, point.threshold)
        n_positive = int(outcome.is_positive.sum())
        counts = {"positive": n_positive, "negative": len(outcome.is_positive) - n_positive}
        rows.append({predictions.kind: point.name, "aim": point.aim, "threshold": point.threshold, **counts, **row})
        warnings += _missed_aim(point, row, place)
    return OperatingScores(pd.DataFrame(rows), tuple(warnings))


def _score(outcome: Outcome, threshold: float) -> dict[str, float]:
    is_decided, patients = outcome.probabilities >= threshold, np.asarray(outcome.patients)
    shares = {
        "sensitivity": (is_decided, outcome.is_positive),
        "specificity": (~is_decided, ~outcome.is_positive),
        "ppv": (outcome.is_positive, is_decided),
        "npv": (~outcome.is_positive, ~is_decided),
    }
    row: dict[str, float] = {}
    for name, (is_counted, rows) in shares.items():
        interval = exact_share_interval(is_counted[rows], patients[rows].tolist())
        row[name] = float(is_counted[rows].mean()) if rows.any() else math.nan
        row |= {f"{name}_low": interval.low, f"{name}_high": interval.high}
    return row


def _missed_aim(point: OperatingPoint, row: dict[str, float], place: str) -> list[str]:
    aim = Request.parse(point.aim).aim
    if aim.kind not in BOUNDED or not row[f"{aim.kind}_high"] < aim.value:
        return []
    value, low, high = (row[f"{aim.kind}{end}"] for end in ("", "_low", "_high"))
    sentence = (
        f"The operating point of {point.name} misses its aim on the {place}: {aim.kind} {value:.3f} (95% interval {low:.3f} to "
        f"{high:.3f}) instead of at least {aim.value:g}."
    )
    return [sentence]


def operating_points_table(records: Sequence[Mapping[str, Any]], kind: str) -> pd.DataFrame:
    """Return the operating points of an ensemble as a table for people.

    Args:
        records: Records of operating points (``OperatingPoint.to_record``).
        kind: Name of the first column, "class" or "finding".
    """
    return pd.DataFrame(
        [
            {
                kind: point["name"],
                "aim": point["aim"],
                "confidence": f"{point['confidence']:.0%}" if point["confidence"] else "no margin",
                "threshold": point["threshold"],
                "sensitivity": point["sensitivity"],
                "specificity": point["specificity"],
                "positive": point["n_positive"],
                "positive patients": point["n_positive_patients"],
                "negative": point["n_negative"],
                "negative patients": point["n_negative_patients"],
            }
            for point in records
        ]
    )
