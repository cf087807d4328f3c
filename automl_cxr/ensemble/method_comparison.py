"""Comparison of ensemble methods out of fold: every method is fitted on some patients and scored on others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from automl_cxr.data.patient_folds import patient_folds
from automl_cxr.ensemble.build import build_weight_scorer, fit_combiners, methods_for
from automl_cxr.ensemble.combiner_protocol import Combiner
from automl_cxr.ensemble.common_scale import match_scale
from automl_cxr.ensemble.genetic_settings import DEFAULT_SETTINGS, GeneticSettings
from automl_cxr.ensemble.objective import MACRO_F1, Objective
from automl_cxr.ensemble.weight_scorer_base import BaseWeightScorer
from automl_cxr.scoring.intervals import Interval, paired_differences
from automl_cxr.scoring.predictions import Predictions

_MANY_IMAGES = 20_000  # of findings: half of them determine the weights as well as four fifths
_FOLDS = (5, 3, 2)  # the first number with which every class has images outside each fold is used
SIMPLEST = "best"
_ERRORS_OF_INTERVAL = 2 * 1.96  # width of a 95 % interval in standard errors


@dataclass(frozen=True, eq=False)
class MethodScore:
    """The result of a method on images that it was not fitted on.

    Attributes:
        predictions: The out-of-fold predictions.
        score: The objective's metric of these predictions.
        gain: Improvement over the best member, which was chosen inside the folds as well; above 0 is better, regardless of the
            metric's direction.
        interval: 95 % bootstrap interval of the gain by patient, on the same resamples for both.
    """

    predictions: Predictions
    score: float
    gain: float
    interval: Interval

    @property
    def is_distinguishable(self) -> bool:
        """Whether the interval of the gain lies above 0."""
        return self.interval.low > 0


@dataclass(frozen=True, eq=False)
class MethodComparison:
    """The out-of-fold results of all methods.

    Attributes:
        n_folds: Number of folds by patient.
        methods: Results by method name, in the order of the comparison: simplest first by default.
        recommended: For each method, the simplest method that it is not distinguishably better than; the method itself if
            there is none.
        within_one_error: The first method whose score is at most one standard error of the difference below the best.
    """

    n_folds: int
    methods: Mapping[str, MethodScore]
    recommended: Mapping[str, str]
    within_one_error: str


def compare_methods_out_of_fold(
    members: Sequence[Predictions],
    *,
    objective: Objective = MACRO_F1,
    settings: GeneticSettings = DEFAULT_SETTINGS,
    methods: Sequence[str] | None = None,
    fitted: Mapping[str, Combiner] | None = None,
) -> MethodComparison | None:
    """Fit every method inside folds by patient and score it on the fold left out.

    Args:
        members: Labelled predictions of each member, of the same images.
        objective: The metric for fitting and scoring.
        settings: Settings of the genetic algorithm; the folds and resamples use its seed.
        methods: Names in ``METHODS``, the preferred ones first; by default all methods for this number of members, simplest
            first. The best member is always included.
        fitted: The combiner of each method that was fitted on all images. For findings, the predictions of all folds are
            transformed to its scale (``common_scale``); without it, each fold keeps its own scale.

    Returns:
        None where a class has too few patients for two folds.

    Raises:
        UsageError: There is no member, or the objective needs a normal class and has none.
        DataError: Members differ in images, labels or classes, or a label is unknown.
    """
    return compare_fits_out_of_fold(*build_weight_scorer(members, objective), settings=settings, methods=methods, fitted=fitted)


def compare_fits_out_of_fold(
    scorer: BaseWeightScorer,
    images: Predictions,
    *,
    settings: GeneticSettings = DEFAULT_SETTINGS,
    methods: Sequence[str] | None = None,
    fitted: Mapping[str, Combiner] | None = None,
) -> MethodComparison | None:
    """Compare methods as ``compare_methods_out_of_fold``, with the results of ``build_weight_scorer``."""
    objective = scorer.objective
    folds = _folds(scorer, images.patients, settings.seed)
    if folds is None:
        return None
    names = methods_for(scorer.n_members) if methods is None else tuple(dict.fromkeys((*methods, SIMPLEST)))
    out_of_fold = _predict_out_of_fold(names, scorer, images, folds, settings, fitted or {})
    gains = _gains(out_of_fold, objective, settings.seed)
    scores = {
        name: MethodScore(predictions, objective.score(predictions.labels, predictions.probabilities), *gains[name][SIMPLEST])
        for name, predictions in out_of_fold.items()
    }
    recommended = {name: _simplest_equal(name, gains[name]) for name in names}
    return MethodComparison(int(folds.max()) + 1, scores, recommended, _simplest_within_one_error(scores, gains))


def _folds(scorer: BaseWeightScorer, patients: Sequence[str], seed: int) -> np.ndarray | None:
    is_large = scorer.labels.ndim == 2 and scorer.n_images > _MANY_IMAGES
    numbers = _FOLDS[-1:] if is_large else _FOLDS
    candidates = (patient_folds(scorer.labels, patients, n_folds, seed=seed) for n_folds in numbers)
    return next((folds for folds in candidates if folds is not None), None)


def _predict_out_of_fold(
    methods: Sequence[str],
    scorer: BaseWeightScorer,
    images: Predictions,
    folds: np.ndarray,
    settings: GeneticSettings,
    fitted: Mapping[str, Combiner],
) -> dict[str, Predictions]:
    probabilities = {
        method: np.empty((scorer.n_images, scorer.n_classes), dtype=np.float32) for method in dict.fromkeys(methods)
    }
    patients = np.asarray(images.patients, dtype=np.str_)
    for fold in range(int(folds.max()) + 1):
        inside = folds == fold
        combiners = fit_combiners(methods, scorer.take(~inside), tuple(patients[~inside].tolist()), settings)
        of_fold, of_others = scorer.probabilities[:, inside], scorer.probabilities[:, ~inside]
        for method, combiner in combiners.items():
            combined = combiner.combine(of_fold)
            if images.is_multilabel and method in fitted:
                combined = match_scale(combined, combiner.combine(of_others), fitted[method].combine(of_others))
            probabilities[method][inside] = combined
    return {method: images.with_probabilities(one) for method, one in probabilities.items()}


def _gains(
    out_of_fold: Mapping[str, Predictions], objective: Objective, seed: int
) -> dict[str, dict[str, tuple[float, Interval]]]:
    """Compute the gain of each method over each other method, with its 95 % interval by patient; above 0 is better."""
    table = paired_differences(
        list(out_of_fold.values()),
        metric=objective.name,
        seed=seed,
        normal_class=objective.normal_class,
    )
    return {
        name: {other: _higher_is_better(*pair, objective.sign) for other, pair in zip(out_of_fold, row, strict=True)}
        for name, row in zip(out_of_fold, table, strict=True)
    }


def _higher_is_better(difference: float, interval: Interval, sign: int) -> tuple[float, Interval]:
    """Convert a difference so that above 0 is better."""
    if sign > 0:
        return difference, interval
    return -difference, Interval(-interval.high, -interval.low, interval.level)


def _simplest_within_one_error(
    scores: Mapping[str, MethodScore], gains: Mapping[str, Mapping[str, tuple[float, Interval]]]
) -> str:
    """Find the simplest method that the best one exceeds by at most one standard error (Breiman et al. 1984).

    The standard error is estimated from the 95 % interval of the difference by patient.
    """
    best = max(scores, key=lambda name: scores[name].gain)

    def is_within(name: str) -> bool:
        gain, interval = gains[best][name]
        return gain <= (interval.high - interval.low) / _ERRORS_OF_INTERVAL

    return next(name for name in scores if name == best or is_within(name))


def _simplest_equal(method: str, gains: Mapping[str, tuple[float, Interval]]) -> str:
    """Find the simplest method that this one is not distinguishably better than."""
    simpler = list(gains)[: list(gains).index(method)]
    return next((name for name in simpler if not gains[name][1].low > 0), method)
