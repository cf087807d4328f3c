"""The contract between what proposes trials, what runs them and what records them.

An executor repeats, for as many trials at once as there is room for::

    proposal = proposer.propose()
    for report in objective(proposal):                      # an epoch each
        if proposer.observe(proposal.number, report) is STOP: leave the trial
    proposer.finish(proposal.number, ending)

An objective is a generator function: it yields a Report after each epoch and returns the facts of the finished trial. A
generator that is closed (GeneratorExit at its yield) was stopped early and clears up after itself. Executors pull epochs, so
that no thread and no message to a worker is needed to stop one.
"""

from __future__ import annotations

import enum
import traceback
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from automl_cxr.engine.space import Value

Facts = Mapping[str, Any]


@dataclass(frozen=True)
class Proposal:
    """A trial to run: its number in the study and the searched values."""

    number: int
    values: Mapping[str, Value]


@dataclass(frozen=True)
class Report:
    """The score after an epoch (from 1), in the direction of the study's objective, and whatever else is worth recording."""

    epoch: int
    score: float
    facts: Facts = field(default_factory=dict)


class Pause(enum.Enum):
    """Why there is no proposal: IDLE until something running has ended, OVER for good."""

    IDLE = "idle"
    OVER = "over"


class Verdict(enum.Enum):
    """What becomes of a trial after a report."""

    CONTINUE = "continue"
    STOP = "stop"


class Outcome(enum.Enum):
    """How a trial left its executor."""

    FINISHED = "finished"
    STOPPED = "stopped"
    FAILED = "failed"


@dataclass(frozen=True)
class Ending:
    """The end of a trial.

    Attributes:
        outcome: How it ended.
        facts: What the objective returned (FINISHED), empty otherwise.
        error: One line for people (FAILED).
        trace: The traceback (FAILED), for the trial's log.
    """

    outcome: Outcome
    facts: Facts = field(default_factory=dict)
    error: str = ""
    trace: str = ""


Objective = Callable[[Proposal], Generator[Report, None, Facts]]


class Proposer(Protocol):
    """Decides what is tried and when it is stopped. Called from one thread; must not train, and must not block for long."""

    def propose(self) -> Proposal | Pause:
        """Begin a trial."""

    def observe(self, number: int, report: Report) -> Verdict:
        """Take the score of an epoch and decide whether the trial goes on."""

    def finish(self, number: int, ending: Ending) -> None:
        """Take the end of a trial."""


class Attempt:
    """One run of an objective, advanced an epoch at a time. Never raises what the objective raises: a trial may fail."""

    def __init__(self, objective: Objective, proposal: Proposal) -> None:
        self._epochs = objective(proposal)

    def advance(self) -> Report | Ending:
        """Run until the next report or the end."""
        try:
            return next(self._epochs)
        except StopIteration as end:
            return Ending(Outcome.FINISHED, facts=end.value or {})
        except Exception as error:  # noqa: BLE001 - whatever a trial dies of, the search goes on
            message = " ".join(str(error).split()) or "no message"
            return Ending(
                Outcome.FAILED,
                error=f"{type(error).__name__}: {message}",
                trace="".join(traceback.format_exception(error)),
            )

    def abandon(self) -> None:
        """Leave the run where it is; the objective clears up."""
        self._epochs.close()
