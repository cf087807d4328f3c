"""Building an ensemble from members' predictions: fit, comparison of methods out of fold, calibration and interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from automl_cxr.data.patient_folds import patient_folds
from automl_cxr.ensemble.build import (
    AUTO,
    DEFAULT_METHOD,
    FittedEnsemble,
    build_weight_scorer,
    check_method,
    fit_methods,
    methods_for,
)
from automl_cxr.ensemble.combiner_protocol import Combiner
from automl_cxr.ensemble.combiners import CalibratedCombiner
from automl_cxr.ensemble.finding_combiners import CalibratedFindings
from automl_cxr.ensemble.genetic_settings import DEFAULT_SETTINGS, GeneticSettings
from automl_cxr.ensemble.member_selection import near_duplicates
from automl_cxr.ensemble.method_comparison import SIMPLEST, MethodComparison, compare_fits_out_of_fold
from automl_cxr.ensemble.objective import MACRO_F1, Objective
from automl_cxr.scoring import calibration as class_calibration
from automl_cxr.scoring import finding_calibration
from automl_cxr.scoring.aims import DEFAULT_CONFIDENCE, Request
from automl_cxr.scoring.intervals import Interval, bootstrap_interval
from automl_cxr.scoring.metrics import METRICS
from automl_cxr.scoring.operating_points import OperatingPoint, check_requests, choose_operating_points
from automl_cxr.scoring.predictions import Predictions
from automl_cxr.scoring.thresholds import choose_thresholds

WITHOUT_COMPARISON = "average"
"""The method that ``AUTO`` uses if there are too few patients for a comparison out of fold: it has no fitted weights."""


@dataclass(frozen=True)
class Calibration:
    """A temperature, and its effect on images that it was not fitted on.

    Attributes:
        temperature: Divisor of the logits; 1 if no temperature reduces the error, or there are too few patients for folds.
        error_before: Expected calibration error of the ensemble out of fold; NaN without folds.
        error_after: The same with temperatures that were fitted on other patients.
    """

    temperature: float
    error_before: float
    error_after: float


@dataclass(frozen=True, eq=False)
class Combination:
    """An ensemble in memory, before it is saved.

    Attributes:
        names: Names of the members, in order.
        method: A name in ``METHODS``.
        is_chosen: Whether the method was chosen by its out-of-fold score (``AUTO``).
        objective: The metric that the ensemble was fitted for.
        combiner: Combines the members, with the temperature.
        member_scores: Each member's score by the objective's metric.
        fitted: The combiner of every method, and its score on the images that it was fitted on.
        comparison: The out-of-fold results of every method; None where a class has only one patient.
        calibration: The temperature.
        duplicates: Pairs of members with nearly equal errors: (name, name, correlation of their errors).
        predictions: The ensemble's predictions for the images that it was fitted on. For findings, their thresholds were chosen
            out of fold where there are folds.
        interval: 95 % bootstrap interval by patient of the method's score, out of fold where there are folds.
        operating_points: Thresholds for stated aims, chosen out of fold where there are folds.
    """

    names: tuple[str, ...]
    method: str
    is_chosen: bool
    objective: Objective
    combiner: Combiner
    member_scores: tuple[float, ...]
    fitted: Mapping[str, FittedEnsemble]
    comparison: MethodComparison | None
    calibration: Calibration
    duplicates: tuple[tuple[str, str, float], ...]
    predictions: Predictions
    interval: Interval
    operating_points: tuple[OperatingPoint, ...] = ()

    @property
    def recommended(self) -> str:
        """The simplest method that this one is not distinguishably better than; the method itself if there is none.

        A method that was chosen by its out-of-fold score is recommended itself.
        """
        return self.method if self.comparison is None or self.is_chosen else self.comparison.recommended[self.method]

    @property
    def used(self) -> tuple[int, ...]:
        """Positions of the members whose weight is not 0."""
        return tuple(np.flatnonzero(self.combiner.shares > 0).tolist())

    def without_unused_members(self) -> Combination:
        """Return the same ensemble without the members whose weight is 0. The scores of the methods do not change."""
        return replace(
            self,
            names=tuple(self.names[position] for position in self.used),
            member_scores=tuple(self.member_scores[position] for position in self.used),
            combiner=self.combiner.take(self.used),
        )

    def methods_table(self) -> list[dict[str, Any]]:
        """Return one row for each method: score on the fitted images, score out of fold, and gain over the best member."""
        rows = []
        for name, fitted in self.fitted.items():
            row: dict[str, Any] = {"method": name, "fitted": fitted.score}
            if self.comparison is not None:
                result = self.comparison.methods[name]
                row |= {"out_of_fold": result.score, "gain": result.gain}
                row |= {"gain_low": result.interval.low, "gain_high": result.interval.high}
            rows.append(row)
        return rows

    def verdict(self) -> str:
        """Describe the ensemble's gain and the recommended method in one or two sentences."""
        name, metric = self.method, self.objective.name
        if self.comparison is None:
            return (
                f"{name}: {metric} {self.fitted[name].score:.4f} on the images that it was fitted on, which is optimistic. "
                "The score on other patients is unknown, because a class has only one patient."
            )
        result = self.comparison.methods[name]
        if self.is_chosen:
            return (
                f"Use {name}: {metric} {result.score:.4f} out of fold ({self.interval.low:.4f} to {self.interval.high:.4f}), "
                f"{result.gain:+.4f} against the best member ({result.interval.low:+.4f} to {result.interval.high:+.4f}). "
                "It is the simplest method within one standard error of the best."
            )
        sentence = (
            f"{name}: {metric} {result.score:.4f} out of fold ({self.interval.low:.4f} to {self.interval.high:.4f}), "
            f"{result.gain:+.4f} against the best member ({result.interval.low:+.4f} to {result.interval.high:+.4f})."
        )
        if self.recommended == name:
            return sentence if name == SIMPLEST else f"{sentence} No simpler method is as good."
        if not result.is_distinguishable:
            return f"{sentence} The gain is not distinguishable from 0: prefer {SIMPLEST}, the best member alone."
        return f"{sentence} {self.recommended} is simpler and not distinguishably worse: prefer {self.recommended}."


