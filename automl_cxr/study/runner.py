"""Runs the search of a study: joins a proposer, an executor and the record."""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from automl_cxr.engine.base_proposer import StudyProposer
from automl_cxr.engine.protocol import Ending, Facts, Objective, Outcome, Pause, Proposal, Proposer, Report, Verdict
from automl_cxr.engine.registry import build_proposer
from automl_cxr.errors import StudyError, TrialError
from automl_cxr.records import TrialRecord, TrialState
from automl_cxr.scoring.objectives import Requirement
from automl_cxr.storage.urls import explained_storage_errors, without_password
from automl_cxr.study.commit_lock import CommitLock
from automl_cxr.study.heartbeat import DriverHeartbeat, HeartbeatSettings
from automl_cxr.study.model_retention import ModelRetention
from automl_cxr.study.objective import TrialObjective, staging_folder, trial_seed
from automl_cxr.study.provenance import SearchEntry
from automl_cxr.study.resource_errors import explained_resource_errors
from automl_cxr.study.store import StudyStore
from automl_cxr.study.warm_start import read_warm_start_points

_ATTEMPTS = 5  # a search may be killed now and then; a trial that was there each time is the reason
_FUTILE = 100  # trials that may be refused before the first that is trained; samplers learn from each
_HOPELESS = 5  # trials that may fail before the first success; after that it is not the luck of the draw


@dataclass(frozen=True, kw_only=True)
class Budget:
    """When a search ends and what it keeps. None is no limit; whichever limit is met first counts.

    Attributes:
        n_trials: Trials of the study in total, whatever became of them.
        seconds: Wall seconds of this search.
        keep_models: Number of best trials that keep their model on disk.
        n_epochs: Epochs of all trials of the study together, after which no further trial begins. What the running trials of
            this search may still take counts as taken: no matter how many run at once, less than a trial goes beyond.
        target: Score that is good enough: the search ends when a trial reaches it.
        disk_bytes: Room for models and checkpoints; beyond it models go, the worst first.
    """

    n_trials: int | None
    seconds: float | None
    keep_models: int
    n_epochs: int | None = None
    target: float | None = None
    disk_bytes: int | None = None


class Listener(Protocol):
    """Told what happens in a search, for people to see. Called from the search's own thread."""

    def on_begin(self, number: int, *, resumed: bool) -> None:
        """A trial begins, or begins again."""

    def on_epoch(self, number: int, report: Report) -> None:
        """A trial reports an epoch."""

    def on_failure(self, number: int, reason: str) -> None:
        """A trial failed in a way that may not repeat itself, and will be run again."""

    def on_lost(self, number: int) -> None:
        """A trial was taken over by another search, because this one had been silent for too long."""

    def on_end(self, record: TrialRecord) -> None:
        """A trial has ended and stands in the record."""

    def on_storage_away(self, reason: str) -> None:
        """The storage does not answer; the search waits for it."""


Execute = Callable[[Objective, Proposer], None]
"""``run_inline``, or ``run_with_ray`` with its resources bound."""


def run_search(
    store: StudyStore,
    images: Path,
    *,
    weights_folder: Path | None,
    sampler: str,
    budget: Budget,
    execute: Execute,
    listener: Listener,
    command: str = "",
    terms: HeartbeatSettings | None = None,
) -> None:
    """Search until the budget ends. Trials that a dead search left running are run again first.

    Args:
        store: The study.
        images: The decoded array of its training and validation images.
        weights_folder: Where pretrained weights are looked for first, or None.
        sampler: Who proposes.
        budget: When to end.
        execute: How trials are run.
        listener: Who is told.
        command: What was typed, for the record.
        terms: How this search shows other ones that it lives, and how long it bears their silence.

    Raises:
        StudyError: Every trial failed or was refused (the message gives the last reason), or the storage failed.
    """
    spec = store.spec
    space = spec.space
    store = store.driven(on_away=listener.on_storage_away)
    deadline = None if budget.seconds is None else time.monotonic() + budget.seconds
    with DriverHeartbeat(store.folder, terms=terms) as lease:
        store.clear_leftovers(lease.watch)
        store.checkpoints.mkdir(exist_ok=True)
        objective = TrialObjective(
            fixed=spec.constants,
            study_seed=spec.seed,
            images=images,
            weights_folder=weights_folder,
            split=store.folder / "split.json",
            trials=store.folder / "trials",
            checkpoints=store.checkpoints,
            driver=lease.driver,
            objectives=spec.objectives,
            requirements=tuple(Requirement.parse(text) for text in spec.requirements),
            normal_class=spec.normal_index,
            folds=spec.folds,
            fidelity=spec.fidelity,
        )
        proposer = build_proposer(
            store.study,
            space,
            sampler=sampler,
            pruner=spec.pruner,
            epochs=spec.epochs,
            folds=spec.folds,
            seed=spec.seed,
            priors=read_warm_start_points(store),
            sign=lambda number: {"driver": lease.driver, "seed": trial_seed(spec.seed, number)},
        )
        store.record_search(
            SearchEntry.begin(
                lease.driver,
                position=len(store.searches()),
                command=without_password(command),
                sampler=sampler,
                budget=dataclasses.asdict(budget),
                full_trials=proposer.n_full_asked,
            )
        )
        recorded = _RecordedProposer(store, proposer, budget=budget, deadline=deadline, lease=lease, listener=listener)
        with explained_storage_errors():
            execute(objective, recorded)
        store.drop_models_beyond(budget.keep_models)
        recorded.refuse_failures_only()
        recorded.refuse_refusals_only()


