"""Trials one after the other in this process: for notebooks, debugging and tests."""

from __future__ import annotations

import time

from automl_cxr.engine.proposal import Attempt, Ending, Objective, Outcome, Pause, Proposal, Proposer, Verdict

_IDLE_SECONDS = 1.0


def run_inline(objective: Objective, proposer: Proposer, *, seconds_per_trial: float | None = None) -> None:
    """Run proposals until the proposer is OVER. An interrupt leaves the trial unfinished, for the next search to take up.

    Args:
        objective: What runs a trial.
        proposer: Who is asked and told.
        seconds_per_trial: Wall seconds that a trial may take; looked at after each epoch, since nobody else could end it.
    """
    while (proposal := proposer.propose()) is not Pause.OVER:
        if isinstance(proposal, Proposal):
            proposer.finish(proposal.number, _run_trial(objective, proposal, proposer, seconds_per_trial))
        else:
            time.sleep(_IDLE_SECONDS)


def _run_trial(objective: Objective, proposal: Proposal, proposer: Proposer, seconds: float | None) -> Ending:
    attempt = Attempt(objective, proposal)
    deadline = time.monotonic() + (seconds or float("inf"))
    try:
        while not isinstance(event := attempt.advance(), Ending):
            if proposer.observe(proposal.number, event) is Verdict.STOP:
                return Ending(Outcome.STOPPED)
            if time.monotonic() > deadline:
                return Ending(Outcome.STOPPED, facts={"stopped_by": "trial-time"})
        return event
    finally:
        attempt.abandon()
