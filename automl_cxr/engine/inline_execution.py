"""Trials one after the other in this process: for notebooks, debugging and tests."""

from __future__ import annotations

import time

from automl_cxr.engine.proposal import Attempt, Ending, Objective, Outcome, Pause, Proposal, Proposer, Verdict

_IDLE_SECONDS = 1.0


def run_inline(objective: Objective, proposer: Proposer) -> None:
    """Run proposals until the proposer is OVER. An interrupt leaves the trial unfinished, for the next search to take up."""
    while (proposal := proposer.propose()) is not Pause.OVER:
        if isinstance(proposal, Proposal):
            proposer.finish(proposal.number, _run_trial(objective, proposal, proposer))
        else:
            time.sleep(_IDLE_SECONDS)


def _run_trial(objective: Objective, proposal: Proposal, proposer: Proposer) -> Ending:
    attempt = Attempt(objective, proposal)
    try:
        while not isinstance(event := attempt.advance(), Ending):
            if proposer.observe(proposal.number, event) is Verdict.STOP:
                return Ending(Outcome.STOPPED)
        return event
    finally:
        attempt.abandon()
