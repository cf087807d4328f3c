"""Asynchronous successive halving (Li et al. 2020, arXiv:1810.05934), decided from the scores that stand in the record.

Optuna's ``SuccessiveHalvingPruner`` decides the same. It writes an attribute on a trial at every rung, and reads all trials of
the study at every rung, so that what a trial costs grows with the study. Here the scores of a rung are kept in order, only
trials that have changed are read again, nothing is written, and another process reads the same rungs from the same record.
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
"""One of so many goes on; each rung has as many times the epochs of the one before."""


class SuccessiveHalving(optuna.pruners.BasePruner):
    """Stops a trial that is not among the best third of those that have reached its rung, itself included.

    A trial is judged at a rung once: by its score after the rung's epoch, or, while that is NaN, by the first later one that
    is not. NaN stops a trial that has not passed its rung. Of two the better one goes on.

    It remembers what it has read: use one for one study.

    Args:
        first_rung: Epoch of the first rung; the others are at 3, 9, ... times as many.
    """

    def __init__(self, first_rung: int) -> None:
        self._first_rung = first_rung
        self._rungs: dict[int, list[float]] = {}  # by epoch: the scores of all that reached it, in order
        self._n_reached: dict[int, int] = {}  # rungs that each trial reached, by number
        self._read: dict[int, FrozenTrial] = {}  # trials that had not ended, as they were when they were read
        self._n_read = 0

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """Tell whether a trial is to be stopped at its last report, which must stand in the study."""
        epoch, scores = trial.last_step, trial.intermediate_values
        if epoch is None:
            return False
        rungs = takewhile(lambda rung: rung <= epoch, epochs_of_rungs(self._first_rung))
        reached = [(rung, _epoch_at(scores, rung)) for rung in rungs]
        if any(at is None for _, at in reached):
            return True
        due = [rung for rung, at in reached if at == epoch]
        if due:
            self._catch_up(study.get_trials(deepcopy=False))
        return not all(self._is_promoted(scores[epoch], rung, study.direction) for rung in due)

    def _is_promoted(self, score: float, rung: int, direction: StudyDirection) -> bool:
        rivals = self._rungs[rung]
        n_promoted = max(1, len(rivals) // REDUCTION)
        return score >= rivals[-n_promoted] if direction is StudyDirection.MAXIMIZE else score <= rivals[n_promoted - 1]

    def _catch_up(self, trials: Sequence[FrozenTrial]) -> None:
        for number in [*self._read, *range(self._n_read, len(trials))]:
            trial = trials[number]
            if self._read.get(number) is not trial:  # a trial that was written to is another object
                self._enter(trial)
            if trial.state.is_finished():
                self._read.pop(number, None)
            else:
                self._read[number] = trial
        self._n_read = len(trials)

    def _enter(self, trial: FrozenTrial) -> None:
        """Note the scores of a trial at the rungs that it has reached since it was read last."""
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
    """Give the epochs of the rungs from one on, without end."""
    rung = first_rung
    while True:
        yield rung
        rung *= REDUCTION


def _epoch_at(scores: Mapping[int, float], rung: int) -> int | None:
    """Give the epoch whose score counts at a rung; None where there is none yet."""
    if rung in scores and not math.isnan(scores[rung]):
        return rung
    return min((epoch for epoch, score in scores.items() if epoch > rung and not math.isnan(score)), default=None)
