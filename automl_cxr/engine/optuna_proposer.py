"""Optuna proposes, and its pruners stop early; both decide from the study's storage alone, and a restart forgets nothing.

Samplers compare equal fidelities only. TPE ranks the trials that were stopped by the epoch they reached and below every
COMPLETE one; all other samplers here learn from COMPLETE trials alone.

tpe, gp, nsga2 and nsga3 learn from the violations that stand on the trials: tpe ranks every trial that violates a constraint,
trained or refused, below all others; gp models how far each COMPLETE trial keeps or breaks each constraint; nsga2 and nsga3 let
the feasible dominate the infeasible. The other samplers here propose as if there were no constraint.
"""

from __future__ import annotations

import copy
import importlib.util
import warnings
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from automl_cxr.engine.base_proposer import Slot, StudyProposer, to_optuna
from automl_cxr.engine.fold_pruners import FOLD_PRUNERS
from automl_cxr.engine.intermediate_values import read_values
from automl_cxr.engine.pareto import ParetoHalving, is_among_best_third
from automl_cxr.engine.protocol import Facts, Pause, Report
from automl_cxr.engine.space import Parameter, Space, Value
from automl_cxr.engine.successive_halving import REDUCTION, SuccessiveHalving
from automl_cxr.engine.warm_start_view import WarmStartPoint, add_priors_to_study
from automl_cxr.errors import UnknownNameError, UsageError
from automl_cxr.optuna_private import trial_id_of

_STARTUP = 8  # trials at random before a model is fitted; Optuna's own 10 is half of a small search
_POPULATION = 16  # of a generation; Optuna's own 50 is random search for as many trials


