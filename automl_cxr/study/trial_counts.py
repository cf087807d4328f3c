"""Counts of a study's trials by outcome, over all searches, for the summary at the end of a search."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from automl_cxr.records import TrialState
from automl_cxr.study.heartbeat import DriverMonitor
from automl_cxr.study.store import StudyStore


@dataclass(frozen=True, kw_only=True)
class TrialCounts:
    """Counts of trials. complete + pruned + failed + running + left + waiting is the number of all trials.

    Attributes:
        asked: Total number of trials that was requested for the last search; None without such a limit.
        asked_in_full: Number of trials that its sampler plans to run to the last epoch; None if the number is not fixed.
        complete: Trials that ran to the last epoch.
        pruned: Trials that ended earlier: at a rung, pruned, or refused.
        refused: Trials among the pruned ones that were not trained because of a requirement or insufficient memory.
        promoted: Trials that were continued by a later trial.
        failed: Number of failed trials by reason, the most frequent first.
        retried: Number of retries by reason.
        running: Trials that live drivers run.
        left: Running trials of dead drivers; the next search requeues them.
        waiting: Trials that have not started.
    """

    asked: int | None
    asked_in_full: int | None
    complete: int
    pruned: int
    refused: int
    promoted: int
    failed: Mapping[str, int]
    retried: Mapping[str, int]
    running: int
    left: int
    waiting: int

    @property
    def n_failed(self) -> int:
        """Number of failed trials."""
        return sum(self.failed.values())


def count_trials(store: StudyStore) -> TrialCounts:
    """Count the trials of a study by outcome."""
    records, searches = store.records(), store.searches()
    states = Counter(record.state for record in records)
    n_left = len(store.abandoned(DriverMonitor(store.folder)))
    failures = Counter(record.error or "no reason given" for record in records if record.state is TrialState.FAILED)
    retries = Counter(reason for record in records for reason in record.retries)
    return TrialCounts(
        asked=searches[-1].budget.get("n_trials") if searches else None,
        asked_in_full=searches[-1].full_trials if searches else None,
        complete=states[TrialState.COMPLETE],
        pruned=states[TrialState.PRUNED],
        refused=sum(record.refusal is not None for record in records),
        promoted=len({record.parent for record in records if record.parent is not None}),
        failed=dict(failures.most_common()),
        retried=dict(retries.most_common()),
        running=states[TrialState.RUNNING] - n_left,
        left=n_left,
        waiting=states[TrialState.WAITING],
    )
