"""Asynchronous successive halving (Li et al. 2020, arXiv:1810.05934), computed from the scores of the study.

Optuna's ``SuccessiveHalvingPruner`` makes the same decisions, but writes an attribute to a trial and reads all trials of the
study at every rung, so the cost of a trial grows with the study. Here the scores of each rung are stored in a sorted list, only
changed trials are read again, and nothing is written. Another process computes the same rungs from the same study.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import takewhile

import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial

REDUCTION = 3
"""One of this many trials continues; each rung has this many times the epochs of the rung before."""


class SuccessiveHalving(optuna.pruners.BasePruner):
    """A pruner that stops a trial unless it is among the best third of the trials that have reached its rung, itself included.

    A trial is compared once at each rung: by its score after the rung's epoch or, if that is NaN, by its first later score that
    is not NaN. A trial with NaN that has not passed its rung is stopped. If two trials have reached a rung, the better one
    continues.

    The pruner caches the trials that it has read, so each study needs its own.

    Args:
        first_rung: Epoch of the first rung; the others are at 3, 9, ... times this epoch.
    """

    def __init__(self, first_rung: int) -> None:
        self._first_rung = first_rung
        self._rungs: dict[int, list[float]] = {}  # by epoch: the sorted scores of all trials that reached it
        self._n_reached: dict[int, int] = {}  # number of rungs that each trial reached, by trial number
        self._read: dict[int, FrozenTrial] = {}  # trials that were unfinished when they were read
        self._n_read = 0

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """Return whether a trial should be stopped at its last report, which must be stored in the study."""
        epoch, scores = trial.last_step, trial.intermediate_values
        if epoch is None:
            return False
        rungs = takewhile(lambda rung: rung <= epoch, epochs_of_rungs(self._first_rung))
        reached = [(rung, _epoch_at(scores, rung)) for rung in rungs]
        if any(at is None for _, at in reached):
            return True
        new_rungs = [rung for rung, at in reached if at == epoch]
        if new_rungs:
            self._update(study.get_trials(deepcopy=False))
        return not all(self._is_promoted(scores[epoch], rung, study.direction) for rung in new_rungs)

    def _is_promoted(self, score: float, rung: int, direction: StudyDirection) -> bool:
        scores_at_rung = self._rungs[rung]
        n_promoted = max(1, len(scores_at_rung) // REDUCTION)
        return (
            score >= scores_at_rung[-n_promoted]
            if direction is StudyDirection.MAXIMIZE
            else score <= scores_at_rung[n_promoted - 1]
        )

    def _update(self, trials: Sequence[FrozenTrial]) -> None:
        for number in [*self._read, *range(self._n_read, len(trials))]:
            trial = trials[number]
            if self._read.get(number) is not trial:  # a changed trial is a new object
                self._add_scores(trial)
            if trial.state.is_finished():
                self._read.pop(number, None)
            else:
                self._read[number] = trial
        self._n_read = len(trials)

    def _add_scores(self, trial: FrozenTrial) -> None:
        """Add the scores of a trial at the rungs that it has reached since it was last read."""
        n_reached = self._n_reached.pop(trial.number, 0)
        scores = trial.intermediate_values
        for rung in epochs_of_rungs(self._first_rung * REDUCTION**n_reached):
            epoch = _epoch_at(scores, rung)
            if epoch is None:
                break
            bisect.insort(self._rungs.setdefault(rung, []), scores[epoch])
            n_reached += 1
        if not trial.state.is_finished():
            self._n_reached[trial.number] = n_reached


def epochs_of_rungs(first_rung: int) -> Iterator[int]:
    """Yield the epochs of all rungs from a given one on."""
    rung = first_rung
    while True:
        yield rung
        rung *= REDUCTION


def _epoch_at(scores: Mapping[int, float], rung: int) -> int | None:
    """Return the epoch whose score counts at a rung; None if there is none yet."""
    if rung in scores and not math.isnan(scores[rung]):
        return rung
    return min((epoch for epoch, score in scores.items() if epoch > rung and not math.isnan(score)), default=None)
