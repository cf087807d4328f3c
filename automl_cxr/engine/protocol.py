"""The contract between what proposes trials, what runs them and what records them.

An executor repeats, for as many trials at once as there is room for::

    proposal = proposer.propose()
    for report in objective(proposal):                      # an epoch each
        if proposer.observe(proposal.number, report) is STOP: leave the trial
    proposer.finish(proposal.number, ending)

An objective is a generator function: it yields a Report after each epoch and returns the facts of the finished trial. A
generator that is closed (GeneratorExit at its yield) was stopped early and clears up after itself. Executors pull epochs, so
that no thread and no message to a worker is needed to stop one.

A trial that is cross-validated reports folds instead of epochs: of fold 1, 2, ... the score on the images that it left out.

A proposer may run trials in rungs: a few epochs of many, more of the best. A proposal then says until which epoch to run, and
which trial it continues::

    Proposal(number=0, values, epochs=4)                    # from the beginning, through epoch 4
    Proposal(number=9, values, epochs=12, parent=0)         # trial 0 again: from its checkpoint, epochs 5 to 12

The objective runs through epoch ``epochs``, leaves a checkpoint among the trial's files, and returns the facts of a finished
trial as if there were no epoch beyond; the executor passes on FINISHED. It is the proposer that knows how much was asked: a
rung below the study's last epoch it records as PRUNED, a rung at the last epoch as COMPLETE. The files of both are committed
before ``finish``, since any of them may be continued. A continued trial reports only the epochs that it runs itself, and has
its parent's seed and values. STOPPED is for a trial that did not come to the end of its rung.

Where a study has several objectives, reports and facts carry ``values``, all of them in their order, of which the first is
``score``. Facts may hold ``violations``: how far each constraint of the study is broken, by its name, above 0 where it is. A
trial that breaks one COMPLETE is infeasible; one that is known to break one before it trains raises ``InfeasibleError`` and
ends as REFUSED.

Trials that are too cheap to run one by one may be run together, in batches. An objective that can do so offers two methods
more (``BatchableObjective``); without them nothing changes::

    can_batch(proposal)    -> bool                          # is this trial so cheap that it should run with others?
    run_batch(proposals)   -> list of generators            # of two or more, in their order; each as objective(proposal) gives

The generators share computation, each by the contract above: it yields a Report after each epoch, returns the facts of its
trial, may raise an error of its own, and may be closed early. None of this harms the others. (One that has not begun is closed
only where the whole batch is: Python runs no line of it then.)
They are advanced in turns, an epoch each: the first one that is asked for an epoch computes it for all that are left, and
these take theirs from a buffer. Their numbers of epochs may differ. An error of the shared computation is raised by all.

The rules of a batch:

- It is made of proposals that follow one another, are taken up for the first time (``attempts`` is 0) and gather. A trial that
  failed, or whose search died, runs alone when it is run again, so that it takes no neighbour down twice.
- A Pause, the limit of the executor, or a proposal that does not gather ends the batch. Such a proposal comes next, alone.
- The proposer is told of each trial as ever, and allows each as ever: budgets hold, and samplers know what runs (Optuna's tpe
  counts on a bad score of running trials, so that a batch spreads). What tpe proposes depends on where the batches begin.
- STOP closes one trial. The others go on, and the batch is over when all have ended.
- When the process of a batch dies, takes too much memory or too much time, all its trials that have not ended get the ending
  that a single one would get; each is then run again, or not, by its own count of retries. A batch of n trials has n times the
  wall time of a trial (``seconds_per_trial``), counted from its beginning, and the memory of one.
- When the search itself dies, all of them stand RUNNING in the record, and the next search takes each up.
"""

from __future__ import annotations

import contextlib
import enum
import traceback
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from automl_cxr.engine.space import Value
from automl_cxr.errors import InfeasibleError, RetryPolicy, TrialError

Facts = Mapping[str, Any]


@dataclass(frozen=True)
class Proposal:
    """A trial to run.

    Attributes:
        number: Its number in the study.
        values: The searched values.
        epochs: Epoch that it runs through, counted from the beginning of its parents; None for the study's last.
        parent: Number of the trial whose checkpoint it continues; None to begin anew.
        halvings: How often its batch is to be halved, because memory ran out before.
        seconds: Wall seconds that the search has left, after which no further epoch begins; None for no limit. A span and not a
            time of day, because clocks differ between machines and are set back.
        attempts: How often it was begun before, by this search or one that died.
    """

    number: int
    values: Mapping[str, Value]
    epochs: int | None = None
    parent: int | None = None
    halvings: int = 0
    seconds: float | None = None
    attempts: int = 0


