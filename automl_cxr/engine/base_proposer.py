"""What all proposers share: the Optuna study is the record, whoever decides, and a trial looks the same in it.

    propose:  slot   = next_slot()        a fresh trial, the next rung of an earlier one, or a pause
              values = draw()             of a fresh trial; again while the point was tried before
              write the trial, then hand it out
    observe:  write the epoch; ask whether the trial is beaten
    finish:   write the end and the constraints; a rung below the study's last epoch ends PRUNED

What is decided depends on the record and the seed alone, so that a restart forgets nothing.
"""

from __future__ import annotations

import contextlib
import functools
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import optuna
from optuna.exceptions import ExperimentalWarning, UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

from automl_cxr.engine.deduplication import EvaluatedPoints
from automl_cxr.engine.intermediate_values import read_scores, write_epoch
from automl_cxr.engine.protocol import Ending, Facts, Outcome, Pause, Proposal, Report, Verdict
from automl_cxr.engine.space import Choice, Float, Int, Parameter, Space, Value
from automl_cxr.optuna_private import enqueued_values, trial_id_of

_STATES = {
    Outcome.FINISHED: TrialState.COMPLETE,
    Outcome.STOPPED: TrialState.PRUNED,
    Outcome.REFUSED: TrialState.PRUNED,
    Outcome.FAILED: TrialState.FAIL,
}
_NEVER_STOPPED = 6  # first trials: they give the samplers full scores to learn from, and an ensemble its members
_BEATEN_AT = "beaten_at"  # on a trial: the epoch of the verdict, written together with that epoch
_CHANCE = 1_000  # parts the seeds of chance from those of a proposer's draws


@dataclass(frozen=True)
class Slot:
    """The place of the next trial.

    Attributes:
        epochs: Epoch that it runs through; None for the study's last.
        parent: Trial that it continues, whose values it takes; None for a fresh one.
        facts: What else is to stand on the trial, such as its bracket.
    """

    epochs: int | None = None
    parent: int | None = None
    facts: Facts = field(default_factory=dict)


@dataclass
class _Live:
    """A trial that this proposer has handed out.

    Attributes:
        trial: The running trial.
        last_epoch: The last that it ever reported, in earlier attempts too.
        beaten_at: Epoch at which it was judged beaten; None while it was not.
        ends_at_rung: Whether more epochs than it runs are the study's.
    """

    trial: optuna.Trial
    last_epoch: int
    beaten_at: int | None
    ends_at_rung: bool


