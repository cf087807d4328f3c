"""Batches of trials: how they are collected from a proposer, and how they run. A single trial is a batch of one."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Collection, Sequence

from automl_cxr.engine.protocol import (
    BatchableObjective,
    Decision,
    Objective,
    Pause,
    Proposal,
    Proposer,
    Report,
    RoundObserver,
    Run,
    TrialEnd,
    TrialRun,
)

Event = tuple[int, Report | TrialEnd]
"""The number of a trial, and its next report or its end."""


class TrialBatcher:
    """A collector of proposals for batches.

    Args:
        objective: Runs the trials, and decides which can be batched.
        proposer: Proposes the trials.
        limit: Maximum number of trials in a batch.
    """

    def __init__(self, objective: Objective, proposer: Proposer, *, limit: int) -> None:
        self._objective = objective
        self._proposer = proposer
        self._limit = limit
        self._next: tuple[Proposal, float] | None = None  # a proposal for the next batch, and the time at which it was proposed

    def propose(self) -> Sequence[Proposal] | Pause:
        """Begin the trials of a batch."""
        first = self._take_next() or self._proposer.propose()
        if isinstance(first, Pause):
            return first
        batch = [first]
        while self._can_batch(batch[0]) and len(batch) < self._limit:
            proposal = self._proposer.propose()
            if isinstance(proposal, Pause):
                break
            if not self._can_batch(proposal):
                self._next = proposal, time.monotonic()
                break
            batch.append(proposal)
        return batch

    def _can_batch(self, proposal: Proposal) -> bool:
        return (
            proposal.attempts == 0 and isinstance(self._objective, BatchableObjective) and self._objective.can_batch(proposal)
        )

    def _take_next(self) -> Proposal | None:
        if self._next is None:
            return None
        (proposal, since), self._next = self._next, None
        if proposal.seconds is None:
            return proposal
        return dataclasses.replace(proposal, seconds=proposal.seconds - (time.monotonic() - since))


class Batch:
    """Trials that run in one process, each one epoch at a time."""

    def __init__(self, objective: Objective, proposals: Sequence[Proposal]) -> None:
        self._running = {
            proposal.number: TrialRun(run) for proposal, run in zip(proposals, _start(objective, proposals), strict=True)
        }

    @property
    def is_over(self) -> bool:
        """Whether all trials have ended or were stopped."""
        return not self._running

    def advance(self) -> list[Event]:
        """Run each running trial until its next report or its end."""
        events = [(number, run.advance()) for number, run in self._running.items()]
        for number, event in events:
            if isinstance(event, TrialEnd):
                del self._running[number]
        return events

    def stop(self, numbers: Collection[int]) -> None:
        """Stop some of the trials; the objective cleans up."""
        for number in numbers:
            self._running.pop(number).abandon()

    def close(self) -> None:
        """Stop all trials."""
        self.stop(list(self._running))


def observe_round(proposer: Proposer, reports: Sequence[tuple[int, Report]]) -> list[Decision]:
    """Pass an epoch of each of several trials to a proposer, in one call if it has ``observe_round``."""
    if len(reports) > 1 and isinstance(proposer, RoundObserver):
        return proposer.observe_round(reports)
    return [proposer.observe(number, report) for number, report in reports]


def _start(objective: Objective, proposals: Sequence[Proposal]) -> Sequence[Run]:
    if len(proposals) == 1 or not isinstance(objective, BatchableObjective):
        return [objective(proposal) for proposal in proposals]
    try:
        return objective.run_batch(proposals)
    except Exception as error:  # noqa: BLE001 - each trial of the batch ends with this error
        return [failing(error) for _ in proposals]


def failing(error: Exception) -> Run:
    """Return a run that raises an error at its first epoch."""
    raise error
    yield  # type: ignore[unreachable]  # makes this function a generator
