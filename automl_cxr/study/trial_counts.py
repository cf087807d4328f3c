"""What became of a study's trials, for the summary at the end of a search: of the whole record, whichever searches made it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from automl_cxr.records import TrialState
from automl_cxr.study.heartbeat import DriverMonitor
from automl_cxr.study.store import StudyStore


@dataclass(frozen=True, kw_only=True)
class TrialCounts:
    """Numbers of trials. Those complete, pruned, failed, running, left and waiting are all that there are.

    Attributes:
        asked: Trials that the last search was to bring the study to; None where it had another budget.
        asked_in_full: Trials that its sampler planned to run to the last epoch; None where it plans no number.
        complete: Trials that ran to the last epoch.
        pruned: Trials that ended earlier, at a rung, by a verdict or refused.
        refused: Those of the pruned that a requirement or the memory kept from training.
        promoted: Trials that a later one continued.
        failed: Number of trials by the reason that they failed for, the most frequent first.
        retried: Number of repetitions by the reason that a trial was run again for.
        running: Trials in the hands of a search that lives.
        left: Trials that a dead search left running; the next search takes them up.
        waiting: Trials that have not begun.
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
        """Trials that failed, for whatever reason."""
        return sum(self.failed.values())


def count_trials(store: StudyStore) -> TrialCounts:
    """Count what became of the trials of a study so far."""
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