class StudyProposer(ABC):
    """Begins, reports and ends the trials of an Optuna study; a subclass decides which come next.

    Must not decide how many trials there are, nor keep files: that is the study's business. Call ``propose`` and ``resume``
    from one process at a time.

    Args:
        study: The record; its storage is written at every call.
        space: What is searched.
        pruner: Who stops trials early.
        epochs: The most epochs that a trial may report, or folds where it reports these.
        sign: Facts that are written on a trial, given its number, before anything else is.
        seed: With one worker, the same seed gives the same proposals, whether or not the search was interrupted.
    """

    def __init__(
        self,
        study: optuna.Study,
        space: Space,
        *,
        pruner: optuna.pruners.BasePruner,
        epochs: int,
        seed: int,
        sign: Callable[[int], Facts],
    ) -> None:
        study.pruner = pruner
        self._study = study
        self._space = space
        self._epochs = epochs
        self._seed = seed
        self._sign = sign
        self._tried = EvaluatedPoints(space)
        self._live: dict[int, _Live] = {}
        self._n_read = 0
        self._unended: set[int] = set()  # among the trials read

    @property
    def n_full_asked(self) -> int | None:
        """Trials that are to run to the study's last epoch, where the proposer plans their number."""
        return None

    @abstractmethod
    def _next_slot(self, trials: Sequence[FrozenTrial]) -> Slot | Pause:
        """Decide what comes next after the trials of the record."""

    @abstractmethod
    def _draw(self, trial: optuna.Trial, attempt: int) -> dict[str, Value]:
        """Choose the values of a fresh trial, without writing them. A later attempt at the same trial gives others."""

    def propose(self) -> Proposal | Pause:
        """Begin a trial; the study's very first is the space's preset, where it has one."""
        trials = self._read()
        slot = self._next_slot(trials)
        if isinstance(slot, Pause):
            return slot
        if slot.parent is None:
            return self._begin(self._study.ask(), slot)
        return self._begin(self._continue(trials[slot.parent], slot, number=len(trials)), slot)

    def resume(self, number: int) -> Proposal:
        """Begin a trial again that another process left running, with the values that it had."""
        trials = self._read()
        stored = trials[number]
        trial = optuna.Trial(self._study, trial_id_of(stored))
        trial.set_user_attr("attempts", stored.user_attrs.get("attempts", 1) + 1)
        if stored.params or "rung" in stored.user_attrs:
            return self._begin(trial, Slot(stored.user_attrs.get("rung"), stored.user_attrs.get("parent")))
        slot = self._next_slot(trials)  # it was left before it was given a place
        return self._begin(trial, slot if isinstance(slot, Slot) and slot.parent is None else Slot())

    def requeue(self, number: int, ending: Ending) -> None:
        """Take a failure after which the trial is run again; it stays RUNNING until ``resume`` begins it."""
        trial = self._live.pop(number).trial
        noted = self._study.get_trials(deepcopy=False)[number].user_attrs
        if ending.retry.halves_batch:
            trial.set_user_attr("halvings", noted.get("halvings", 0) + 1)
        trial.set_user_attr("retries", [*noted.get("retries", []), ending.error])

    def forget(self, number: int) -> None:
        """Let go of a trial that another process has taken over; what it has written of it stands."""
        self._live.pop(number, None)

    def continuable(self) -> set[int]:
        """Number the trials that a later one may continue, whose checkpoints therefore stay."""
        return {trial.number for trial in self._read() if "rung" in trial.user_attrs and trial.state is TrialState.PRUNED}

    def observe(self, number: int, report: Report) -> Verdict:
        try:
            return self._observe(number, report)
        except UpdateFinishedTrialError:  # another process took the trial over and ended it, between two lines of this one
            return Verdict.STOP

    def _observe(self, number: int, report: Report) -> Verdict:
        live = self._live[number]
        write_epoch(live.trial, report)
        _note(live.trial, report.facts)
        if report.epoch < live.last_epoch:
            return Verdict.CONTINUE  # a repeated trial was judged here before, and the pruner would look at its later epochs
        live.last_epoch = report.epoch
        if report.epoch == live.beaten_at:
            return Verdict.STOP  # by a search that died before it wrote the end; others may have come to the rung since
        # The pruner is asked even where its word does not count: asking is what has Optuna's Hyperband write the trial's rung.
        is_beaten = self._is_beaten(live.trial, report)
        has_more_to_pay = report.epoch < self._epochs
        if not (is_beaten and has_more_to_pay and number >= _NEVER_STOPPED):
            return Verdict.CONTINUE
        live.trial.set_user_attr(_BEATEN_AT, report.epoch)
        return Verdict.STOP

    def finish(self, number: int, ending: Ending) -> None:
        """Write the end of a trial. ``ending.facts`` must hold "score", or "values" where there are several, when it FINISHED.

        This is the commit point: whatever has to exist for a finished trial must exist before.
        """
        live = self._live.pop(number)
        with contextlib.suppress(UpdateFinishedTrialError):  # as in ``observe``
            self._write_end(live, ending)

    def _write_end(self, live: _Live, ending: Ending) -> None:
        state, value = _STATES[ending.outcome], None
        facts = dict(ending.facts)
        values, violations = facts.pop("values", None), facts.pop("violations", None)
        _note(live.trial, facts)
        _constrain(live.trial, violations or {})
        if ending.outcome is Outcome.FAILED:
            live.trial.set_user_attr("error", ending.error)
        elif ending.outcome is Outcome.REFUSED:
            live.trial.set_user_attr("refusal", ending.error)
        elif ending.outcome is Outcome.FINISHED and live.ends_at_rung:
            live.trial.set_user_attr("stopped_by", "rung")
            state = TrialState.PRUNED
        elif ending.outcome is Outcome.FINISHED:
            value = values or facts["score"]
        self._study.tell(live.trial, value, state=state, skip_if_finished=True)

    def _is_beaten(self, trial: optuna.Trial, report: Report) -> bool:
        """Tell whether others were better at the epoch of a report. Optuna's pruners know one objective only."""
        return len(self._study.directions) == 1 and trial.should_prune()

    def _read(self) -> list[FrozenTrial]:
        """Read the record, and the points of what another process may have changed since the last reading."""
        trials = self._study.get_trials(deepcopy=False)
        self._unended.update(range(self._n_read, len(trials)))
        self._n_read = len(trials)
        for trial in [trials[number] for number in self._unended - self._live.keys()]:
            if trial.state.is_finished() or trial.params:
                self._tried.add(trial.number, trial.params)
            if trial.state.is_finished():
                self._unended.discard(trial.number)
        return trials

    def _continue(self, parent: FrozenTrial, slot: Slot, *, number: int) -> optuna.Trial:
        """Write a trial with its parent's values, in one piece."""
        continued = optuna.trial.create_trial(
            state=TrialState.RUNNING,
            params=parent.params,
            distributions=parent.distributions,
            user_attrs=self._first_facts(number, slot),
        )
        self._study.add_trial(continued)
        return optuna.Trial(self._study, trial_id_of(self._study.get_trials(deepcopy=False)[number]))

    def _begin(self, trial: optuna.Trial, slot: Slot) -> Proposal:
        """Give a running trial its place and its values, those that it already has included, and hand it out."""
        _note(trial, self._first_facts(trial.number, slot))
        stored = self._study.get_trials(deepcopy=False)[trial.number]
        trial, values = self._write(trial, self._choose(trial, stored))
        ends_at_rung = slot.epochs is not None and slot.epochs < self._epochs
        last_epoch = max(read_scores(stored), default=0)
        self._live[trial.number] = _Live(trial, last_epoch, stored.user_attrs.get(_BEATEN_AT), ends_at_rung)
        self._tried.add(trial.number, values)
        return Proposal(
            trial.number,
            values,
            slot.epochs,
            slot.parent,
            halvings=stored.user_attrs.get("halvings", 0),
            attempts=stored.user_attrs.get("attempts", 1) - 1,
        )

    def _first_facts(self, number: int, slot: Slot) -> dict[str, Any]:
        facts = {**self._sign(number), **slot.facts}
        if slot.parent is not None:
            facts["parent"] = slot.parent
            seed = self._study.get_trials(deepcopy=False)[slot.parent].user_attrs.get("seed")
            facts |= {} if seed is None else {"seed": seed}  # a continued trial keeps the seed of its parent
        if slot.epochs is not None:
            facts["rung"] = slot.epochs  # last: ``resume`` takes a trial with a rung as one that has all its facts
        return facts

    def _choose(self, trial: optuna.Trial, stored: FrozenTrial) -> dict[str, Value]:
        """Complete the values that a trial has or was enqueued with; without any, choose a point that was not tried."""
        known = {**enqueued_values(stored), **stored.params}
        if trial.number == 0 and not known:
            known = self._space.preset() or {}
        if not known:
            return self._tried.new_point(functools.partial(self._draw, trial), self._chance(trial.number))
        draw = functools.cache(lambda: self._draw(trial, 0))
        chance = self._chance(trial.number)

        def complete(parameter: Parameter) -> Value:
            if parameter.name in known:
                return cast("Value", known[parameter.name])
            return draw().get(parameter.name) if parameter.name in draw() else parameter.sample(chance)  # type: ignore[return-value]

        return self._space.resolve(complete)

    def _write(self, trial: optuna.Trial, values: Mapping[str, Value]) -> tuple[optuna.Trial, dict[str, Value]]:
        """Have Optuna suggest the chosen values, so that they stand in the record as its own would."""
        decider = self._study.sampler
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)  # PartialFixedSampler
            self._study.sampler = optuna.samplers.PartialFixedSampler(dict(values), optuna.samplers.RandomSampler())
        try:
            trial = optuna.Trial(self._study, trial_id_of(trial))
            return trial, self._space.resolve(lambda parameter: suggest(trial, parameter))
        finally:
            self._study.sampler = decider

    def _chance(self, number: int) -> np.random.Generator:
        return np.random.default_rng((self._seed, number, _CHANCE))

    def _stream(self, number: int, attempt: int) -> int:
        """Give every draw a seed of its own, so that a restarted search does not draw the first trials again."""
        entropy = (self._seed, number) if attempt == 0 else (self._seed, number, attempt)
        return int(np.random.SeedSequence(entropy).generate_state(1)[0])


