"""All that is worked out of members' predictions when an ensemble is built, wherever the members come from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from automl_cxr.data.patient_folds import patient_folds
from automl_cxr.ensemble.build import DEFAULT_METHOD, FittedEnsemble, check_method, compare_methods
from automl_cxr.ensemble.combiners import CalibratedCombiner, Combiner
from automl_cxr.ensemble.genetic_settings import DEFAULT_SETTINGS, GeneticSettings
from automl_cxr.ensemble.member_selection import near_duplicates
from automl_cxr.ensemble.method_comparison import SIMPLEST, MethodComparison, compare_methods_out_of_fold
from automl_cxr.ensemble.objective import MACRO_F1, Objective
from automl_cxr.ensemble.weight_scoring import WeightScorer
from automl_cxr.scoring.calibration import expected_calibration_error, fit_temperature, with_temperature
from automl_cxr.scoring.intervals import Interval, bootstrap_interval
from automl_cxr.scoring.predictions import Predictions, align


@dataclass(frozen=True)
class Calibration:
    """A temperature, and what it does to images that it was not fitted on.

    Attributes:
        temperature: What logits are divided by; 1 where none helps, or where there are too few patients to tell.
        error_before: Expected calibration error of the ensemble out of fold; NaN where there are no folds.
        error_after: The same with temperatures that were fitted on other patients.
    """

    temperature: float
    error_before: float
    error_after: float


@dataclass(frozen=True, eq=False)
class Combination:
    """An ensemble before it is written anywhere.

    Attributes:
        names: What the members are called, in order.
        method: A name in ``METHODS``.
        objective: What the rule was chosen by.
        rule: How members are combined, the temperature included.
        member_scores: Each member's score by the objective's metric.
        fitted: The rule of every method, and its score on the images that it was fitted on.
        judgement: Every method out of fold; None where a class has but one patient.
        calibration: The temperature.
        duplicates: Pairs of members that say nearly the same: (name, name, correlation of their errors).
        predictions: What the ensemble says of the images that it was fitted on.
        interval: 95 % bootstrap interval by patient of the method's score, out of fold where there are folds.
    """

    names: tuple[str, ...]
    method: str
    objective: Objective
    rule: Combiner
    member_scores: tuple[float, ...]
    fitted: Mapping[str, FittedEnsemble]
    judgement: MethodComparison | None
    calibration: Calibration
    duplicates: tuple[tuple[str, str, float], ...]
    predictions: Predictions
    interval: Interval

    @property
    def recommended(self) -> str:
        """The simplest method that this one is not distinguishably better than; itself if there is none."""
        return self.method if self.judgement is None else self.judgement.recommended[self.method]

    def methods_table(self) -> list[dict[str, Any]]:
        """Give a row a method: its score where it was fitted, out of fold, and the gain over the best member there."""
        rows = []
        for name, fitted in self.fitted.items():
            row: dict[str, Any] = {"method": name, "fitted": fitted.score}
            if self.judgement is not None:
                judged = self.judgement.methods[name]
                row |= {"out_of_fold": judged.score, "gain": judged.gain}
                row |= {"gain_low": judged.interval.low, "gain_high": judged.interval.high}
            rows.append(row)
        return rows

    def verdict(self) -> str:
        """Say in a sentence or two what the ensemble is worth."""
        name, metric = self.method, self.objective.name
        if self.judgement is None:
            return (
                f"{name}: {metric} {self.fitted[name].score:.4f} on the images that it was fitted on: expect less on others. "
                "A class has but one patient: nothing can be said of other patients."
            )
        judged = self.judgement.methods[name]
        said = (
            f"{name}: {metric} {judged.score:.4f} out of fold ({self.interval.low:.4f} to {self.interval.high:.4f}), "
            f"{judged.gain:+.4f} against the best member ({judged.interval.low:+.4f} to {judged.interval.high:+.4f})."
        )
        if self.recommended == name:
            return said if name == SIMPLEST else f"{said} No simpler method is as good."
        if not judged.is_distinguishable:
            return f"{said} That is no distinguishable gain: take {SIMPLEST}, the best member alone."
        return f"{said} {self.recommended} is simpler and not distinguishably worse: take {self.recommended}."


def combine_members(
    members: Sequence[Predictions],
    *,
    names: Sequence[str],
    method: str = DEFAULT_METHOD,
    objective: Objective = MACRO_F1,
    settings: GeneticSettings = DEFAULT_SETTINGS,
) -> Combination:
    """Fit an ensemble by a method, compare it with every other, judge all on patients left out, and calibrate.

    Args:
        members: Labelled predictions of each member, on images that no member was trained on.
        names: What the members are called.
        method: A name in ``METHODS``.
        objective: What the rule is chosen by.
        settings: Of the genetic algorithm; its seed is that of folds and resamples too.

    Raises:
        UnknownNameError: There is no such method.
        UsageError: There is no member, the method is for another number of them, or the objective misses its normal class.
        DataError: Members differ in images, labels or classes, or a label is unknown.
    """
    check_method(method, len(members))
    probabilities, images = align(members, names=names)
    images.require_labels()
    members = [replace(images, probabilities=one) for one in probabilities]
    fitted = compare_methods(members, objective=objective, settings=settings)
    judgement = compare_methods_out_of_fold(members, objective=objective, settings=settings)
    rule = fitted[method].rule
    out_of_fold = None if judgement is None else judgement.methods[method].predictions
    calibration = _calibrate(out_of_fold, settings.seed)
    if calibration.temperature != 1:
        rule = CalibratedCombiner(rule, calibration.temperature)
    predictions = replace(images, probabilities=rule.combine(probabilities))
    pairs = near_duplicates(WeightScorer(probabilities, images.labels))
    return Combination(
        names=tuple(names),
        method=method,
        objective=objective,
        rule=rule,
        member_scores=tuple(objective.score(images.labels, one) for one in probabilities),
        fitted=fitted,
        judgement=judgement,
        calibration=calibration,
        duplicates=tuple((names[one], names[other], correlation) for one, other, correlation in pairs),
        predictions=predictions,
        interval=bootstrap_interval(
            out_of_fold or predictions, metric=objective.name, seed=settings.seed, normal_class=objective.normal_class
        ),
    )


def _calibrate(out_of_fold: Predictions | None, seed: int) -> Calibration:
    """Fit a temperature on predictions out of fold, and keep it where those fitted on other patients lessen the error."""
    nothing = Calibration(1.0, float("nan"), float("nan"))
    if out_of_fold is None:
        return nothing
    labels, said = out_of_fold.labels, out_of_fold.probabilities
    halves = patient_folds(labels, out_of_fold.patients, 2, seed=seed)
    if halves is None:
        return nothing
    calibrated = np.empty_like(said)
    for half in (0, 1):
        inside = halves == half
        calibrated[inside] = with_temperature(said[inside], fit_temperature(labels[~inside], said[~inside]))
    before, after = (expected_calibration_error(labels, one) for one in (said, calibrated))
    return Calibration(fit_temperature(labels, said) if after < before else 1.0, before, after)
