"""The base class of all proposers. It records trials in an Optuna study, in the same form for every proposer.

    propose:  slot   = next_slot()        a new trial, the next rung of an earlier one, or a pause
              values = draw()             of a new trial; repeated while the point was evaluated before
              write the trial, then return it
    observe:  write the epoch; decide whether to prune the trial
    finish:   write the end and the constraints; a rung below the study's last epoch ends PRUNED

All decisions depend on the study and the seed only, so a restarted search makes the same decisions.
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
from automl_cxr.engine.parameters import Choice, Float, Int, Parameter, Value
from automl_cxr.engine.protocol import Decision, Facts, Outcome, Pause, Proposal, Report, TrialEnd
from automl_cxr.engine.space import Space
from automl_cxr.optuna_private import enqueued_values, storage_of, trial_id_of

_STATES = {
    Outcome.FINISHED: TrialState.COMPLETE,
    Outcome.STOPPED: TrialState.PRUNED,
    Outcome.REFUSED: TrialState.PRUNED,
    Outcome.FAILED: TrialState.FAIL,
}
_N_UNPRUNED_TRIALS = 6  # first trials, not pruned: samplers need scores of complete trials, and ensembles need members
_PRUNED_AT = "beaten_at"  # user attribute: epoch of the decision to stop, stored before the score of this epoch or with it
_STARTS_IN_DRIVER = "starts_in_driver"  # user attribute, see ``TrialRecord``
_RANDOM_STREAM = 1_000  # separates the seeds of random completions from those of a proposer's draws


@dataclass(frozen=True)
class Slot:
    """The plan of the next trial.

    Attributes:
        epochs: Last epoch to run; None for the study's last epoch.
        parent: Number of the trial that it continues, with the same values; None for a new trial.
        facts: Other user attributes of the trial, such as its bracket.
    """

    epochs: int | None = None
    parent: int | None = None
    facts: Facts = field(default_factory=dict)


@dataclass
class _RunningTrial:
    """A running trial of this proposer.

    Attributes:
        trial: The running trial.
        last_epoch: The last epoch that it reported, including earlier attempts.
        pruned_at: Epoch after which it was decided to stop it; None if it was not.
        ends_at_rung: Whether it ends before the study's last epoch.
        is_in_driver: Whether it runs in the process of this search.
        is_counted: Whether this attempt was counted among those that may have ended the process.
    """

    trial: optuna.Trial
    last_epoch: int
    pruned_at: int | None
    ends_at_rung: bool
    is_in_driver: bool = False
    is_counted: bool = False


class StudyProposer(ABC):
    """A proposer that begins, reports and ends the trials of an Optuna study. A subclass decides which trials come next.

    It must not decide on the number of trials, nor write files. ``propose`` and ``resume`` must be called by one process at a
    time.

    Args:
        study: The study; its storage is written at every call.
        space: The search space.
        pruner: Stops trials early.
        epochs: Maximum number of epochs, or of folds if trials report folds.
        sign: Returns the facts, such as the driver, that are written first on a trial of a given number.
        seed: With one worker, the same seed gives the same proposals, whether or not the search was interrupted.
        fits: Returns whether the time left suffices for a configuration. Others are proposed only if none is found that fits.
        effective: Returns the values of a point that have an effect; see ``EvaluatedPoints``.
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
        fits: Callable[[Mapping[str, Value]], bool] = lambda _: True,
        effective: Callable[[Mapping[str, Value]], Mapping[str, Value]] = lambda point: point,
    ) -> None:
        study.pruner = pruner
        self._study = study
        self._space = space
        self._epochs = epochs
        self._seed = seed
        self._sign = sign
        self._fits = fits
        self._evaluated = EvaluatedPoints(space, effective)
        self._running: dict[int, _RunningTrial] = {}
        self._n_read = 0
        self._unfinished: set[int] = set()  # numbers, among the trials read

    @property
    def n_planned_full_trials(self) -> int | None:
        """Number of trials that will run to the study's last epoch, if the proposer plans it; None otherwise."""
        return None

    @abstractmethod
    def _next_slot(self, trials: Sequence[FrozenTrial]) -> Slot | Pause:
        """Decide on the next trial, given all trials of the study."""

    @abstractmethod
    def _draw(self, trial: optuna.Trial, attempt: int) -> dict[str, Value]:
        """Choose the values of a new trial, without writing them. Another attempt for the same trial gives other values."""

    def propose(self) -> Proposal | Pause:
        """Begin a trial. The first trial of the study has the values of the space's preset, if there is one."""
        trials = self._read()
        slot = self._next_slot(trials)
        if isinstance(slot, Pause):
            return slot
        if slot.parent is None:
            return self._begin(self._ask(trials), slot)
        return self._begin(self._continue(trials[slot.parent], slot, number=len(trials)), slot)

    def _ask(self, trials: Sequence[FrozenTrial]) -> optuna.Trial:
        """Return the first waiting trial for which the time suffices, or a new one if there is none."""
        waiting = [trial for trial in trials if trial.state is TrialState.WAITING]
        if not waiting:
            return self._study.ask()
        for trial in waiting:
            is_possible = self._fits({**enqueued_values(trial), **trial.params})
            # False if another process has begun the trial meanwhile
            if is_possible and storage_of(self._study).set_trial_state_values(trial_id_of(trial), TrialState.RUNNING):
                return optuna.Trial(self._study, trial_id_of(trial))
        self._study.add_trial(optuna.trial.create_trial(state=TrialState.RUNNING))
        return optuna.Trial(self._study, trial_id_of(self._study.get_trials(deepcopy=False)[-1]))

    def resume(self, number: int) -> Proposal:
        """Begin a RUNNING trial again, with the same values, after the process that ran it has died."""
        trials = self._read()
        stored = trials[number]
        trial = optuna.Trial(self._study, trial_id_of(stored))
        _record_progress(trial, stored)
        trial.set_user_attr("attempts", stored.user_attrs.get("attempts", 1) + 1)
        if stored.params or "rung" in stored.user_attrs:
            return self._begin(trial, Slot(stored.user_attrs.get("rung"), stored.user_attrs.get("parent")))
        slot = self._next_slot(trials)  # the process ended before the trial had a rung or values
        return self._begin(trial, slot if isinstance(slot, Slot) and slot.parent is None else Slot())

    def record_start(self, number: int) -> None:
        """Record that a trial of ``propose`` or ``resume`` begins in the process of this search.

        An attempt is counted when it has come as far as the earlier ones: before, they have shown that the trial is not the
        cause if the process dies.
        """
        running = self._running[number]
        running.is_in_driver = True
        if running.last_epoch == 0:
            with contextlib.suppress(UpdateFinishedTrialError):  # as in ``observe``
                self._count_start(running)

    def _count_start(self, running: _RunningTrial) -> None:
        attrs = self._study.get_trials(deepcopy=False)[running.trial.number].user_attrs
        running.trial.set_user_attr(_STARTS_IN_DRIVER, attrs.get(_STARTS_IN_DRIVER, 0) + 1)
        running.is_counted = True

    def requeue(self, number: int, ending: TrialEnd) -> None:
        """Record a failure after which the trial is repeated. It remains RUNNING until ``resume`` begins it again."""
        running = self._running.pop(number)
        trial = running.trial
        stored = self._study.get_trials(deepcopy=False)[number]
        attrs = stored.user_attrs
        has_progress = _record_progress(trial, stored)
        if running.is_counted and not has_progress:
            trial.set_user_attr(_STARTS_IN_DRIVER, attrs[_STARTS_IN_DRIVER] - 1)  # the search survived this start
        if ending.retry.halves_batch:
            trial.set_user_attr("halvings", attrs.get("halvings", 0) + 1)
        trial.set_user_attr("retries", [*attrs.get("retries", []), ending.error])

    def forget(self, number: int) -> None:
        """Remove a trial from the running ones, because another process has taken it over. Nothing is written."""
        self._running.pop(number, None)

    def continuable(self) -> set[int]:
        """Return the numbers of the trials that a later trial may continue. Their checkpoints are needed."""
        return {trial.number for trial in self._read() if "rung" in trial.user_attrs and trial.state is TrialState.PRUNED}

    def observe(self, number: int, report: Report) -> Decision:
        try:
            return self._observe(number, report)
        except UpdateFinishedTrialError:  # another process has just taken over the trial and finished it
            return Decision.STOP

    def _observe(self, number: int, report: Report) -> Decision:
        running = self._running[number]
        write_epoch(running.trial, report)
        _record_facts(running.trial, report.facts)
        if report.epoch < running.last_epoch:
            return Decision.CONTINUE  # a repeated trial passed this epoch before, and the pruner would use its later epochs
        if report.epoch == running.last_epoch and running.is_in_driver:
            self._count_start(running)
        running.last_epoch = report.epoch
        if report.epoch == running.pruned_at:
            return Decision.STOP  # decided by an earlier search, which ended before it wrote the end of the trial
        # The pruner is called even if its decision is ignored: Optuna's Hyperband records the trial's rung in this call.
        is_pruned = self._should_prune(running.trial, report)
        has_more_epochs = report.epoch < self._epochs
        if not (is_pruned and has_more_epochs and number >= _N_UNPRUNED_TRIALS):
            return Decision.CONTINUE
        running.trial.set_user_attr(_PRUNED_AT, report.epoch)
        return Decision.STOP

    def finish(self, number: int, ending: TrialEnd) -> None:
        """Record the end of a trial. The facts of a FINISHED trial must contain "score", or "values" for several objectives.

        This is the commit point: all files of a finished trial must exist before.
        """
        running = self._running.pop(number)
        with contextlib.suppress(UpdateFinishedTrialError):  # as in ``observe``
            self._write_end(running, ending)

    def _write_end(self, running: _RunningTrial, ending: TrialEnd) -> None:
        state, value = _STATES[ending.outcome], None
        facts = dict(ending.facts)
        values, violations = facts.pop("values", None), facts.pop("violations", None)
        _record_facts(running.trial, facts)
        _record_violations(running.trial, violations or {})
        if ending.outcome is Outcome.FAILED:
            running.trial.set_user_attr("error", ending.error)
        elif ending.outcome is Outcome.REFUSED:
            running.trial.set_user_attr("refusal", ending.error)
        elif ending.outcome is Outcome.FINISHED and running.ends_at_rung:
            running.trial.set_user_attr("stopped_by", "rung")
            state = TrialState.PRUNED
        elif ending.outcome is Outcome.FINISHED:
            value = values or facts["score"]
        self._study.tell(running.trial, value, state=state, skip_if_finished=True)

    def _should_prune(self, trial: optuna.Trial, report: Report) -> bool:
        """Return whether other trials were better at the epoch of a report. Optuna's pruners support one objective only."""
        return len(self._study.directions) == 1 and trial.should_prune()

    def _read(self) -> list[FrozenTrial]:
        """Read all trials, and record the points of those that other processes may have changed since the last call."""
        trials = self._study.get_trials(deepcopy=False)
        self._unfinished.update(range(self._n_read, len(trials)))
        self._n_read = len(trials)
        for trial in [trials[number] for number in self._unfinished - self._running.keys()]:
            if trial.state.is_finished() or trial.params:
                self._evaluated.add(trial.number, trial.params)
            if trial.state.is_finished():
                self._unfinished.discard(trial.number)
        return trials

    def _continue(self, parent: FrozenTrial, slot: Slot, *, number: int) -> optuna.Trial:
        """Create a trial with its parent's values, in one transaction."""
        continued = optuna.trial.create_trial(
            state=TrialState.RUNNING,
            params=parent.params,
            distributions=parent.distributions,
            user_attrs=self._first_facts(number, slot),
        )
        self._study.add_trial(continued)
        return optuna.Trial(self._study, trial_id_of(self._study.get_trials(deepcopy=False)[number]))

    def _begin(self, trial: optuna.Trial, slot: Slot) -> Proposal:
        """Write the facts and the values of a running trial, keep those that it already has, and return its proposal."""
        _record_facts(trial, self._first_facts(trial.number, slot))
        stored = self._study.get_trials(deepcopy=False)[trial.number]
        trial, values = self._write(trial, self._choose(trial, stored))
        ends_at_rung = slot.epochs is not None and slot.epochs < self._epochs
        last_epoch = max(read_scores(stored), default=0)
        self._running[trial.number] = _RunningTrial(trial, last_epoch, stored.user_attrs.get(_PRUNED_AT), ends_at_rung)
        self._evaluated.add(trial.number, values)
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
            facts["rung"] = slot.epochs  # last: ``resume`` assumes that a trial with a rung has all its facts
        return facts

    def _choose(self, trial: optuna.Trial, stored: FrozenTrial) -> dict[str, Value]:
        """Complete the values that a trial has or was enqueued with; if it has none, choose a new point."""
        known = {**enqueued_values(stored), **stored.params}
        if trial.number == 0 and not known:
            known = self._space.preset() or {}
        if not known:
            return self._evaluated.new_point(
                functools.partial(self._draw, trial), self._completion_rng(trial.number), fits=self._fits
            )
        draw = functools.cache(lambda: self._draw(trial, 0))
        rng = self._completion_rng(trial.number)

        def complete(parameter: Parameter) -> Value:
            if parameter.name in known:
                return cast("Value", known[parameter.name])
            return draw().get(parameter.name) if parameter.name in draw() else parameter.sample(rng)  # type: ignore[return-value]

        return self._space.resolve(complete)

    def _write(self, trial: optuna.Trial, values: Mapping[str, Value]) -> tuple[optuna.Trial, dict[str, Value]]:
        """Make Optuna suggest the chosen values, so that they are stored like values of its own samplers."""
        sampler = self._study.sampler
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)  # PartialFixedSampler
            self._study.sampler = optuna.samplers.PartialFixedSampler(dict(values), optuna.samplers.RandomSampler())
        try:
            trial = optuna.Trial(self._study, trial_id_of(trial))
            return trial, self._space.resolve(lambda parameter: suggest(trial, parameter))
        finally:
            self._study.sampler = sampler

    def _completion_rng(self, number: int) -> np.random.Generator:
        return np.random.default_rng((self._seed, number, _RANDOM_STREAM))

    def _draw_seed(self, number: int, attempt: int) -> int:
        """Return the seed of a draw. Each draw has its own, so a restarted search does not draw the first trials again."""
        entropy = (self._seed, number) if attempt == 0 else (self._seed, number, attempt)
        return int(np.random.SeedSequence(entropy).generate_state(1)[0])