def _note(trial: optuna.Trial, facts: Facts) -> None:
    """Write facts that are not yet on a trial; each costs a write to the storage."""
    for name, value in facts.items():
        if trial.user_attrs.get(name) != value:
            trial.set_user_attr(name, value)


def _constrain(trial: optuna.Trial, violations: Mapping[str, float]) -> None:
    """Write violations where samplers and dashboards look for them; a repeated ending leaves what stands there."""
    known = trial.constraints if violations else {}
    for name, violation in violations.items():
        if name not in known:
            trial.set_constraint(name, violation)


def suggest(trial: optuna.Trial, parameter: Parameter) -> Value:
    """Ask Optuna for a value of one parameter; the values reached are exactly those of the parameter."""
    match parameter:
        case Float():
            return trial.suggest_float(parameter.name, parameter.low, parameter.high, step=parameter.step, log=parameter.log)
        case Int():
            return trial.suggest_int(parameter.name, parameter.low, parameter.high, step=parameter.step, log=parameter.log)
        case Choice():
            return cast("Value", trial.suggest_categorical(parameter.name, parameter.values))


def to_optuna(parameter: Parameter) -> optuna.distributions.BaseDistribution:
    """Translate one parameter; ``suggest`` asks for the same."""
    match parameter:
        case Float():
            return optuna.distributions.FloatDistribution(parameter.low, parameter.high, step=parameter.step, log=parameter.log)
        case Int():
            return optuna.distributions.IntDistribution(parameter.low, parameter.high, step=parameter.step, log=parameter.log)
        case Choice():
            return optuna.distributions.CategoricalDistribution(parameter.values)
