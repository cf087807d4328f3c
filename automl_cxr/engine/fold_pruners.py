"""Early stopping over folds: a trial reports the score of each fold, and folds differ in how hard they are.

So a trial is never compared over other folds than those that it has been through.
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

_LARGEST_P = 0.1  # Optuna's own
_JUST_ABOVE = 1.001  # Optuna stops below its threshold, and the smallest p of few folds is to be enough


def _wilcoxon(folds: int) -> optuna.pruners.BasePruner:
    """Stop a trial whose folds are worse than the same folds of the best trial (Wilcoxon's signed-rank test).

    Of n pairs the smallest p is 2**-n, which for a usual number of folds is above any usual threshold. The threshold is
    therefore such that half of the folds, if all of them are worse, are enough: 2 of 3, 3 of 5, 4 of 8.
    """
    threshold = max(_LARGEST_P, _JUST_ABOVE * 0.5 ** math.ceil(folds / 2))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return optuna.pruners.WilcoxonPruner(p_threshold=threshold)


class FoldMedianPruner(optuna.pruners.BasePruner):
    """Stop a trial whose mean over its folds so far is worse than the median of what COMPLETE trials had over the same.

    Optuna's ``MedianPruner`` takes the best report of a trial, which over folds is that of the easiest.

    Args:
        n_startup_trials: COMPLETE trials that there must be.
        n_startup_folds: Folds that a trial must have been through.
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
"""Pruners by name, each made from the folds of a trial."""
