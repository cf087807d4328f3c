"""The protocol between a proposer, which proposes trials, an executor, which runs them, and an objective, which trains one.

An executor repeats these steps, for several trials at a time::

    proposal = proposer.propose()
    for report in objective(proposal):                      # one report per epoch
        if proposer.observe(proposal.number, report) is STOP: close the generator
    proposer.finish(proposal.number, ending)

An objective is a generator function. It yields a Report after each epoch and returns the facts of the finished trial. A
generator that is closed early (GeneratorExit at its yield) was stopped, and cleans up. As executors request each epoch, no
thread and no message to a worker is needed to stop a trial.

A cross-validated trial reports folds instead of epochs: for fold 1, 2, ... the score on the images of that fold.

A proposer may run trials in rungs: a few epochs of many trials, then more epochs of the best ones. A proposal then contains the
last epoch to run, and the trial that it continues::

    Proposal(number=0, values, epochs=4)                    # from the beginning, through epoch 4
    Proposal(number=9, values, epochs=12, parent=0)         # continues trial 0 from its checkpoint: epochs 5 to 12

The objective runs through epoch ``epochs``, writes a checkpoint to the trial's files and returns the facts of a finished trial;
the executor passes FINISHED to the proposer. The proposer records a trial that ends at a rung below the study's last epoch as
PRUNED, and one that ends at the last epoch as COMPLETE. The files of both are committed before ``finish``, because each of them
may be continued. A continued trial reports only the epochs that it runs itself, and has the seed and the values of its parent.
STOPPED is for a trial that ended before the last epoch of its rung.

In a study with several objectives, reports and facts contain ``values``: all objectives in the study's order. The first of them
is ``score``. Facts may contain ``violations``: for each constraint, by name, a value that is above 0 if the trial violates it.
A COMPLETE trial that violates a constraint is infeasible. A trial that is known to violate one before it trains raises
``InfeasibleError`` and ends as REFUSED.

Trials that are too cheap to run one by one can run in batches, if the objective has two more methods (``BatchableObjective``)::

    can_batch(proposal)    -> bool                          # whether the trial is so cheap that it should run in a batch
    run_batch(proposals)   -> list of generators            # for two or more trials, each as objective(proposal)

The generators of a batch share their computation. Each has the behaviour described above: it yields a Report after each epoch,
returns the facts of its trial, may raise its own error and may be closed early, without effect on the others. (A generator that
has not started is closed only with the whole batch, because Python then runs none of its code.) The executor requests one epoch
of each generator in turn: the first request computes the epoch for all trials of the batch, and the others read it from a
buffer. The numbers of epochs may differ. An error in the shared computation is raised by all generators.

Rules for batches:

- A batch consists of consecutive proposals that can be batched and have not run before (``attempts`` is 0). A trial that
  failed, or whose search died, is repeated alone, so that a second failure does not affect other trials.
- A batch is complete when the proposer returns a Pause, when the executor's limit is reached, or when a proposal cannot be
  batched. Such a proposal runs next, alone.
- The proposer is called for each trial of a batch as for any other trial, so budgets apply, and samplers take running trials
  into account (Optuna's TPE assumes bad scores for running trials, which makes the points of a batch differ). The proposals of
  TPE depend on where batches begin.
- STOP closes one trial. The other trials continue, and the batch ends when all have ended.
- If the process of a batch dies or exceeds its memory or its time, all its unfinished trials get the ending that a single trial
  would get. Each is then repeated according to its own number of retries. A batch of n trials has n times the wall time of one
  trial (``seconds_per_trial``), measured from its start, and the memory of one.
- If the search itself dies, all trials of the batch are RUNNING in the study, and the next search resumes each of them.
"""

from __future__ import annotations

import contextlib
import enum
import traceback
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from automl_cxr.engine.parameters import Value
from automl_cxr.errors import InfeasibleError, RetryPolicy, TrialError

Facts = Mapping[str, Any]


@dataclass(frozen=True)
class Proposal:
    """A trial to run.

    Attributes:
        number: Number of the trial in the study.
        values: Values of the searched hyperparameters.
        epochs: Last epoch to run, counted from the start of the first ancestor; None for the study's last epoch.
        parent: Number of the trial whose checkpoint this one continues; None for a new trial.
        halvings: How often the batch size is halved, because earlier attempts ran out of memory.
        seconds: Wall seconds that the search has left; no epoch begins after them. None for no limit. A duration and not a time
            of day, because clocks differ between machines and can be set back.
        kill_after: Wall seconds after which the worker process of the trial is killed, because the search must end; None for
            no limit. An executor that runs trials in the process of the search ignores it.
        attempts: Number of earlier attempts, by this search or by one that died.
    """

    number: int
    values: Mapping[str, Value]
    epochs: int | None = None
    parent: int | None = None
    halvings: int = 0
    seconds: float | None = None
    kill_after: float | None = None
    attempts: int = 0