def first_rung(epochs: int) -> int:
    """Choose the epoch of the first stopping decision: a ninth of all, so that two threefold rungs follow before the end.

    Never the first epoch, after which validation scores are mostly noise.
    """
    return max(2, epochs // REDUCTION**2)


class _CmaEs(optuna.samplers.CmaEsSampler):
    """CMA-ES over the numbers that every point has; the rest is drawn at random.

    Optuna's own takes the parameters that all trials so far had in common, and gives up for good when a later trial lacks one.
    """

    def __init__(self, space: Space, seed: int) -> None:
        super().__init__(
            seed=seed, independent_sampler=optuna.samplers.RandomSampler(seed=seed), warn_independent_sampling=False
        )
        searched = {parameter.name: to_optuna(parameter) for parameter in space.unconditional()}
        self._numbers = {
            name: distribution
            for name, distribution in searched.items()
            if not isinstance(distribution, CategoricalDistribution) and not distribution.single()
        }

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return dict(self._numbers)

    def after_trial(self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        """Do nothing; Optuna's own warns of every constraint, which it does not use."""


class _Qmc(optuna.samplers.QMCSampler):
    """A scrambled Sobol sequence over all parameters; a point has no use for the coordinates of those that are inactive.

    Optuna's own takes the parameters of the first trial. The sequence belongs to the study's seed and its position is kept in
    the study, so a search that was killed between drawing a point and writing it leaves that point out.
    """

    def __init__(self, space: Space, study_seed: int) -> None:
        super().__init__(
            seed=study_seed,
            scramble=True,
            independent_sampler=optuna.samplers.RandomSampler(seed=study_seed),
            warn_independent_sampling=False,
        )
        self._all = {parameter.name: to_optuna(parameter) for parameter in space.parameters}

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return dict(self._all)


class _Grid(optuna.samplers.BruteForceSampler):
    """Every point once, in random order."""

    def __init__(self, space: Space, seed: int) -> None:
        space.points()  # refuses a space without end
        super().__init__(seed=seed)

    def after_trial(self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        """Stop nothing: the proposer sees for itself when it is over, and Optuna has no loop here that could be stopped."""


def _gp(space: Space, study_seed: int, seed: int) -> optuna.samplers.BaseSampler:
    if importlib.util.find_spec("torch") is None:
        raise UsageError(
            "Sampler 'gp' needs PyTorch, which is not installed. Install automl-cxr[gp], or take tpe, cmaes or kt-bayesian."
        )
    return optuna.samplers.GPSampler(
        seed=seed,
        n_startup_trials=_STARTUP,
        independent_sampler=optuna.samplers.RandomSampler(seed=seed),
        warn_independent_sampling=False,
    )


SAMPLERS: Mapping[str, Callable[[Space, int, int], optuna.samplers.BaseSampler]] = {
    "tpe": lambda _, __, seed: optuna.samplers.TPESampler(seed=seed, n_startup_trials=_STARTUP, multivariate=True, group=True),
    "random": lambda _, __, seed: optuna.samplers.RandomSampler(seed=seed),
    "gp": _gp,
    "cmaes": lambda space, _, seed: _CmaEs(space, seed),
    "qmc": lambda space, study_seed, _: _Qmc(space, study_seed),
    "grid": lambda space, _, seed: _Grid(space, seed),
    "nsga2": lambda _, __, seed: optuna.samplers.NSGAIISampler(seed=seed, population_size=_POPULATION),
    "nsga3": lambda _, __, seed: optuna.samplers.NSGAIIISampler(seed=seed, population_size=_POPULATION),
}
"""Samplers by name, each made from the space, the study's seed and the trial's. A row is all that another one takes."""

LEARNING_SAMPLERS = ("tpe", "gp")
"""Those that learn from the scores of an earlier study. CMA-ES and the genetic ones learn from their own generations alone."""

PRUNERS: Mapping[str, Callable[[int], optuna.pruners.BasePruner]] = {
    "asha": lambda epochs: SuccessiveHalving(first_rung(epochs)),
    "hyperband": lambda epochs: optuna.pruners.HyperbandPruner(
        min_resource=min(epochs, first_rung(epochs)), max_resource=epochs, reduction_factor=REDUCTION
    ),
    "median": lambda epochs: optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=first_rung(epochs)),
    "none": lambda _: optuna.pruners.NopPruner(),
}
"""Pruners by name, each made from the most epochs that a trial may take; ``FOLD_PRUNERS`` are those of folds.

hyperband assigns a trial to its bracket by its number and the study's name, and samplers then learn within the bracket.
"""

SEVERAL_OBJECTIVES = frozenset({"tpe", "random", "gp", "qmc", "grid", "nsga2", "nsga3", "asha", "none"})
"""Samplers and pruners that know what to do with several objectives; ``asha`` then compares Pareto ranks."""


def make_sampler(name: str, space: Space, *, study_seed: int, seed: int) -> optuna.samplers.BaseSampler:
    """Make the sampler of a row.

    Raises:
        UsageError: It needs a library that is not installed, or a space with an end.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)  # TPE's groups, for spaces with conditions; brute force
        return SAMPLERS[name](space, study_seed, seed)


def check_several_objectives(n_objectives: int, *, sampler: str, pruner: str) -> None:
    """Refuse, for several objectives, what knows one only.

    Raises:
        UsageError: It does.
    """
    if n_objectives == 1:
        return
    for kind, name, table in (("Sampler", sampler, SAMPLERS), ("Pruner", pruner, PRUNERS)):
        if name not in SEVERAL_OBJECTIVES:
            able = ", ".join(known for known in table if known in SEVERAL_OBJECTIVES)
            raise UsageError(
                f"{kind} '{name}' knows one objective only; received {n_objectives}. Take one of {able}, or name one objective."
            )


def make_pruner(name: str, *, epochs: int, folds: int) -> optuna.pruners.BasePruner:
    """Make the pruner of a name: one that judges by folds where a trial reports these, and by epochs otherwise.

    Raises:
        UnknownNameError: No such pruner.
        UsageError: It does not judge by what a trial reports.
    """
    if name not in {*PRUNERS, *FOLD_PRUNERS}:
        raise UnknownNameError("pruner", name, {*PRUNERS, *FOLD_PRUNERS})
    if folds and name not in FOLD_PRUNERS:
        raise UsageError(
            f"A pruner must judge by folds where trials report these; received --pruner {name} with --folds {folds}. "
            f"Take one of {', '.join(FOLD_PRUNERS)}, or leave --folds out."
        )
    if not folds and name not in PRUNERS:
        raise UsageError(
            f"Pruner {name} compares the folds of two trials; received no --folds. "
            f"Add --folds 5, or take one of {', '.join(PRUNERS)}."
        )
    return FOLD_PRUNERS[name](folds) if folds else PRUNERS[name](epochs)


class OptunaProposer(StudyProposer):
    """Proposes what an Optuna sampler suggests.

    Args:
        study: The record; its storage is written at every call.
        space: What is searched.
        sampler: A name in ``SAMPLERS``.
        pruner: A name in ``PRUNERS``, or with folds in ``FOLD_PRUNERS``.
        epochs: The most epochs that a trial may take.
        folds: Folds of a trial, which it then reports instead of epochs; 0 for none.
        sign: Facts that are written on a trial, given its number, before anything else is.
        seed: With one worker, the same seed gives the same proposals, whether or not the search was interrupted.
        priors: What one of ``LEARNING_SAMPLERS`` knows from an earlier study.

    Raises:
        UnknownNameError: No such sampler or pruner.
        UsageError: The sampler needs a library that is not installed, or a space with an end; or sampler or pruner know one
            objective only, or the pruner does not judge by what trials report.
    """

    def __init__(
        self,
        study: optuna.Study,
        space: Space,
        *,
        sampler: str = "tpe",
        pruner: str = "asha",
        epochs: int,
        folds: int = 0,
        seed: int,
        sign: Callable[[int], Facts] = lambda _: {},
        priors: Sequence[WarmStartPoint] = (),
    ) -> None:
        if sampler not in SAMPLERS:
            raise UnknownNameError("sampler", sampler, SAMPLERS)
        judge = make_pruner(pruner, epochs=epochs, folds=folds)
        check_several_objectives(len(study.directions), sampler=sampler, pruner=pruner)
        super().__init__(study, space, pruner=judge, epochs=folds or epochs, seed=seed, sign=sign)
        is_halving = pruner == "asha" and len(study.directions) > 1
        self._halving = ParetoHalving(first_rung(epochs)) if is_halving else None
        self._sampler = sampler
        self._priors = priors if sampler in LEARNING_SAMPLERS else ()
        self._set_sampler(number=0, attempt=0)  # what cannot work is refused here, not at the first trial

    def _next_slot(self, trials: Sequence[FrozenTrial]) -> Slot | Pause:
        is_over = self._sampler == "grid" and self._tried.first_unevaluated() is None
        return Pause.OVER if is_over else Slot()

    def _draw(self, trial: optuna.Trial, attempt: int) -> dict[str, Value]:
        """Ask the sampler as ``Trial.suggest_...`` does, writing nothing."""
        self._set_sampler(trial.number, attempt)
        study = add_priors_to_study(self._study, self._space, self._priors)
        asked = optuna.Trial(study, trial_id_of(trial))
        relative = asked.relative_params
        begun = copy.copy(self._study.get_trials(deepcopy=False)[trial.number])
        begun.params, begun.distributions = {}, {}

        def choose(parameter: Parameter) -> Value:
            distribution = to_optuna(parameter)
            if parameter.name in relative:
                value = relative[parameter.name]
            else:
                value = self._study.sampler.sample_independent(study, begun, parameter.name, distribution)
            value = distribution.to_external_repr(distribution.to_internal_repr(value))
            begun.params[parameter.name], begun.distributions[parameter.name] = value, distribution
            return value

        return self._space.resolve(choose)

    def _is_beaten(self, trial: optuna.Trial, report: Report) -> bool:
        if self._halving is None:
            return super()._is_beaten(trial, report)
        if not self._halving.is_rung(report.epoch):
            return False
        signs = [-1.0 if direction is StudyDirection.MAXIMIZE else 1.0 for direction in self._study.directions]
        reached = {stored.number: read_values(stored, report.epoch) for stored in self._study.get_trials(deepcopy=False)}
        rivals = {number: values for number, values in reached.items() if values is not None}
        losses = np.array(list(rivals.values()), dtype=np.float64) * signs  # None becomes NaN
        return not is_among_best_third(losses, list(rivals).index(trial.number))

    def _set_sampler(self, number: int, attempt: int) -> None:
        seed = self._stream(number, attempt)
        self._study.sampler = make_sampler(self._sampler, self._space, study_seed=self._seed, seed=seed)
