"""Pruners for cross-validated trials, which report the score of each fold.

Folds differ in difficulty, so trials are compared only on the folds that the current trial has completed.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping

import numpy as np
import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

_MIN_THRESHOLD = 0.1  # Optuna's default
_THRESHOLD_FACTOR = 1.001  # Optuna prunes if p is below the threshold, so the smallest possible p must be below it


def _wilcoxon(folds: int) -> optuna.pruners.BasePruner:
    """Create a pruner that stops a trial whose folds are worse than those of the best trial (Wilcoxon signed-rank test).

    The smallest p of n pairs is 2**-n, which is above the usual thresholds for the usual numbers of folds. The threshold is
    therefore chosen so that half of the folds are enough if all of them are worse: 2 of 3, 3 of 5, 4 of 8.
    """
    threshold = max(_MIN_THRESHOLD, _THRESHOLD_FACTOR * 0.5 ** math.ceil(folds / 2))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return optuna.pruners.WilcoxonPruner(p_threshold=threshold)


class FoldMedianPruner(optuna.pruners.BasePruner):
    """A pruner that stops a trial whose mean over its folds is below the median of COMPLETE trials over the same folds.

    Optuna's ``MedianPruner`` uses the best report of a trial, which would be the report of the easiest fold.

    Args:
        n_startup_trials: Number of COMPLETE trials that are needed.
        n_startup_folds: Number of folds that a trial must have completed.
    """

    def __init__(self, *, n_startup_trials: int = 4, n_startup_folds: int = 2) -> None:
        self._n_startup_trials = n_startup_trials
        self._n_startup_folds = n_startup_folds

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        own = trial.intermediate_values
        others = [
            np.mean([scores[fold] for fold in own])
            for scores in (
                other.intermediate_values for other in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
            )
            if scores.keys() >= own.keys()
        ]
        if len(own) < self._n_startup_folds or len(others) < self._n_startup_trials:
            return False
        mean, median = np.mean([*own.values()]), np.median(others)
        return bool(mean < median if study.direction is StudyDirection.MAXIMIZE else mean > median)


FOLD_PRUNERS: Mapping[str, Callable[[int], optuna.pruners.BasePruner]] = {
    "wilcoxon": _wilcoxon,
    "median": lambda _: FoldMedianPruner(),
    "none": lambda _: optuna.pruners.NopPruner(),
}
"""Functions that create the pruners, by name, from the number of folds."""
