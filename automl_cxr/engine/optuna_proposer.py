"""Optuna proposes, and its pruners stop early; both decide from the study's storage alone, and a restart forgets nothing."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import cast

import numpy as np
import optuna
from optuna.exceptions import ExperimentalWarning

from automl_cxr.engine.proposal import Ending, Facts, Outcome, Pause, Proposal, Report, Verdict
from automl_cxr.engine.space import Choice, Float, Int, Parameter, Space, Value
from automl_cxr.errors import UnknownNameError

_STATES = {
    Outcome.FINISHED: optuna.trial.TrialState.COMPLETE,
    Outcome.STOPPED: optuna.trial.TrialState.PRUNED,
    Outcome.FAILED: optuna.trial.TrialState.FAIL,
}

SAMPLERS: Mapping[str, Callable[[int], optuna.samplers.BaseSampler]] = {
    "tpe": lambda seed: optuna.samplers.TPESampler(seed=seed, n_startup_trials=8, group=True),
    "random": lambda seed: optuna.samplers.RandomSampler(seed=seed),
}
"""Samplers by name, each made from a seed. A row is all that another one takes."""

PRUNERS: Mapping[str, Callable[[int], optuna.pruners.BasePruner]] = {
    "asha": lambda epochs: optuna.pruners.SuccessiveHalvingPruner(min_resource=first_rung(epochs), reduction_factor=_REDUCTION),
    "median": lambda epochs: optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=first_rung(epochs)),
    "none": lambda _: optuna.pruners.NopPruner(),
}
"""Pruners by name, each made from the most epochs that a trial may take."""

_REDUCTION = 3
_NEVER_STOPPED = 6  # first trials: they give the samplers full scores to learn from, and an ensemble its members


def first_rung(epochs: int) -> int:
    """Choose the epoch of the first stopping decision: a ninth of all, so that two threefold rungs follow before the end.

    Never the first epoch, after which validation scores are mostly noise.
    """
    return max(2, epochs // _REDUCTION**2)


class OptunaProposer:
    """Proposes points of a space through an Optuna study, and writes what becomes of them there.

    Must not decide how many trials there are, nor keep files: that is the study's business.

    Args:
        study: The record; its storage is written at every call.
        space: What is searched.
        sampler: A name in ``SAMPLERS``.
        pruner: A name in ``PRUNERS``.
        epochs: The most epochs that a trial may take.
        sign: Facts that are written on a trial, given its number, before anything else is.
        seed: With one worker, the same seed gives the same proposals, whether or not the search was interrupted.

    Raises:
        UnknownNameError: No such sampler or pruner.
    """

    def __init__(
        self,
        study: optuna.Study,
        space: Space,
        *,
        sampler: str = "tpe",
        pruner: str = "asha",
        epochs: int,
        seed: int,
        sign: Callable[[int], Facts] = lambda _: {},
    ) -> None:
        if sampler not in SAMPLERS:
            raise UnknownNameError("sampler", sampler, SAMPLERS)
        if pruner not in PRUNERS:
            raise UnknownNameError("pruner", pruner, PRUNERS)
        self._study = study
        self._space = space
        self._make_sampler = SAMPLERS[sampler]
        study.pruner = PRUNERS[pruner](epochs)
        self._epochs = epochs
        self._seed = seed
        self._sign = sign
        self._live: dict[int, optuna.Trial] = {}
        self._last_epochs: dict[int, int] = {}  # that a trial has ever reported, in earlier attempts too

    def propose(self) -> Proposal | Pause:
        """Begin a trial; the study's very first is the space's preset, where it has one."""
        number = len(self._study.get_trials(deepcopy=False))
        preset = self._space.preset() if number == 0 else None
        if preset is not None:
            self._study.enqueue_trial(preset)
        self._seed_sampler(number)
        return self._begin(self._study.ask())

    def resume(self, number: int) -> Proposal:
        """Begin a trial again that another process left running, with the values that it had."""
        self._seed_sampler(number)
        stored = self._study.get_trials(deepcopy=False)[number]
        trial = optuna.Trial(self._study, stored._trial_id)
        trial.set_user_attr("attempts", stored.user_attrs.get("attempts", 1) + 1)
        return self._begin(trial)

    def observe(self, number: int, report: Report) -> Verdict:
        trial = self._live[number]
        with warnings.catch_warnings():
            # A resumed trial reports its first epochs again; Optuna keeps the earlier value, which is the same.
            warnings.filterwarnings("ignore", message="The reported value is ignored", category=UserWarning)
            trial.report(report.score, report.epoch)
        _note(trial, report.facts)
        if report.epoch < self._last_epochs.get(number, 0):
            return Verdict.CONTINUE  # a repeated trial was judged here before, and the pruner would look at its later epochs
        self._last_epochs[number] = report.epoch
        # The pruner is asked even where its word does not count: asking is what writes the trial's rung to the record.
        is_beaten = trial.should_prune()
        has_more_to_pay = report.epoch < self._epochs
        return Verdict.STOP if is_beaten and has_more_to_pay and number >= _NEVER_STOPPED else Verdict.CONTINUE

    def finish(self, number: int, ending: Ending) -> None:
        """Write the end of a trial. ``ending.facts`` must hold "score" when it FINISHED.

        This is the commit point: whatever has to exist for a finished trial must exist before.
        """
        trial = self._live.pop(number)
        _note(trial, ending.facts)
        if ending.outcome is Outcome.FAILED:
            trial.set_user_attr("error", ending.error)
        value = ending.facts["score"] if ending.outcome is Outcome.FINISHED else None
        self._study.tell(trial, value, state=_STATES[ending.outcome])

    def _begin(self, trial: optuna.Trial) -> Proposal:
        _note(trial, self._sign(trial.number))
        values = self._space.resolve(lambda parameter: suggest(trial, parameter))
        self._live[trial.number] = trial
        self._last_epochs[trial.number] = max(
            self._study.get_trials(deepcopy=False)[trial.number].intermediate_values, default=0
        )
        return Proposal(trial.number, values)

    def _seed_sampler(self, number: int) -> None:
        """Give every trial a stream of its own, so that a restarted search does not draw the first trials again."""
        seed = int(np.random.SeedSequence((self._seed, number)).generate_state(1)[0])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)  # group: TPE for spaces with conditions
            self._study.sampler = self._make_sampler(seed)


def _note(trial: optuna.Trial, facts: Facts) -> None:
    """Write facts that are not yet on a trial; each costs a write to the storage."""
    for name, value in facts.items():
        if trial.user_attrs.get(name) != value:
            trial.set_user_attr(name, value)


def suggest(trial: optuna.Trial, parameter: Parameter) -> Value:
    """Ask Optuna for a value of one parameter; the values reached are exactly those of the parameter."""
    match parameter:
        case Float():
            return trial.suggest_float(parameter.name, parameter.low, parameter.high, step=parameter.step, log=parameter.log)
        case Int():
            return trial.suggest_int(parameter.name, parameter.low, parameter.high, step=parameter.step, log=parameter.log)
        case Choice():
            return cast("Value", trial.suggest_categorical(parameter.name, parameter.values))
