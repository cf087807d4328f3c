"""Decisions for one image from its probabilities, with and without abstention."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import compress

import numpy as np

from automl_cxr.results.classifier import Classifier
from automl_cxr.scoring.conformal import ConformalSets
from automl_cxr.tasks import ABSENT, PRESENT

RESEARCH_USE = "Research use only. Not a medical device: the result must not be used for clinical decisions."


@dataclass(frozen=True)
class SetDecision:
    """The decision by the conformal set of an image, which contains the true class with the stated coverage.

    Attributes:
        coverage: Stated coverage.
        abstains: Whether the class, or the state of any finding, is not decided.
        decision: The class of a set with exactly one; for findings those that are decided to be present.
        plausible: The classes of the set; for findings those whose presence is in their set.
        undecided: For findings, those from which the classifier abstains; empty for classes.
    """

    coverage: float
    abstains: bool
    decision: list[str]
    plausible: list[str]
    undecided: list[str]


def decide(classifier: Classifier, probabilities: np.ndarray) -> list[str]:
    """Return the most probable class; for findings those whose probability reaches the threshold.

    Args:
        classifier: The classifier.
        probabilities: Of one image, (n_classes,).
    """
    thresholds = classifier.threshold_array
    if thresholds is None:
        return [classifier.classes[int(probabilities.argmax())]]
    return list(compress(classifier.classes, probabilities >= thresholds))


def decide_by_sets(classes: tuple[str, ...], sets: ConformalSets, probabilities: np.ndarray) -> SetDecision:
    """Return the decision by the conformal sets of one image, as ``results.abstention.add_sets`` for a table.

    Args:
        classes: Classes or findings.
        sets: The calibrated sets.
        probabilities: Of one image, (n_classes,).
    """
    contains = sets.contains(probabilities[np.newaxis])[0]
    if contains.ndim == 1:
        plausible = list(compress(classes, contains))
        decision = plausible if len(plausible) == 1 else []
        return SetDecision(sets.coverage, not decision, decision, plausible, [])
    is_decided = contains.sum(axis=1) == 1
    return SetDecision(
        sets.coverage,
        bool(not is_decided.all()),
        list(compress(classes, contains[:, PRESENT] & ~contains[:, ABSENT])),
        list(compress(classes, contains[:, PRESENT])),
        list(compress(classes, ~is_decided)),
    )
