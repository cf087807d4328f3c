"""Conformal sets of a classifier: their calibration on its stored predictions, and decisions by them."""

from __future__ import annotations

from dataclasses import replace
from itertools import compress
from typing import Any

import numpy as np
import pandas as pd

from automl_cxr.errors import AutomlCxrError, UsageError
from automl_cxr.results.classifier import Classifier
from automl_cxr.results.evaluation import Evaluation
from automl_cxr.results.set_coverage import measure_coverage
from automl_cxr.scoring.conformal import ConformalSets, calibrate_sets, check_coverage
from automl_cxr.scoring.predictions import Predictions
from automl_cxr.tasks import FINDING_SEPARATOR, PRESENT

DEFAULT_COVERAGE = 0.9


def calibrate_classifier(classifier: Classifier, coverage: float) -> ConformalSets:
    """Calibrate the sets of a classifier on its stored predictions: out of fold, or those for the validation part.

    Raises:
        UsageError: The coverage is out of range, or the classifier averages over the mirrored view, for which no predictions
            are stored.
        DataError: The stored predictions are missing or damaged.
    """
    if classifier.mirrored:
        raise UsageError(
            "Conformal sets are calibrated on stored predictions, which are those of the images alone; received a classifier "
            "with the mirrored view. Omit --mirrored or --abstain."
        )
    return calibrate_sets(Predictions.from_npz(classifier.predictions), coverage)


def with_set_coverage(evaluation: Evaluation, classifier: Classifier, coverage: float) -> Evaluation:
    """Return an evaluation with the coverage of the classifier's sets, and its warnings.

    The validation and training parts have none, because the sets are calibrated, or the networks trained, on their images. If
    the sets cannot be calibrated, a note has the reason.

    Args:
        evaluation: Evaluation of the classifier.
        classifier: The classifier.
        coverage: Stated coverage, between 0 and 1.

    Raises:
        UsageError: The coverage is out of range.
    """
    check_coverage(coverage)
    if evaluation.part not in ("test", "external"):
        return evaluation
    try:
        sets = calibrate_classifier(classifier, coverage)
    except AutomlCxrError as error:
        return replace(evaluation, notes=(*evaluation.notes, f"The coverage of conformal sets is not known. {error}"))
    measured = measure_coverage(sets, evaluation.predictions, place=evaluation.place)
    few = filter(None, [describe_few_images(sets, classifier.classes)])
    return replace(
        evaluation,
        set_coverage=measured,
        notes=(*evaluation.notes, *few),
        warnings=(*evaluation.warnings, *measured.warnings),
    )


def describe_few_images(sets: ConformalSets, classes: tuple[str, ...]) -> str:
    """Name the classes with too few calibration images, which belong to every set; "" if there are none."""
    positions = np.argwhere(sets.is_always_included).tolist()
    names = [" ".join([classes[number], *(("absent", "present")[state] for state in states)]) for number, *states in positions]
    if not names:
        return ""
    return (
        f"A coverage of {sets.coverage:.0%} needs more calibration images of {', '.join(names)}. Until then they are in every "
        "set, and the classifier abstains instead of excluding them."
    )


def describe_sets(table: pd.DataFrame, sets: ConformalSets, classes: tuple[str, ...]) -> list[str]:
    """Return notes on a table of ``add_sets``: the number of abstentions, and classes with too few calibration images."""
    columns = ["decision"] if sets.limits.ndim == 1 else [f"decision_{name}" for name in classes]
    n_abstained, n_all = int((table[columns] == "").to_numpy().sum()), len(table) * len(columns)
    abstained = (
        f"The classifier abstains from {n_abstained:,} of {n_all:,} decisions. Its sets contain the true class of "
        f"{sets.coverage:.0%} of the images of each class, if the images are like those of the study; `automl-cxr evaluate` "
        "measures it."
    )
    return [abstained, *filter(None, [describe_few_images(sets, classes)])]


def add_sets(table: pd.DataFrame, sets: ConformalSets, classes: tuple[str, ...]) -> pd.DataFrame:
    """Add the sets to a table of predictions (``api.predict``).

    Args:
        table: One row for each image, with a column ``probability_<class>`` for each class.
        sets: The calibrated sets.
        classes: Names of the classes or findings.

    Returns:
        For classes, the additional columns set (classes as "A|B") and decision (the class of a set with exactly one; "" if the
        classifier abstains). For findings, ``decision_<finding>`` is "1" or "0" by the set, and "" if the classifier abstains;
        the column findings has those that are decided to be present.
    """
    contains = sets.contains(table[[f"probability_{name}" for name in classes]].to_numpy())
    if sets.limits.ndim == 1:
        names = [list(compress(classes, row)) for row in contains.tolist()]
        return table.assign(
            set=[FINDING_SEPARATOR.join(one) for one in names], decision=[one[0] if len(one) == 1 else "" for one in names]
        )
    is_single = contains.sum(axis=2) == 1
    decisions = np.where(is_single, np.where(contains[..., PRESENT], "1", "0"), "")
    columns: dict[str, Any] = {f"decision_{name}": decisions[:, number] for number, name in enumerate(classes)}
    present = [FINDING_SEPARATOR.join(compress(classes, row)) for row in (decisions == "1").tolist()]
    return table.assign(findings=present, **columns)
