"""Operating points: thresholds that are chosen for a stated aim, on images on which the classifier was not fitted.

A threshold for "sensitivity>=0.95" is the highest one with which a lower confidence bound of the sensitivity reaches 0.95, and
for a specificity the lowest such one. The bound is that of Clopper and Pearson 1934. Sensitivity does not increase with the
threshold, so the chosen one misses the aim on new patients with a probability of at most 1 - confidence, although it is chosen
among all thresholds (for one image of each patient, it is a tolerance limit after Wilks 1941).

The images of a patient are counted as if they were copies of one image: the bound is that of n = (sum of m)^2 / sum of m^2
independent images, where m is the number of images of each patient (Kish 1965). It holds for any correlation, because a smaller
one gives a smaller variance. The correlation itself cannot be estimated where a threshold matters: from the few images that are
missed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from automl_cxr.errors import UsageError
from automl_cxr.scoring.aims import DEFAULT_CONFIDENCE, GUARANTEED, Aim, Request, assign_aims
from automl_cxr.scoring.clustered_errors import smallest_effective_number
from automl_cxr.scoring.outcomes import Outcome, outcome_of
from automl_cxr.scoring.predictions import Predictions
from automl_cxr.scoring.sorted_scores import sort_scores


@dataclass(frozen=True)
class OperatingPoint:
    """A threshold and how it was chosen.

    Attributes:
        name: Class or finding. It is decided to be present if its probability is at least the threshold.
        aim: The stated aim, such as "sensitivity>=0.95".
        threshold: Above 0 and at most 1.
        confidence: Probability with which new patients meet the aim; 0 if the threshold was chosen without a margin for chance.
        sensitivity: On the images on which the threshold was chosen; optimistic without a margin.
        specificity: The same.
        n_positive: Number of images with the class or finding.
        n_negative: Number of images without it.
        n_positive_patients: Number of patients of the images with it.
        n_negative_patients: Number of patients of the images without it.
    """

    name: str
    aim: str
    threshold: float
    confidence: float
    sensitivity: float
    specificity: float
    n_positive: int
    n_negative: int
    n_positive_patients: int
    n_negative_patients: int

    def to_record(self) -> dict[str, Any]:
        """Return the fields for a JSON file."""
        return asdict(self)


@dataclass(frozen=True, eq=False)
class _Candidates:
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


def choose_operating_points(
    predictions: Predictions,
    requests: Sequence[Request],
    *,
    normal_class: int | None = None,
    confidence: float = DEFAULT_CONFIDENCE,
) -> tuple[OperatingPoint, ...]:
    """Choose the thresholds of classes against the rest, or of findings, for stated aims.

    Args:
        predictions: Labelled predictions for images on which the classifier was not fitted.
        requests: The aims; without names, of the positive class of two classes, or of all findings.
        normal_class: Index of the class without a finding, if it is known.
        confidence: Probability with which new patients meet an aim for sensitivity or specificity, at least 0.5 and below 1; 0
            for thresholds that reach the aim on these images, without a margin for chance.

    Raises:
        UnknownNameError: There is no such class or finding.
        UsageError: The confidence is out of range, the requests contradict each other, or no threshold reaches an aim; the
            message then states what can be reached.
    """
    check_confidence(confidence)
    aims = assign_aims(requests, predictions.classes, is_multilabel=predictions.is_multilabel, normal_class=normal_class)
    points: list[OperatingPoint] = []
    problems: dict[str, list[str]] = {}
    for name, aim in aims.items():
        try:
            points.append(_choose(outcome_of(predictions, predictions.classes.index(name)), aim, confidence))
        except _UnreachableError as error:
            problems.setdefault(error.rule, []).append(f"{name} ({error.received})")
    if problems:
        sentences = [f"{rule}; received {', '.join(received)}." for rule, received in problems.items()]
        raise UsageError(
            f"{' '.join(sentences)} State a lower aim, name only other classes or findings, or accept less certainty with "
            "--confidence (0: no margin for chance)."
        )
    return tuple(points)


class _UnreachableError(Exception):
    """An aim that no threshold reaches for one class or finding: the rule, and what was received."""

    def __init__(self, rule: str, received: str) -> None:
        super().__init__(rule, received)
        self.rule, self.received = rule, received


def check_confidence(confidence: float) -> None:
    """Refuse a confidence that is neither 0 nor from 0.5 to 1.

    Raises:
        UsageError: The confidence is out of range.
    """
    if confidence != 0 and not 0.5 <= confidence < 1:
        raise UsageError(
            f"A confidence is 0 (no margin for chance), or at least 0.5 and below 1; received {confidence:g}. Write 0.95 for "
            "95 %."
        )


def point_from_record(record: Mapping[str, Any]) -> OperatingPoint:
    """Return the operating point of a JSON file.

    Raises:
        ValueError: The record is damaged.
    """
    from automl_cxr.text_records import build_record

    point = build_record(OperatingPoint, record)
    if not 0 < point.threshold <= 1:
        raise ValueError(f"the threshold of {point.name} is {point.threshold}")
    return point


def _choose(outcome: Outcome, aim: Aim, confidence: float) -> OperatingPoint:
    if not outcome.has_both:
        received = "all images" if outcome.is_positive.any() else "no image"
        raise _UnreachableError("A threshold needs images with the class or finding, and images without it", received)
    found = _candidates(outcome)
    is_guaranteed = aim.kind in GUARANTEED and confidence > 0
    best = _guaranteed(outcome, found, aim, confidence) if is_guaranteed else _best(found, aim)
    n_patients = [len(set(np.asarray(outcome.patients)[rows].tolist())) for rows in (outcome.is_positive, ~outcome.is_positive)]
    return OperatingPoint(
        name=outcome.name,
        aim=str(aim),
        threshold=float(found.thresholds[best]),
        confidence=confidence if is_guaranteed else 0.0,
        sensitivity=float(found.values("sensitivity")[best]),
        specificity=float(found.values("specificity")[best]),
        n_positive=found.n_positive,
        n_negative=found.n_negative,
        n_positive_patients=n_patients[0],
        n_negative_patients=n_patients[1],
    )


def _candidates(outcome: Outcome) -> _Candidates:
    """Return the middles of neighbouring probabilities, so that rounding errors of exported models do not change decisions."""
    ascending, is_positive = sort_scores(outcome.is_positive, outcome.probabilities)
    descending, is_positive = ascending[::-1], is_positive[::-1]
    following = np.append(descending[1:], 0.0)
    last = np.flatnonzero(descending > following)  # between two different neighbours, and above 0
    n_positive = int(is_positive.sum())
    return _Candidates(
        thresholds=(descending[last] + following[last]) / 2,
        true_positives=is_positive.cumsum()[last],
        false_positives=(~is_positive).cumsum()[last],
        n_positive=n_positive,
        n_negative=len(is_positive) - n_positive,
    )


def _guaranteed(outcome: Outcome, found: _Candidates, aim: Aim, confidence: float) -> int:
    """Return the highest threshold whose bound of the sensitivity reaches the aim, or the lowest one for the specificity."""
    is_counted = outcome.is_positive if aim.kind == "sensitivity" else ~outcome.is_positive
    n_effective = smallest_effective_number(np.asarray(outcome.patients)[is_counted].tolist())
    reached = np.flatnonzero(_is_bounded(found.values(aim.kind), n_effective, aim.value, confidence))
    if not reached.size:
        kind, largest = ("with" if aim.kind == "sensitivity" else "without"), (1 - confidence) ** (1 / n_effective)
        needed = math.ceil(math.log(1 - confidence) / math.log(aim.value) - 1e-9)
        if needed > n_effective:
            raise _UnreachableError(
                f"{aim} with a confidence of {confidence:.0%} needs at least {needed} patients {kind} the class or finding "
                "(fewer count if some have many more images than others)",
                f"{n_effective:.0f}, enough for {math.floor(largest * 1000) / 1000:.3f}",
            )
        raise _UnreachableError(f"{aim} with a confidence of {confidence:.0%} must be reached by a threshold", "no threshold")
    return int(reached[0] if aim.kind == "sensitivity" else reached[-1])


def _is_bounded(shares: np.ndarray, n: float, aim: float, confidence: float) -> np.ndarray:
    """Return whether the lower Clopper-Pearson bound of each share of n independent images reaches the aim."""
    from scipy.special import betainc  # the import takes 0.1 s

    n_counted = shares * n
    # P(at least this number | the share is the aim), continued to numbers that are not integers.
    p_values = np.where(n_counted > 0, betainc(np.maximum(n_counted, 1e-9), n - n_counted + 1, aim), 1.0)
    return p_values <= 1 - confidence + 1e-12


def _best(found: _Candidates, aim: Aim) -> int:
    """Return the threshold that is best on these images; in a tie the highest one."""
    sensitivity, specificity = found.values("sensitivity"), found.values("specificity")
    match aim.kind:
        case "youden":
            return int((sensitivity + specificity).argmax())
        case "cost":
            return int((aim.value * (found.n_positive - found.true_positives) + found.false_positives).argmin())
    values = found.values(aim.kind)
    reached = np.flatnonzero(values >= aim.value - 1e-12)
    if not reached.size:
        raise _UnreachableError(f"{aim} must be reached by a threshold", f"at most {np.nanmax(values):.3f}")
    # The aims for images with the outcome keep as many others out as possible, and the reverse.
    return int(reached[0] if aim.kind in ("sensitivity", "npv") else reached[-1])