def combine_members(
    members: Sequence[Predictions],
    *,
    names: Sequence[str],
    method: str = DEFAULT_METHOD,
    objective: Objective = MACRO_F1,
    settings: GeneticSettings = DEFAULT_SETTINGS,
    compared: Sequence[str] | None = None,
    aims: Sequence[Request] = (),
    confidence: float = DEFAULT_CONFIDENCE,
) -> Combination:
    """Fit an ensemble by a method, compare it out of fold with other methods, and calibrate it.

    Args:
        members: Labelled predictions of each member, on images that no member was trained on.
        names: Names of the members.
        method: ``AUTO``, or a name in ``METHODS``.
        objective: The metric to optimise.
        settings: Settings of the genetic algorithm; folds and resamples use the same seed.
        compared: Methods to compare, preferred ones first, including "best" and ``method``; by default all, simplest first.
        aims: Aims of operating points. The thresholds of findings without an aim maximise F1.
        confidence: Probability with which new patients meet an aim; see ``scoring.operating_points``.

    Raises:
        UnknownNameError: There is no such method.
        UsageError: There is no member, the method needs another number of members, the objective needs a normal class and has
            none, or an aim cannot be reached.
        DataError: Members differ in images, labels or classes, or a label is unknown.
    """
    check_method(method, len(members))
    scorer, images = build_weight_scorer(members, objective, names=names)
    check_requests(images, aims, normal_class=objective.normal_class, confidence=confidence)  # fitting may take minutes
    fitted = fit_methods(methods_for(len(members)) if compared is None else compared, scorer, images.patients, settings)
    comparison = compare_fits_out_of_fold(
        scorer,
        images,
        settings=settings,
        methods=compared,
        fitted={name: one.combiner for name, one in fitted.items()},
    )
    is_chosen = method == AUTO
    if is_chosen:
        method = WITHOUT_COMPARISON if comparison is None else comparison.within_one_error
    combiner = fitted[method].combiner
    out_of_fold = None if comparison is None else comparison.methods[method].predictions
    calibration = _calibrate(out_of_fold, settings.seed)
    if calibration.temperature != 1:
        calibrated = CalibratedFindings if images.is_multilabel else CalibratedCombiner
        combiner = calibrated(combiner, calibration.temperature)
    predictions = images.with_probabilities(combiner.combine(scorer.probabilities))
    unseen = predictions if out_of_fold is None else _with_temperature(out_of_fold, calibration.temperature)
    points = choose_operating_points(unseen, aims, normal_class=objective.normal_class, confidence=confidence)
    if images.is_multilabel:
        predictions = predictions.with_probabilities(predictions.probabilities, _thresholds_of_findings(unseen, points))
    pairs = near_duplicates(scorer)
    return Combination(
        names=tuple(names),
        method=method,
        is_chosen=is_chosen,
        objective=objective,
        combiner=combiner,
        member_scores=tuple(objective.score(images.labels, one) for one in scorer.probabilities),
        fitted=fitted,
        comparison=comparison,
        calibration=calibration,
        duplicates=tuple((names[one], names[other], correlation) for one, other, correlation in pairs),
        predictions=predictions,
        interval=bootstrap_interval(
            out_of_fold or predictions, metric=objective.name, seed=settings.seed, normal_class=objective.normal_class
        ),
        operating_points=points,
    )


def _calibrate(out_of_fold: Predictions | None, seed: int) -> Calibration:
    """Fit a temperature on out-of-fold predictions. Use it only if temperatures fitted on other patients reduce the error."""
    uncalibrated = Calibration(1.0, float("nan"), float("nan"))
    if out_of_fold is None:
        return uncalibrated
    labels, probabilities = out_of_fold.labels, out_of_fold.probabilities
    scaling = finding_calibration if out_of_fold.is_multilabel else class_calibration
    halves = patient_folds(labels, out_of_fold.patients, 2, seed=seed)
    if halves is None:
        return uncalibrated
    calibrated = np.empty_like(probabilities)
    for half in (0, 1):
        inside = halves == half
        temperature = scaling.fit_temperature(labels[~inside], probabilities[~inside])
        calibrated[inside] = scaling.with_temperature(probabilities[inside], temperature)
    error = METRICS["calibration_error"].function
    before, after = (error(labels, one, None) for one in (probabilities, calibrated))
    return Calibration(scaling.fit_temperature(labels, probabilities) if after < before else 1.0, before, after)


def _with_temperature(predictions: Predictions, temperature: float) -> Predictions:
    """Apply a temperature to predictions."""
    if temperature == 1:
        return predictions
    scaling = finding_calibration if predictions.is_multilabel else class_calibration
    return replace(predictions, probabilities=scaling.with_temperature(predictions.probabilities, temperature))


def _thresholds_of_findings(predictions: Predictions, points: Sequence[OperatingPoint]) -> np.ndarray:
    """Return the thresholds of the operating points, and for other findings those with the largest F1, float64 (k,)."""
    thresholds = choose_thresholds(predictions.labels, predictions.probabilities)
    for point in points:
        thresholds[predictions.classes.index(point.name)] = point.threshold
    return thresholds
