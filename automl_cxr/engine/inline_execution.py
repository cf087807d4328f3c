"""Runs trials one after the other in this process: for notebooks, debugging and tests."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence

from automl_cxr.engine.protocol import (
    Decision,
    LoadableObjective,
    Objective,
    Outcome,
    Pause,
    Proposal,
    Proposer,
    Report,
    StartObserver,
    TrialEnd,
)
from automl_cxr.engine.trial_batches import Batch, TrialBatcher, observe_round

_IDLE_SECONDS = 1.0


def run_inline(
    objective: Objective, proposer: Proposer, *, seconds_per_trial: float | None = None, batch_trials: int = 1
) -> None:
    """Run proposals until the proposer returns OVER. After an interrupt, the next search resumes the unfinished trials.

    Args:
        objective: Runs a trial.
        proposer: Proposes the trials and receives their results.
        seconds_per_trial: Maximum wall seconds of a trial, checked after each epoch.
        batch_trials: Maximum number of trials in a batch.
    """
    batcher = TrialBatcher(objective, proposer, limit=batch_trials)
    while (proposals := batcher.propose()) is not Pause.OVER:
        if isinstance(proposals, Pause):
            time.sleep(_IDLE_SECONDS)
            continue
        _prepare(objective, proposer, proposals)
        deadline = time.monotonic() + (seconds_per_trial or float("inf")) * len(proposals)
        with contextlib.closing(Batch(objective, proposals)) as batch:
            _run(batch, proposer, deadline)


def _prepare(objective: Objective, proposer: Proposer, proposals: Sequence[Proposal]) -> None:
    """Load the libraries of the objective, then record that the trials begin.

    In this order, a trial is not blamed if this process dies while it loads the libraries, which takes several seconds.
    """
    if isinstance(objective, LoadableObjective):
        objective.load_libraries()
    if isinstance(proposer, StartObserver):
        proposer.record_start([proposal.number for proposal in proposals])


def _run(batch: Batch, proposer: Proposer, deadline: float) -> None:
    while not batch.is_over:
        events = batch.advance()
        for number, event in events:
            if isinstance(event, TrialEnd):
                proposer.finish(number, event)
        reports = [(number, event) for number, event in events if isinstance(event, Report)]
        for (number, _), decision in zip(reports, observe_round(proposer, reports), strict=True):
            if decision is Decision.STOP:
                batch.stop([number])
                proposer.finish(number, TrialEnd(Outcome.STOPPED))
            elif time.monotonic() > deadline:
                batch.stop([number])
                proposer.finish(number, TrialEnd(Outcome.STOPPED, facts={"stopped_by": "trial-time"}))
