"""The limits of a search, and the check whether they are reached."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from automl_cxr.engine.parameters import Value
from automl_cxr.engine.protocol import Proposal
from automl_cxr.records import TrialRecord, TrialState
from automl_cxr.study.store import StudyStore
from automl_cxr.study.trial_times import TrialTimes


@dataclass(frozen=True, kw_only=True)
class Budget:
    """The limits of a search. None means no limit. The search ends at the first limit that is reached.

    Attributes:
        n_trials: Total number of trials of the study, in any state.
        seconds: Wall time of this search in seconds.
        keep_models: Number of best trials whose models are kept on disk.
        n_epochs: Total number of epochs of all trials of the study, after which no further trial starts. The remaining epochs
            of this search's running trials are counted as well. Therefore the total exceeds the limit by less than one trial.
        target: Score at which the search ends.
        disk_bytes: Maximum size of models and checkpoints in bytes. If it is exceeded, models are removed, the worst first.
    """

    n_trials: int | None
    seconds: float | None
    keep_models: int
    n_epochs: int | None = None
    target: float | None = None
    disk_bytes: int | None = None


_RESERVED_SHARE, _RESERVED_SECONDS = 0.04, 60.0
_LEAST_SHARE = 0.5  # of the wall time that trials have, even if the preparation of the images took longer


def reserved_seconds(seconds: float) -> float:
    """Return the part of the wall time in seconds that is kept for the ensemble at the end of a search."""
    return min(_RESERVED_SHARE * seconds, _RESERVED_SECONDS)


def trial_deadline(seconds: float, started: float) -> float:
    """Return the ``time.monotonic()`` at which the trials of a search should have ended.

    Args:
        seconds: Wall time of the search, with the preparation of the images.
        started: ``time.monotonic()`` at its start.
    """
    return max(started + seconds, time.monotonic() + _LEAST_SHARE * seconds) - reserved_seconds(seconds)


class BudgetCheck:
    """The check of a budget during a search.

    Args:
        budget: The limits.
        store: The study.
        deadline: ``time.monotonic()`` at which the trials should have ended. [default: after the wall time of the budget]
        times: Expected times of trials.

    Attributes:
        is_target_reached: Whether an eligible trial has reached the target score.
    """

    def __init__(
        self, budget: Budget, store: StudyStore, *, deadline: float | None = None, times: TrialTimes | None = None
    ) -> None:
        self._budget = budget
        self._store = store
        self._epochs, self._folds = store.spec.epochs, store.spec.folds
        if deadline is None and budget.seconds is not None:
            deadline = time.monotonic() + budget.seconds
        self._deadline = deadline
        self._times = times or TrialTimes(store)
        self.is_target_reached = False
        for record in store.eligible()[:1]:
            self.add(record)

    def add(self, record: TrialRecord) -> None:
        """Compare the score of a trial that has ended with the target."""
        is_counted = record.state is TrialState.COMPLETE and record.is_feasible and self._budget.target is not None
        if is_counted and not self._store.is_better(self._budget.target, record.score):  # type: ignore[arg-type]
            self.is_target_reached = True

    def seconds_left(self) -> float | None:
        """Return the remaining wall time in seconds, negative after the deadline; None for no limit."""
        return None if self._deadline is None else self._deadline - time.monotonic()

    def seconds_to_kill(self) -> float | None:
        """Return the seconds after which the processes of trials are killed: at the end of the wall time of the budget.

        None for no limit, and while the study has no result, because the search must not end without any.
        """
        seconds = self.seconds_left()
        if seconds is None or self._budget.seconds is None or not self._store.eligible():
            return None
        return max(0.0, seconds) + reserved_seconds(self._budget.seconds)

    def fits(self, values: Mapping[str, Value]) -> bool:
        """Return whether a configuration is expected to end before the deadline; True if its time is unknown."""
        seconds = self.seconds_left()
        expected = None if seconds is None else self._times.estimate(values)
        return seconds is None or expected is None or expected <= seconds

    def _is_too_late(self) -> bool:
        """Return whether no trial can end before the deadline. A fold has no score before it ends, unlike an epoch."""
        seconds = self.seconds_left()
        shortest = self._times.shortest() if seconds is not None and self._folds else None
        return seconds is not None and shortest is not None and shortest > seconds

    def is_spent(self, running: Iterable[Proposal]) -> bool:
        """Return whether the trials or epochs of the study are used up, or the time does not suffice for another trial.

        Args:
            running: The running trials of this search.
        """
        budget = self._budget
        if self._is_too_late():
            return True
        if budget.n_trials is not None and self._store.n_started() >= budget.n_trials:
            return True
        if budget.n_epochs is None:
            return False
        return self._store.n_epochs() + sum(map(self._n_epochs_left, running)) >= budget.n_epochs

    def _n_epochs_left(self, proposal: Proposal) -> int:
        """Return the maximum number of remaining epochs of a running trial, without those of the trials that it continues."""
        n_reported = sum(len(record.scores) for record in self._store.lineage(proposal.number))
        if self._folds:
            return (self._folds - n_reported) * self._epochs
        return self._last_epoch(proposal) - n_reported

    def _last_epoch(self, proposal: Proposal) -> int:
        """Return the epoch at which a trial ends: the end of its rung, or the study's last epoch."""
        return self._epochs if proposal.epochs is None else proposal.epochs

    def ends_at_rung(self, proposal: Proposal) -> bool:
        """Return whether a trial ends at a rung before the study's last epoch."""
        return self._last_epoch(proposal) < self._epochs
