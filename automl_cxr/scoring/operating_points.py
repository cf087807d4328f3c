"""Operating points: thresholds that are chosen for a stated aim, on images on which the classifier was not fitted.

A threshold for "sensitivity>=0.95" is the highest one with which a lower confidence bound of the sensitivity reaches 0.95, and
for a specificity the lowest such one. The bound is that of Clopper and Pearson 1934. Sensitivity does not increase with the
threshold, so the chosen one misses the aim on new patients with a probability of at most 1 - confidence, although it is chosen
among all thresholds (for one image of each patient, it is a tolerance limit after Wilks 1941).

The images of a patient are counted as if they were copies of one image: the bound is that of n = (sum of m)^2 / sum of m^2
independent images, where m is the number of images of each patient (Kish 1965). It holds for any correlation, because a
smaller one gives a smaller variance; if the numbers m differ much, approximately. The correlation itself cannot be estimated
where a threshold matters: from the few images that are missed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import numpy as np

from automl_cxr.errors import UsageError
from automl_cxr.scoring.aims import DEFAULT_CONFIDENCE, GUARANTEED, Aim, Request, assign_aims
from automl_cxr.scoring.clustered_errors import smallest_effective_number
from automl_cxr.scoring.outcomes import Outcome, outcome_of
from automl_cxr.scoring.predictions import Predictions
from automl_cxr.scoring.threshold_candidates import Candidates, candidates_of
from automl_cxr.text_records import build_record

_Result = TypeVar("_Result")
_ROUNDING = 1e-9  # 0.05 ** (1 / 59) and the like


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
    return tuple(_for_each(predictions, requests, normal_class, lambda outcome, aim: _choose(outcome, aim, confidence)))


def check_requests(
    images: Predictions, requests: Sequence[Request], *, normal_class: int | None = None, confidence: float = DEFAULT_CONFIDENCE
) -> None:
    """Refuse requests that no probabilities for these images could meet, before a classifier is fitted.

    Arguments and errors are those of ``choose_operating_points``; only labels and patients are used.
    """
    check_confidence(confidence)
    _for_each(images, requests, normal_class, lambda outcome, aim: _check_patients(outcome, aim, confidence))


def _for_each(
    predictions: Predictions,
    requests: Sequence[Request],
    normal_class: int | None,
    function: Callable[[Outcome, Aim], _Result],
) -> list[_Result]:
    """Call a function with the outcome and the aim of each request; tell all aims that cannot be reached together."""
    aims = assign_aims(requests, predictions.classes, is_multilabel=predictions.is_multilabel, normal_class=normal_class)
    results: list[_Result] = []
    problems: dict[str, list[str]] = {}
    for name, aim in aims.items():
        try:
            results.append(function(outcome_of(predictions, predictions.classes.index(name)), aim))
        except _UnreachableError as error:
            problems.setdefault(error.rule, []).append(f"{name} ({error.received})")
    if problems:
        sentences = [f"{rule}; received {', '.join(received)}." for rule, received in problems.items()]
        raise UsageError(
            f"{' '.join(sentences)} State a lower aim, name only other classes or findings, or accept less certainty with "
            "--confidence (0: no margin for chance)."
        )
    return results


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
    point = build_record(OperatingPoint, record)
    if not 0 < point.threshold <= 1:
        raise ValueError(f"the threshold of {point.name} is {point.threshold}")
    return point


def _check_patients(outcome: Outcome, aim: Aim, confidence: float) -> None:
    """Raise an error if there are too few patients for an aim, whatever the probabilities are."""
    if not outcome.has_both:
        received = "all images" if outcome.is_positive.any() else "no image"
        raise _UnreachableError("A threshold needs images with the class or finding, and images without it", received)
    if not _is_guaranteed(aim, confidence):
        return
    n_effective = _effective_number(outcome, aim)
    needed = math.ceil(math.log(1 - confidence) / math.log(aim.value) - _ROUNDING)
    if needed > n_effective + _ROUNDING:
        kind, largest = "with" if aim.kind == "sensitivity" else "without", (1 - confidence) ** (1 / n_effective)
        raise _UnreachableError(
            f"{aim} with a confidence of {confidence:.0%} needs at least {needed} patients {kind} the class or finding "
            "(fewer count if some have many more images than others)",
            f"{math.floor(n_effective + _ROUNDING)}, enough for {math.floor(largest * 1000) / 1000:.3f}",
        )


def _is_guaranteed(aim: Aim, confidence: float) -> bool:
    return aim.kind in GUARANTEED and confidence > 0


def _effective_number(outcome: Outcome, aim: Aim) -> float:
    """Return the effective number of images of which the aim is a share."""
    is_counted = outcome.is_positive if aim.kind == "sensitivity" else ~outcome.is_positive
    return smallest_effective_number(np.asarray(outcome.patients)[is_counted].tolist())


def _choose(outcome: Outcome, aim: Aim, confidence: float) -> OperatingPoint:
    _check_patients(outcome, aim, confidence)
    found = candidates_of(outcome)
    if not found.thresholds.size:
        raise _UnreachableError("A threshold needs probabilities above 0", "none")
    is_guaranteed = _is_guaranteed(aim, confidence)
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


def _guaranteed(outcome: Outcome, found: Candidates, aim: Aim, confidence: float) -> int:
    """Return the highest threshold whose bound of the sensitivity reaches the aim, or the lowest one for the specificity."""
    is_reached = _is_bounded(found.values(aim.kind), _effective_number(outcome, aim), aim.value, confidence)
    reached = np.flatnonzero(is_reached)
    if not reached.size:
        raise _UnreachableError(f"{aim} with a confidence of {confidence:.0%} must be reached by a threshold", "no threshold")
    return int(reached[0] if aim.kind == "sensitivity" else reached[-1])


def _is_bounded(shares: np.ndarray, n: float, aim: float, confidence: float) -> np.ndarray:
    """Return whether the lower Clopper-Pearson bound of each share of n independent images reaches the aim."""
    from scipy.special import betainc  # the import takes 0.1 s

    n_counted = shares * n
    # P(at least this number | the share is the aim), continued to numbers that are not integers.
    p_values = np.where(n_counted > 0, betainc(np.maximum(n_counted, _ROUNDING), n - n_counted + 1, aim), 1.0)
    return p_values <= 1 - confidence + _ROUNDING


def _best(found: Candidates, aim: Aim) -> int:
    """Return the threshold that is best on these images; in a tie the highest one."""
    sensitivity, specificity = found.values("sensitivity"), found.values("specificity")
    match aim.kind:
        case "youden":
            return int((sensitivity + specificity).argmax())
        case "cost":
            return int((aim.value * (found.n_positive - found.true_positives) + found.false_positives).argmin())
    values = found.values(aim.kind)
    reached = np.flatnonzero(values >= aim.value - _ROUNDING)
    if not reached.size:
        raise _UnreachableError(f"{aim} must be reached by a threshold", f"at most {np.nan_to_num(values).max():.3f}")
    # The aims for images with the outcome keep as many others out as possible, and the reverse.
    return int(reached[0] if aim.kind in ("sensitivity", "npv") else reached[-1])
