"""The coverage of conformal sets on labelled images, with warnings where it is below the stated one."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import compress

import numpy as np
import pandas as pd

from automl_cxr.scoring.clustered_errors import share_interval
from automl_cxr.scoring.conformal import ConformalSets, rank_of_limit
from automl_cxr.scoring.predictions import Predictions
from automl_cxr.tasks import ABSENT, PRESENT

_ERROR_PROBABILITY = 0.05  # of a warning although the coverage is as stated
_ROUNDING = 1e-9  # of a number of patients


@dataclass(frozen=True, eq=False)
class SetCoverage:
    """The coverage of conformal sets on labelled images.

    Attributes:
        stated: The stated coverage of each class.
        table: For each class, or each state of each finding: class (or finding and label), images, calibration (number of
            calibration images), coverage (share of the images whose set contains the true class) with the limits of its 95 %
            interval by patient (``_low``, ``_high``), abstained (share of the images whose set has not exactly one class), and
            error_of_decided (share of errors among the others).
        warnings: A sentence for each row whose coverage is below the stated one by more than chance explains.
    """

    stated: float
    table: pd.DataFrame
    warnings: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class _Group:
    """The images of one class, or of one label of a finding: its names in the table, its images, its position in ``limits``."""

    names: dict[str, str]
    is_member: np.ndarray
    position: tuple[int, ...]


def _classes(predictions: Predictions) -> list[_Group]:
    groups = [
        _Group({"class": name}, predictions.labels == number, (number,)) for number, name in enumerate(predictions.classes)
    ]
    return [group for group in groups if group.is_member.any()]


def _states_of_findings(predictions: Predictions) -> list[_Group]:
    groups = [
        _Group({"finding": name, "label": text}, predictions.labels[:, number] == state, (number, state))
        for number, name in enumerate(predictions.classes)
        for state, text in ((PRESENT, "present"), (ABSENT, "absent"))
    ]
    return [group for group in groups if group.is_member.any()]


def measure_coverage(sets: ConformalSets, predictions: Predictions, *, place: str) -> SetCoverage:
    """Measure the coverage of sets on labelled images that were not used for their calibration.

    Args:
        sets: The calibrated sets.
        predictions: Labelled predictions of the same classifier.
        place: Description of the images, for warnings.
    """
    contains = sets.contains(predictions.probabilities)
    groups = _states_of_findings(predictions) if predictions.is_multilabel else _classes(predictions)
    rows, warnings = [], []
    for group in groups:
        of_group = contains[(group.is_member, *group.position[:-1])]
        patients = list(compress(predictions.patients, group.is_member.tolist()))
        is_covered, is_single = of_group[:, group.position[-1]], of_group.sum(axis=1) == 1
        interval = share_interval(is_covered, patients)
        rows.append(
            {
                **group.names,
                "images": len(of_group),
                "calibration": int(sets.n_images[group.position]),
                "coverage": float(is_covered.mean()),
                "coverage_low": interval.low,
                "coverage_high": interval.high,
                "abstained": float(1 - is_single.mean()),
                "error_of_decided": float(1 - is_covered[is_single].mean()) if is_single.any() else math.nan,
            }
        )
        if _is_too_low(sets, group, float(is_covered.mean()), len(set(patients)), n_groups=len(groups)):
            warnings.append(
                f"Conformal sets contain {' '.join(group.names.values())} in {is_covered.mean():.1%} (95% interval "
                f"{interval.low:.1%} to {interval.high:.1%}) of its {len(of_group):,} images on the {place}, instead of "
                f"{sets.coverage:.0%}. Chance does not explain it: do not rely on the stated coverage for such images."
            )
    return SetCoverage(sets.coverage, pd.DataFrame(rows), tuple(warnings))


def _is_too_low(sets: ConformalSets, group: _Group, share: float, n_patients: int, *, n_groups: int) -> bool:
    """Return whether chance in calibration and evaluation does not explain a coverage below the stated one.

    Among m new observations, the number that is covered has a beta-binomial distribution, which depends on the rank of the
    limit among the observations of the calibration (Vovk 2012, "Conditional validity of inductive conformal predictors"). Each
    patient counts as one observation, because the correlation of the images of few patients cannot be estimated. The error
    probability of all groups together is at most 5 %.
    """
    from scipy.stats import betabinom  # the import takes 0.3 s

    n_calibration = int(sets.n_patients[group.position])
    rank = int(rank_of_limit(np.array(n_calibration), sets.coverage))
    if rank > n_calibration:  # the class is in nearly all sets
        return False
    n_covered = math.ceil(share * n_patients - _ROUNDING)
    p_value = betabinom.cdf(n_covered, n_patients, rank, n_calibration + 1 - rank)
    return bool(p_value < _ERROR_PROBABILITY / n_groups)
