"""Whether an ensemble is really better: every method fitted on some patients and judged on others, beside the best member."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from automl_cxr.data.patient_folds import patient_folds
from automl_cxr.ensemble.build import METHODS, expand_weights, methods_for
from automl_cxr.ensemble.genetic_settings import DEFAULT_SETTINGS, GeneticSettings
from automl_cxr.ensemble.objective import MACRO_F1, Objective
from automl_cxr.ensemble.weight_scoring import WeightScorer
from automl_cxr.scoring.intervals import Interval, paired_differences
from automl_cxr.scoring.predictions import Predictions

_FOLDS = (5, 3, 2)  # the first number that leaves each class outside every fold is taken
SIMPLEST = "best"


@dataclass(frozen=True, eq=False)
class MethodScore:
    """A method on images that it was not fitted on.

    Attributes:
        predictions: What it said out of fold.
        score: The objective's metric of these.
        gain: How much better than the best member, which was chosen inside the folds as well; above 0 is better, whichever
            the metric's direction.
        interval: 95 % bootstrap interval by patient of the gain, on the same resamples for both.
    """

    predictions: Predictions
    score: float
    gain: float
    interval: Interval

    @property
    def is_distinguishable(self) -> bool:
        """Whether the gain is above 0 by more than chance."""
        return self.interval.low > 0


@dataclass(frozen=True, eq=False)
class MethodComparison:
    """Every method out of fold.

    Attributes:
        n_folds: Folds, by patient.
        methods: By name, from the simplest.
        recommended: For each method the simplest one that it cannot be shown to be better than; itself if there is none.
    """

    n_folds: int
    methods: Mapping[str, MethodScore]
    recommended: Mapping[str, str]


def compare_methods_out_of_fold(
    members: Sequence[Predictions],
    *,
    objective: Objective = MACRO_F1,
    settings: GeneticSettings = DEFAULT_SETTINGS,
    methods: Sequence[str] | None = None,
) -> MethodComparison | None:
    """Fit every method inside folds by patient and judge it on the fold left out.

    Args:
        members: Labelled predictions of each member, of the same images.
        objective: What rules are chosen by and judged by.
        settings: Of the genetic algorithm.
        methods: Names in ``METHODS``; by default all that there are for as many members. The best member is always judged.

    Returns:
        None where there are too few patients for folds: a class has but one.

    Raises:
        UsageError: If there is no member, or the objective misses its normal class.
        DataError: If members differ in images, labels or classes, or a label is unknown.
    """
    ballots, images = expand_weights(members, objective)
    folds = _folds(ballots, images.patients, settings.seed)
    if folds is None:
        return None
    wanted = [name for name in methods_for(len(members)) if methods is None or name in (SIMPLEST, *methods)]
    said = {name: _predict_out_of_fold(name, ballots, images, folds, settings) for name in wanted}
    gains = _gains(said, objective, settings.seed)
    judged = {
        name: MethodScore(one, objective.score(one.labels, one.probabilities), *gains[name][SIMPLEST])
        for name, one in said.items()
    }
    recommended = {name: _simplest_equal(name, gains[name]) for name in wanted}
    return MethodComparison(int(folds.max()) + 1, judged, recommended)


def _folds(ballots: WeightScorer, patients: Sequence[str], seed: int) -> np.ndarray | None:
    dealt = (patient_folds(ballots.labels, patients, n_folds, seed=seed) for n_folds in _FOLDS)
    return next((folds for folds in dealt if folds is not None), None)


def _predict_out_of_fold(
    method: str, ballots: WeightScorer, images: Predictions, folds: np.ndarray, settings: GeneticSettings
) -> Predictions:
    probabilities = np.empty((ballots.n_images, ballots.n_classes), dtype=np.float32)
    patients = np.asarray(images.patients, dtype=np.str_)
    for fold in range(int(folds.max()) + 1):
        inside = folds == fold
        rule = METHODS[method].fit(ballots.take(~inside), tuple(patients[~inside].tolist()), settings)
        probabilities[inside] = rule.combine(ballots.probabilities[:, inside])
    return replace(images, probabilities=probabilities)


def _gains(said: Mapping[str, Predictions], objective: Objective, seed: int) -> dict[str, dict[str, tuple[float, Interval]]]:
    """Tell for each method how much better than each other it is, with a 95 % interval by patient; above 0 is better."""
    table = paired_differences(
        list(said.values()),
        metric=objective.name,
        seed=seed,
        normal_class=objective.normal_class,
    )
    return {
        name: {other: _upwards(*pair, objective.sign) for other, pair in zip(said, row, strict=True)}
        for name, row in zip(said, table, strict=True)
    }


def _upwards(difference: float, interval: Interval, sign: int) -> tuple[float, Interval]:
    """Convert a difference so that above 0 is better."""
    if sign > 0:
        return difference, interval
    return -difference, Interval(-interval.high, -interval.low, interval.level)


def _simplest_equal(method: str, gains: Mapping[str, tuple[float, Interval]]) -> str:
    """Find the simplest method that this one is not distinguishably better than."""
    simpler = list(gains)[: list(gains).index(method)]
    return next((name for name in simpler if not gains[name][1].low > 0), method)