def _record_progress(trial: optuna.Trial, stored: FrozenTrial) -> bool:
    """Return whether the trial has reported new epochs. If so, its starts and errors are counted from there."""
    epochs, attrs = max(read_scores(stored), default=0), stored.user_attrs
    has_progress = epochs > attrs.get("epochs_at_progress", 0)
    if has_progress:
        trial.set_user_attr("retries_at_progress", len(attrs.get("retries", ())))
        trial.set_user_attr("epochs_at_progress", epochs)
        if attrs.get(_STARTS_IN_DRIVER, 0):
            trial.set_user_attr(_STARTS_IN_DRIVER, 0)
    return has_progress


def _record_facts(trial: optuna.Trial, facts: Facts) -> None:
    """Write the facts that a trial does not have yet; each needs a write to the storage."""
    for name, value in facts.items():
        if trial.user_attrs.get(name) != value:
            trial.set_user_attr(name, value)


def _record_violations(trial: optuna.Trial, violations: Mapping[str, float]) -> None:
    """Write violations as Optuna constraints, which samplers and dashboards read. Earlier constraints are kept."""
    known = trial.constraints if violations else {}
    for name, violation in violations.items():
        if name not in known:
            trial.set_constraint(name, violation)


def suggest(trial: optuna.Trial, parameter: Parameter) -> Value:
    """Return a value that Optuna suggests for a parameter. The possible values are exactly those of the parameter."""
    match parameter:
        case Float():
            return trial.suggest_float(parameter.name, parameter.low, parameter.high, step=parameter.step, log=parameter.log)
        case Int():
            return trial.suggest_int(parameter.name, parameter.low, parameter.high, step=parameter.step, log=parameter.log)
        case Choice():
            return cast("Value", trial.suggest_categorical(parameter.name, parameter.values))


def to_optuna(parameter: Parameter) -> optuna.distributions.BaseDistribution:
    """Return the Optuna distribution of a parameter, the same as in ``suggest``."""
    match parameter:
        case Float():
            return optuna.distributions.FloatDistribution(parameter.low, parameter.high, step=parameter.step, log=parameter.log)
        case Int():
            return optuna.distributions.IntDistribution(parameter.low, parameter.high, step=parameter.step, log=parameter.log)
        case Choice():
            return optuna.distributions.CategoricalDistribution(parameter.values)
