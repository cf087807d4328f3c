"""Trials that run together: how a batch is gathered from a proposer, and how it runs. A single trial is a batch of one."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Collection, Sequence

from automl_cxr.engine.protocol import (
    Attempt,
    BatchableObjective,
    Ending,
    Objective,
    Pause,
    Proposal,
    Proposer,
    Report,
    RoundObserver,
    Run,
    Verdict,
)

Event = tuple[int, Report | Ending]
"""What a trial, by its number, has come to."""


class TrialBatcher:
    """Asks a proposer for as many trials as are to run together.

    Args:
        objective: What runs a trial, and tells whether it gathers.
        proposer: Who is asked.
        limit: The most trials of a batch.
    """

    def __init__(self, objective: Objective, proposer: Proposer, *, limit: int) -> None:
        self._objective = objective
        self._proposer = proposer
        self._limit = limit
        self._kept: tuple[Proposal, float] | None = None  # and when it was proposed

    def propose(self) -> Sequence[Proposal] | Pause:
        """Begin the trials of a batch."""
        first = self._take_kept() or self._proposer.propose()
        if isinstance(first, Pause):
            return first
        batch = [first]
        while self._can_batch(batch[0]) and len(batch) < self._limit:
            proposal = self._proposer.propose()
            if isinstance(proposal, Pause):
                break
            if not self._can_batch(proposal):
                self._kept = proposal, time.monotonic()
                break
            batch.append(proposal)
        return batch

    def _can_batch(self, proposal: Proposal) -> bool:
        return (
            proposal.attempts == 0 and isinstance(self._objective, BatchableObjective) and self._objective.can_batch(proposal)
        )

    def _take_kept(self) -> Proposal | None:
        if self._kept is None:
            return None
        (proposal, since), self._kept = self._kept, None
        if proposal.seconds is None:
            return proposal
        return dataclasses.replace(proposal, seconds=proposal.seconds - (time.monotonic() - since))


class Batch:
    """Trials that run in one process, an epoch each at a time."""

    def __init__(self, objective: Objective, proposals: Sequence[Proposal]) -> None:
        self._running = {
            proposal.number: Attempt(run) for proposal, run in zip(proposals, _begin(objective, proposals), strict=True)
        }

    @property
    def is_over(self) -> bool:
        """Whether all trials have ended or were left."""
        return not self._running

    def advance(self) -> list[Event]:
        """Run each trial that is left until its next report or its end."""
        events = [(number, attempt.advance()) for number, attempt in self._running.items()]
        for number, event in events:
            if isinstance(event, Ending):
                del self._running[number]
        return events

    def leave(self, numbers: Collection[int]) -> None:
        """Leave some of the trials where they are; the objective clears up."""
        for number in numbers:
            self._running.pop(number).abandon()

    def close(self) -> None:
        """Leave all trials where they are."""
        self.leave(list(self._running))


def observe_round(proposer: Proposer, reports: Sequence[tuple[int, Report]]) -> list[Verdict]:
    """Tell a proposer of an epoch of each of several trials, at once where it can take it so."""
    if len(reports) > 1 and isinstance(proposer, RoundObserver):
        return proposer.observe_round(reports)
    return [proposer.observe(number, report) for number, report in reports]


def _begin(objective: Objective, proposals: Sequence[Proposal]) -> Sequence[Run]:
    if len(proposals) == 1 or not isinstance(objective, BatchableObjective):
        return [objective(proposal) for proposal in proposals]
    try:
        return objective.run_batch(proposals)
    except Exception as error:  # noqa: BLE001 - which is then what each of them dies of
        return [failing(error) for _ in proposals]


def failing(error: Exception) -> Run:
    """Give a run that fails at its first epoch."""
    raise error
    yield  # type: ignore[unreachable]  # which makes it a generator