@dataclass(frozen=True)
class Report:
    """The result of an epoch or of a fold.

    Attributes:
        epoch: Number of the epoch or fold, from 1.
        score: The study's (first) objective, in its own direction.
        facts: Other results to record on the trial.
        values: All objectives, if there are several; None for one that is known only at the end of the trial.
    """

    epoch: int
    score: float
    facts: Facts = field(default_factory=dict)
    values: tuple[float | None, ...] = ()


class Pause(enum.Enum):
    """The reason why there is no proposal: IDLE until a running trial has ended, OVER if there will be no more proposals."""

    IDLE = "idle"
    OVER = "over"


class Decision(enum.Enum):
    """The decision about a trial after a report."""

    CONTINUE = "continue"
    STOP = "stop"


class Outcome(enum.Enum):
    """The way in which a trial ended.

    FINISHED after its last epoch, STOPPED early by a decision or a time limit, REFUSED before training because it violates
    a constraint, FAILED with an error.
    """

    FINISHED = "finished"
    STOPPED = "stopped"
    REFUSED = "refused"
    FAILED = "failed"


@dataclass(frozen=True)
class TrialEnd:
    """The end of a trial.

    Attributes:
        outcome: How it ended.
        facts: Facts that the objective returned (FINISHED) or that the refusal contains (REFUSED); empty otherwise.
        error: One line for the user (FAILED, REFUSED). That of a failure begins with the class of the error.
        trace: The traceback for the trial's log (FAILED).
        retry: Whether and how the trial is repeated (FAILED).
    """

    outcome: Outcome
    facts: Facts = field(default_factory=dict)
    error: str = ""
    trace: str = ""
    retry: RetryPolicy = field(default_factory=RetryPolicy)

    @classmethod
    def from_error(cls, error: Exception) -> TrialEnd:
        """Return the ending of a trial that raised an error."""
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
    """Return the retry policy of an error: its own, one retry for an OSError (an unavailable shared folder), none otherwise."""
    if isinstance(error, TrialError):
        return error.retry
    return RetryPolicy(times=1) if isinstance(error, OSError) else RetryPolicy()


Run = Generator[Report, None, Facts]
"""A running trial, which runs one epoch at each step."""

Objective = Callable[[Proposal], Run]


@runtime_checkable
class BatchableObjective(Protocol):
    """An objective that can run cheap trials in batches."""

    def __call__(self, proposal: Proposal) -> Run:
        """Run a single trial."""

    def can_batch(self, proposal: Proposal) -> bool:
        """Return whether a trial should run in a batch. Called in the driver's process for every trial: must not load Keras."""

    def run_batch(self, proposals: Sequence[Proposal]) -> Sequence[Run]:
        """Run two or more trials that can be batched in one process; return a generator for each, in the same order."""


@runtime_checkable
class LoadableObjective(Protocol):
    """An objective whose trials need libraries that take long to import."""

    def __call__(self, proposal: Proposal) -> Run:
        """Run a single trial."""

    def load_libraries(self) -> None:
        """Import these libraries. Called in the process that runs the trials, before the first trial begins there."""


class Proposer(Protocol):
    """An object that proposes trials and decides when to stop them. Called from one thread; it must neither train nor block."""

    def propose(self) -> Proposal | Pause:
        """Begin a trial."""

    def observe(self, number: int, report: Report) -> Decision:
        """Record the result of an epoch and decide whether the trial continues."""

    def finish(self, number: int, ending: TrialEnd) -> None:
        """Record the end of a trial."""


@runtime_checkable
class RoundObserver(Proposer, Protocol):
    """A proposer that records the reports of a batch at once, with one write instead of many."""

    def observe_round(self, reports: Sequence[tuple[int, Report]]) -> list[Decision]:
        """Record an epoch of each of several trials, by number. The decisions equal those of ``observe`` in this order."""


@runtime_checkable
class StartObserver(Proposer, Protocol):
    """A proposer that counts the searches that a trial may have killed, because it ran in their process."""

    def record_start(self, numbers: Sequence[int]) -> None:
        """Record that trials now begin in the process of the proposer. Not called if they run in workers."""


class TrialRun:
    """A running trial, advanced by one epoch at a time. Errors of the objective are returned as endings, never raised."""

    def __init__(self, run: Run) -> None:
        self._run = run

    def advance(self) -> Report | TrialEnd:
        """Run until the next report or the end."""
        try:
            return next(self._run)
        except StopIteration as end:
            return TrialEnd(Outcome.FINISHED, facts=end.value or {})
        except InfeasibleError as error:
            facts = {**error.facts, "stopped_by": error.stopped_by, "violations": dict(error.violations)}
            return TrialEnd(Outcome.REFUSED, facts=facts, error=str(error))
        except Exception as error:  # noqa: BLE001 - the search continues after any error of a trial
            return TrialEnd.from_error(error)

    def abandon(self) -> None:
        """Close the generator; the objective cleans up."""
        with contextlib.suppress(Exception):  # errors of the clean-up: the end is recorded, and other trials continue
            self._run.close()
