"""The proposer of a search: it adds the budget, the record and the files of a study to the proposer of a sampler."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path

from automl_cxr.engine.base_proposer import StudyProposer
from automl_cxr.engine.protocol import Decision, Facts, Outcome, Pause, Proposal, Report, TrialEnd
from automl_cxr.errors import StudyError, TrialError
from automl_cxr.records import TrialState
from automl_cxr.study.budget import BudgetCheck
from automl_cxr.study.commit_lock import CommitLock
from automl_cxr.study.heartbeat import DriverHeartbeat
from automl_cxr.study.listener import Listener
from automl_cxr.study.model_retention import ModelRetention
from automl_cxr.study.objective import staging_folder
from automl_cxr.study.resource_errors import explained_resource_errors
from automl_cxr.study.store import StudyStore

# Number of drivers that may die while they run a trial that makes no progress. It is large because drivers may also be killed
# by something else, such as the time limit of a batch system, while a trial builds its network or runs its first epoch.
_MAX_DEATHS = 10
_MAX_REFUSALS = 100  # refused trials before the first trained one; samplers use the violations of refused trials
_MAX_FAILURES = 5  # failed trials before the first success; after that, all configurations probably fail


class RecordedProposer:
    """A proposer that checks the budget, requeues abandoned trials, and commits files before a trial is marked COMPLETE.

    ``propose`` acquires the lock of the study and returns the first available of:

    1. a trial of this search that failed with an error that may be temporary;
    2. a trial that a dead driver abandoned;
    3. if the budget is not spent, a new trial of the wrapped proposer.

    ``finish`` acquires the lock of the study and, only if this driver still owns the trial:

    1. moves the files of a finished trial into its folder;
    2. requeues a trial whose error may be temporary, or records the end of the trial;
    3. removes models and checkpoints that are not needed.
    """

    def __init__(
        self,
        store: StudyStore,
        proposer: StudyProposer,
        *,
        budget: BudgetCheck,
        retention: ModelRetention,
        heartbeat: DriverHeartbeat,
        listener: Listener,
    ) -> None:
        self._store = store
        self._proposer = proposer
        self._budget = budget
        self._retention = retention
        self._driver = heartbeat.driver
        self._monitor = heartbeat.monitor
        self._lock = CommitLock(store.folder, on_timeout=listener.on_lock_timeout)
        self._listener = listener
        self._n_failures = 0
        self._n_refusals = 0
        self._running: dict[int, Proposal] = {}
        self._out_of_time: set[int] = set()  # trials with folds that were stopped at the time limit
        self._to_retry: list[int] = []  # trials that failed, are still RUNNING in the record, and will be run again

    # -------------------------------------------------------------------------------------------------- proposals

    def propose(self) -> Proposal | Pause:
        seconds = self._budget.seconds_left()
        if self._budget.is_target_reached or (seconds is not None and seconds < 0):
            return self._wait_for_own_trials()
        with self._lock, self._store.batch_writes():
            requeued = self._next_retry()
            if requeued is None:
                requeued = self._next_abandoned()
            if requeued is not None:
                proposal: Proposal | Pause = self._proposer.resume(requeued)
            elif self._budget.is_spent(self._running.values()):
                return self._wait_for_all_trials()
            else:
                self.raise_if_all_failed(at_least=_MAX_FAILURES)
                self.raise_if_all_refused(at_least=_MAX_REFUSALS)
                proposal = self._proposer.propose()
        if proposal is Pause.OVER:
            return self._wait_for_all_trials()
        if isinstance(proposal, Proposal):
            proposal = dataclasses.replace(proposal, seconds=seconds, kill_after=self._budget.seconds_to_kill())
            self._running[proposal.number] = proposal
            self._listener.on_begin(proposal.number, resumed=requeued is not None)
        return proposal

    def _next_retry(self) -> int | None:
        """Return a trial that failed with an error that may be temporary, if this driver still owns it."""
        while self._to_retry:
            number = self._to_retry.pop(0)
            if self._store.owns(number, self._driver):
                return number
        return None

    def _next_abandoned(self) -> int | None:
        """Return a trial that a dead driver abandoned. Trials that ran in drivers that died too often are FAILED."""
        for record in self._store.abandoned(self._monitor):
            if record.starts_in_driver < _MAX_DEATHS:
                return record.number
            self._proposer.resume(record.number)
            reason = (
                f"The search process died {record.starts_in_driver} times during this trial: the memory may be insufficient. "
                "Use --executor ray, which limits the memory of each trial."
            )
            self.finish(record.number, TrialEnd(Outcome.FAILED, error=reason))
        return None

    def _wait_for_own_trials(self) -> Pause:
        """Wait for the running trials of this search, because one of them may have to be run again."""
        return Pause.IDLE if self._running else Pause.OVER

    def _wait_for_all_trials(self) -> Pause:
        """Wait for trials of other drivers too, until their heartbeats have advanced. Trials of dead drivers are requeued."""
        return Pause.IDLE if self._store.has_unverified_driver(self._monitor) else self._wait_for_own_trials()

    def record_start(self, numbers: Sequence[int]) -> None:
        with self._store.batch_writes():
            for number in numbers:
                if number in self._running:
                    self._proposer.record_start(number)

    # ---------------------------------------------------------------------------------------------------- reports

    def observe(self, number: int, report: Report) -> Decision:
        return self.observe_round([(number, report)])[0]

    def observe_round(self, reports: Sequence[tuple[int, Report]]) -> list[Decision]:
        owned = self._store.select_owned([number for number, _ in reports], self._driver)
        with self._store.batch_writes():
            decisions = [
                self._proposer.observe(number, report) if number in owned else Decision.STOP for number, report in reports
            ]
        for number, report in reports:
            if number in owned:
                self._listener.on_epoch(number, report)
        if self._budget.is_target_reached:
            return [Decision.STOP] * len(reports)
        late = {number for number, report in reports if self._is_late(report)}
        self._out_of_time |= late
        stops = (number in late for number, _ in reports)
        return [Decision.STOP if stop else decision for stop, decision in zip(stops, decisions, strict=True)]

    def _is_late(self, report: Report) -> bool:
        """Return whether a trial with folds left would exceed the time limit, and is not needed as the only result."""
        seconds, n_folds = self._budget.seconds_left(), self._store.spec.folds
        return seconds is not None and seconds < 0 and report.epoch < n_folds and bool(self._store.eligible())

    # ------------------------------------------------------------------------------------------------------- ends

    def finish(self, number: int, ending: TrialEnd) -> None:
        proposal = self._running.pop(number, None)
        ends_at_rung = proposal is not None and self._budget.ends_at_rung(proposal)
        with self._lock:  # so that no other driver can requeue the trial
            if self._store.owns(number, self._driver):
                self._end(number, ending, ends_at_rung=ends_at_rung)
            else:
                self._discard(number)

    def _discard(self, number: int) -> None:
        """Discard the result of a trial that another driver requeued."""
        shutil.rmtree(self._staged(number), ignore_errors=True)
        self._proposer.forget(number)
        self._listener.on_lost(number)

    def _end(self, number: int, ending: TrialEnd, *, ends_at_rung: bool) -> None:
        if ending.outcome is Outcome.FINISHED:
            ending = self._commit_files(number, ending, ends_at_rung=ends_at_rung)
        if ending.outcome is Outcome.STOPPED and self._budget.is_target_reached:
            ending = TrialEnd(Outcome.STOPPED, facts={"stopped_by": "target", **ending.facts})
        if ending.outcome is Outcome.STOPPED and number in self._out_of_time:
            ending = TrialEnd(Outcome.STOPPED, facts={"stopped_by": "time", **ending.facts})
        if ending.outcome is not Outcome.FINISHED:
            shutil.rmtree(self._staged(number), ignore_errors=True)  # a killed worker leaves its folder
        if ending.outcome is Outcome.FAILED and self._may_recover(number, ending):
            self._retry(number, ending)
        else:
            self._record_end(number, ending, ends_at_rung=ends_at_rung)

    def _commit_files(self, number: int, ending: TrialEnd, *, ends_at_rung: bool) -> TrialEnd:
        """Move the files of a finished trial to its folder. Return another ending on failure or after the time limit."""
        if ending.facts["cut_short"] and (ends_at_rung or not self._is_best(ending.facts)):
            # The trial had fewer epochs than other trials, so its score is not comparable.
            return TrialEnd(Outcome.STOPPED, facts={"stopped_by": "time"})
        try:
            with explained_resource_errors():
                self._store.commit_files(number, self._staged(number))
        except (OSError, TrialError) as error:
            return TrialEnd.from_error(error)
        return ending

    def _is_best(self, facts: Facts) -> bool:
        eligible = self._store.eligible()
        if not eligible:
            return True
        is_feasible = all(violation <= 0 for violation in facts.get("violations", {}).values())
        return is_feasible and self._store.is_better(facts["score"], eligible[0].score)  # type: ignore[arg-type]

    def _may_recover(self, number: int, ending: TrialEnd) -> bool:
        """Return whether the retry policy of the error's class allows another attempt. Progress of the trial resets it."""
        n_before = sum(reason.startswith(f"{ending.kind}:") for reason in self._store.record(number).recent_retries)
        return n_before < ending.retry.times

    def _retry(self, number: int, ending: TrialEnd) -> None:
        self._retention.free_disk_space(self._proposer.continuable)  # a retry after a full disk may then succeed
        self._proposer.requeue(number, ending)
        self._to_retry.append(number)
        self._listener.on_failure(number, ending.error)

    def _record_end(self, number: int, ending: TrialEnd, *, ends_at_rung: bool) -> None:
        if ending.outcome is Outcome.FAILED:
            self._n_failures += 1
            self._store.write_log(number, ending.trace or ending.error)
        self._n_refusals += ending.outcome is Outcome.REFUSED
        with self._store.batch_writes():
            self._proposer.finish(number, ending)
        record = self._store.record(number)
        if ends_at_rung:
            self._store.drop_model(number)  # the trial is continued from its checkpoint
        self._retention.add(record)
        self._retention.free_disk_space(self._proposer.continuable)
        self._budget.add(record)
        self._listener.on_end(record)

    def _staged(self, number: int) -> Path:
        return staging_folder(self._store.folder / "trials", number, self._driver)

    # --------------------------------------------------------------------------------------------------- failures

    def raise_if_all_failed(self, *, at_least: int = 1) -> None:
        """Raise StudyError if ``at_least`` trials of this search failed and no trial of the study succeeded."""
        if self._n_failures < at_least or self._store.has_any(TrialState.COMPLETE, TrialState.PRUNED):
            return
        last = self._store.records(TrialState.FAILED)[-1]
        raise StudyError(
            f"The search stops: all {self._n_failures} trials failed. Trial {last.number}: {last.error} "
            f"(see {self._store.trial_folder(last.number) / 'train.log'})"
        )

    def raise_if_all_refused(self, *, at_least: int = 1) -> None:
        """Raise StudyError if ``at_least`` trials of this search were refused and no trial of the study was trained."""
        if self._n_refusals < at_least:
            return
        ended = self._store.records(TrialState.COMPLETE, TrialState.PRUNED)
        if all(record.refusal is not None for record in ended):
            raise StudyError(
                f"The search stops: {self._n_refusals} trials were refused before training and none was trained. "
                f"Trial {ended[-1].number}: {ended[-1].refusal}. Relax the requirements (--require), or search smaller "
                "networks."
            )