class _RecordedProposer:
    """A proposer that keeps to a budget, takes up abandoned trials, and commits files before a trial is told complete."""

    def __init__(
        self,
        store: StudyStore,
        proposer: StudyProposer,
        *,
        budget: Budget,
        deadline: float | None,
        lease: DriverHeartbeat,
        listener: Listener,
    ) -> None:
        self._store = store
        self._proposer = proposer
        self._budget = budget
        self._deadline = deadline
        self._lease = lease
        self._turn = CommitLock(store.folder, lease)
        self._listener = listener
        self._kept = ModelRetention(store, budget.keep_models)
        self._n_failures = 0
        self._n_refusals = 0
        self._epochs, self._folds = store.spec.epochs, store.spec.folds
        self._running: dict[int, Proposal] = {}
        self._failed_for_now: list[int] = []  # still RUNNING, to be run again
        self._is_satisfied = any(self._reaches_target(record) for record in store.eligible()[:1])

    def propose(self) -> Proposal | Pause:
        seconds = None if self._deadline is None else self._deadline - time.monotonic()
        if self._is_satisfied or (seconds is not None and seconds < 0):
            return self._pause()
        with self._turn, self._store.batch_writes():
            left = self._requeue_abandoned()
            if left is not None:
                proposal: Proposal | Pause = self._proposer.resume(left)
            elif self._is_spent():
                return self._pause_for_all()
            else:
                self.refuse_failures_only(at_least=_HOPELESS)
                self.refuse_refusals_only(at_least=_FUTILE)
                proposal = self._proposer.propose()
        if proposal is Pause.OVER:
            return self._pause_for_all()
        if isinstance(proposal, Proposal):
            proposal = dataclasses.replace(proposal, seconds=seconds)
            self._running[proposal.number] = proposal
            self._listener.on_begin(proposal.number, resumed=left is not None)
        return proposal

    def _pause(self) -> Pause:
        """Wait for the trials that run, since one of them may have to be run again."""
        return Pause.IDLE if self._running else Pause.OVER

    def _pause_for_all(self) -> Pause:
        """Wait for other searches' trials too, until it is clear that these searches live to end them."""
        return Pause.IDLE if self._store.has_unverified_driver(self._lease.watch) else self._pause()

    def _is_spent(self) -> bool:
        budget = self._budget
        trials_spent = budget.n_trials is not None and self._store.n_begun() >= budget.n_trials
        if trials_spent or budget.n_epochs is None:
            return trials_spent
        return self._store.n_epochs() + sum(map(self._n_epochs_left, self._running.values())) >= budget.n_epochs

    def _n_epochs_left(self, proposal: Proposal) -> int:
        """Count the epochs that a running trial has before it at most; those of the trials that it continues are behind it."""
        n_reported = sum(len(record.scores) for record in self._store.lineage(proposal.number))
        if self._folds:
            return (self._folds - n_reported) * self._epochs
        return self._last_epoch(proposal) - n_reported

    def _last_epoch(self, proposal: Proposal) -> int:
        return self._epochs if proposal.epochs is None else proposal.epochs

    def _requeue_abandoned(self) -> int | None:
        """Choose a trial that failed for now or that a dead search left; give up those that died too often."""
        while self._failed_for_now:
            number = self._failed_for_now.pop(0)
            if self._store.owns(number, self._lease.driver):
                return number
        for record in self._store.abandoned(self._lease.watch):
            if record.attempts - len(record.retries) < _ATTEMPTS:
                return record.number
            self._proposer.resume(record.number)
            reason = f"Its search died {record.attempts} times while it ran: it may need more memory than there is."
            self.finish(record.number, Ending(Outcome.FAILED, error=reason))
        return None

    def observe(self, number: int, report: Report) -> Verdict:
        if not self._store.owns(number, self._lease.driver):
            return Verdict.STOP
        with self._store.batch_writes():
            verdict = self._proposer.observe(number, report)
        self._listener.on_epoch(number, report)
        return Verdict.STOP if self._is_satisfied else verdict

    def observe_round(self, reports: Sequence[tuple[int, Report]]) -> list[Verdict]:
        owned = self._store.owned([number for number, _ in reports], self._lease.driver)
        with self._store.batch_writes():
            verdicts = [
                self._proposer.observe(number, report) if number in owned else Verdict.STOP for number, report in reports
            ]
        for number, report in reports:
            if number in owned:
                self._listener.on_epoch(number, report)
        return [Verdict.STOP] * len(reports) if self._is_satisfied else verdicts

    def finish(self, number: int, ending: Ending) -> None:
        proposal = self._running.pop(number, None)
        ends_at_rung = proposal is not None and self._last_epoch(proposal) < self._epochs
        with self._turn:  # in which no other search can take the trial over
            if self._store.owns(number, self._lease.driver):
                self._end(number, ending, ends_at_rung=ends_at_rung)
            else:
                self._leave(number)

    def _leave(self, number: int) -> None:
        """Drop what became of a trial that another search took over while this one was silent."""
        shutil.rmtree(self._staged(number), ignore_errors=True)
        self._proposer.forget(number)
        self._listener.on_lost(number)

    def _end(self, number: int, ending: Ending, *, ends_at_rung: bool) -> None:
        if ending.outcome is Outcome.FINISHED:
            ending = self._commit(number, ending, ends_at_rung=ends_at_rung)
        if ending.outcome is Outcome.STOPPED and self._is_satisfied:
            ending = Ending(Outcome.STOPPED, facts={"stopped_by": "target", **ending.facts})
        if ending.outcome is not Outcome.FINISHED:
            shutil.rmtree(self._staged(number), ignore_errors=True)  # of a worker that could not clear up
        if ending.outcome is Outcome.FAILED and self._may_recover(number, ending):
            self._repeat(number, ending)
            return
        if ending.outcome is Outcome.FAILED:
            self._n_failures += 1
            self._store.write_log(number, ending.trace or ending.error)
        self._n_refusals += ending.outcome is Outcome.REFUSED
        with self._store.batch_writes():
            self._proposer.finish(number, ending)
        record = self._store.record(number)
        if ends_at_rung:
            self._store.drop_model(number)  # its checkpoint is what goes on
        self._kept.settle(record)
        self._make_room()
        self._is_satisfied = self._is_satisfied or self._reaches_target(record)
        self._listener.on_end(record)

    def _may_recover(self, number: int, ending: Ending) -> bool:
        """Tell whether an error of this class deserves another attempt, those before counted."""
        before = sum(reason.startswith(f"{ending.kind}:") for reason in self._store.record(number).retries)
        return before < ending.retry.times

    def _repeat(self, number: int, ending: Ending) -> None:
        self._make_room()  # which is all that a full disk may need
        self._proposer.requeue(number, ending)
        self._failed_for_now.append(number)
        self._listener.on_failure(number, ending.error)

    def _make_room(self) -> None:
        """Remove what nobody needs any more, and what the budget has no room for."""
        self._store.drop_checkpoints_but(self._proposer.continuable)
        if self._budget.disk_bytes is not None:
            self._store.keep_within(self._budget.disk_bytes)

    def _reaches_target(self, record: TrialRecord) -> bool:
        is_counted = record.state is TrialState.COMPLETE and record.is_feasible and self._budget.target is not None
        return is_counted and not self._store.is_better(self._budget.target, record.score)  # type: ignore[arg-type]

    def _staged(self, number: int) -> Path:
        return staging_folder(self._store.folder / "trials", number, self._lease.driver)

    def _commit(self, number: int, ending: Ending, *, ends_at_rung: bool) -> Ending:
        """Put a finished trial's files in place; decide what it ends as when that fails or the time was up."""
        if ending.facts["cut_short"] and (ends_at_rung or not self._is_best(ending.facts)):
            # Fewer epochs than the others had: its score must not stand among theirs.
            return Ending(Outcome.STOPPED, facts={"stopped_by": "time"})
        try:
            with explained_resource_errors():
                self._store.commit_files(number, self._staged(number))
        except (OSError, TrialError) as error:
            return Ending.of_error(error)
        return ending

    def _is_best(self, facts: Facts) -> bool:
        eligible = self._store.eligible()
        if not eligible:
            return True
        is_feasible = all(violation <= 0 for violation in facts.get("violations", {}).values())
        return is_feasible and self._store.is_better(facts["score"], eligible[0].score)  # type: ignore[arg-type]

    def refuse_failures_only(self, *, at_least: int = 1) -> None:
        """Raise StudyError if this search saw so many trials fail and the study has none that did not."""
        if self._n_failures < at_least or self._store.has_any(TrialState.COMPLETE, TrialState.PRUNED):
            return
        last = self._store.records(TrialState.FAILED)[-1]
        raise StudyError(
            f"The search stops: all {self._n_failures} trials failed. Trial {last.number}: {last.error} "
            f"(see {self._store.trial_folder(last.number) / 'train.log'})"
        )

    def refuse_refusals_only(self, *, at_least: int = 1) -> None:
        """Raise StudyError if so many trials of this search were refused and the study has none that was trained."""
        if self._n_refusals < at_least:
            return
        ended = self._store.records(TrialState.COMPLETE, TrialState.PRUNED)
        if all(record.refusal is not None for record in ended):
            raise StudyError(
                f"The search stops: {self._n_refusals} trials were refused before training and none was trained. "
                f"Trial {ended[-1].number}: {ended[-1].refusal}. Loosen what is required, or search smaller networks."
            )