@dataclass(frozen=True)
class Report:
    """What an epoch, or a fold, came to.

    Attributes:
        epoch: Its number, from 1.
        score: The study's (first) objective, in its own direction.
        facts: Whatever else is worth recording.
        values: All objectives where there are several; None for one that only the end of the trial tells.
    """

    epoch: int
    score: float
    facts: Facts = field(default_factory=dict)
    values: tuple[float | None, ...] = ()


class Pause(enum.Enum):
    """Why there is no proposal: IDLE until something running has ended, OVER for good."""

    IDLE = "idle"
    OVER = "over"


class Verdict(enum.Enum):
    """What becomes of a trial after a report."""

    CONTINUE = "continue"
    STOP = "stop"


class Outcome(enum.Enum):
    """How a trial left its executor.

    FINISHED at the end of what was asked, STOPPED before it by verdict or for lack of time, REFUSED before it trained because
    a constraint forbids it, FAILED by an error.
    """

    FINISHED = "finished"
    STOPPED = "stopped"
    REFUSED = "refused"
    FAILED = "failed"


@dataclass(frozen=True)
class Ending:
    """The end of a trial.

    Attributes:
        outcome: How it ended.
        facts: What the objective returned (FINISHED) or what the refusal tells (REFUSED), empty otherwise.
        error: One line for people (FAILED, REFUSED); of a failure it begins with the class of the error.
        trace: The traceback (FAILED), for the trial's log.
        retry: Whether the trial is run again (FAILED).
    """

    outcome: Outcome
    facts: Facts = field(default_factory=dict)
    error: str = ""
    trace: str = ""
    retry: RetryPolicy = field(default_factory=RetryPolicy)

    @classmethod
    def of_error(cls, error: Exception) -> Ending:
        """Describe what a trial died of."""
        message = " ".join(str(error).split()) or "no message"
        return cls(
            Outcome.FAILED,
            error=f"{type(error).__name__}: {message}",
            trace="".join(traceback.format_exception(error)),
            retry=retry_policy(error),
        )

    @property
    def kind(self) -> str:
        """Class of the error (FAILED)."""
        return self.error.partition(":")[0]


def retry_policy(error: Exception) -> RetryPolicy:
    """Give the policy of an error's class; a shared folder that fails for a moment is forgiven once, all else is final."""
    if isinstance(error, TrialError):
        return error.retry
    return RetryPolicy(times=1) if isinstance(error, OSError) else RetryPolicy()


Run = Generator[Report, None, Facts]
"""A trial that runs: an epoch at each step."""

Objective = Callable[[Proposal], Run]


@runtime_checkable
class BatchableObjective(Protocol):
    """An objective that can run cheap trials together."""

    def __call__(self, proposal: Proposal) -> Run:
        """Run a trial alone."""

    def can_batch(self, proposal: Proposal) -> bool:
        """Tell whether a trial should run with others. Asked in the driver's process, for every trial: no Keras."""

    def run_batch(self, proposals: Sequence[Proposal]) -> Sequence[Run]:
        """Run two or more trials that gather, in one process; a generator each, in their order."""


class Proposer(Protocol):
    """Decides what is tried and when it is stopped. Called from one thread; must not train, and must not block for long."""

    def propose(self) -> Proposal | Pause:
        """Begin a trial."""

    def observe(self, number: int, report: Report) -> Verdict:
        """Take the score of an epoch and decide whether the trial goes on."""

    def finish(self, number: int, ending: Ending) -> None:
        """Take the end of a trial."""


@runtime_checkable
class RoundObserver(Proposer, Protocol):
    """A proposer that takes the reports of a batch at once, which costs its record one write instead of many."""

    def observe_round(self, reports: Sequence[tuple[int, Report]]) -> list[Verdict]:
        """Take an epoch of each of several trials, by number, and decide of each as ``observe`` would in this order."""


class Attempt:
    """One run of an objective, advanced an epoch at a time. Never raises what the objective raises: a trial may fail."""

    def __init__(self, run: Run) -> None:
        self._run = run

    def advance(self) -> Report | Ending:
        """Run until the next report or the end."""
        try:
            return next(self._run)
        except StopIteration as end:
            return Ending(Outcome.FINISHED, facts=end.value or {})
        except InfeasibleError as error:
            facts = {**error.facts, "stopped_by": error.stopped_by, "violations": dict(error.violations)}
            return Ending(Outcome.REFUSED, facts=facts, error=str(error))
        except Exception as error:  # noqa: BLE001 - whatever a trial dies of, the search goes on
            return Ending.of_error(error)

    def abandon(self) -> None:
        """Leave the run where it is; the objective clears up."""
        with contextlib.suppress(Exception):  # of the clearing up: the ending is decided, and other trials go on
            self._run.close()
