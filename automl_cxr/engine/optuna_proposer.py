"""Proposers with the samplers and pruners of Optuna. Both depend only on the study's storage, so a restart changes nothing.

Samplers compare trials of the same number of epochs only. TPE ranks PRUNED trials below all COMPLETE ones, by the epoch that
they reached; all other samplers learn from COMPLETE trials only.

tpe, gp, nsga2 and nsga3 learn from constraint violations. tpe ranks every trial that violates a constraint, trained or refused,
below all others. gp fits a model of each constraint to the COMPLETE trials. In nsga2 and nsga3, feasible trials dominate
infeasible ones. The other samplers ignore constraints.
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
from automl_cxr.engine.hub_samplers import is_hub_sampler, make_hub_sampler
from automl_cxr.engine.intermediate_values import read_values
from automl_cxr.engine.parameters import Parameter, Value
from automl_cxr.engine.pareto import ParetoHalving, is_among_best_third
from automl_cxr.engine.protocol import Facts, Pause, Report
from automl_cxr.engine.space import Space
from automl_cxr.engine.successive_halving import REDUCTION, SuccessiveHalving
from automl_cxr.engine.warm_start_view import WarmStartPoint, add_priors_to_study
from automl_cxr.errors import UnknownNameError, UsageError
from automl_cxr.optuna_private import trial_id_of

_STARTUP = 8  # random trials before a model is fitted; Optuna's default of 10 is half of a small search
_POPULATION = 16  # population size; with Optuna's default of 50, the first 50 trials are random


_FEWEST_EPOCHS = 2  # before a trial may be stopped: validation scores after the first epoch are mostly noise


def first_rung(epochs: int) -> int:
    """Return the epoch at which ``asha`` first compares trials: a third of all epochs.

    The curves of different configurations cross in the first epochs. On recorded curves of heads, a first comparison after a
    ninth of the epochs finds worse configurations than random search; on LCBench both are equal (``benchmarks/README.md``).
    """
    return max(_FEWEST_EPOCHS, epochs // REDUCTION)


def shortest_trial(epochs: int) -> int:
    """Return the epoch at which ``hyperband`` and ``median`` first stop trials: a ninth of all epochs.

    Hyperband has further brackets, in which trials are stopped later.
    """
    return max(_FEWEST_EPOCHS, epochs // REDUCTION**2)


class _CmaEs(optuna.samplers.CmaEsSampler):
    """CMA-ES over the numeric parameters that are active in every point; the others are drawn at random.

    Optuna's own sampler uses the parameters that all trials so far have, and stops working if a later trial lacks one.
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
        """Do nothing; Optuna's own method warns that constraints are ignored."""


class _Qmc(optuna.samplers.QMCSampler):
    """A scrambled Sobol sequence over all parameters; the coordinates of inactive parameters are ignored.

    Optuna's own sampler uses the parameters of the first trial only. The sequence depends on the study's seed, and the study
    stores the position in it. A search that is killed after it draws a point and before it writes the trial skips that point.
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
        space.points()  # raises UsageError for an infinite space
        super().__init__(seed=seed)

    def after_trial(self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        """Do nothing: Optuna's own method stops ``Study.optimize``, which is not used here."""


def _gp(space: Space, study_seed: int, seed: int) -> optuna.samplers.BaseSampler:
    if importlib.util.find_spec("torch") is None:
        raise UsageError(
            "Sampler 'gp' needs PyTorch, which is not installed. Install automl-cxr[gp], or use tpe, cmaes or kt-bayesian."
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
"""Functions that create the samplers, by name, from the space, the study's seed and the trial's seed. Add new samplers here."""

LEARNING_SAMPLERS = ("tpe", "gp")
"""Samplers that can learn from the scores of an earlier study. CMA-ES and the genetic samplers use their own trials only."""

PRUNERS: Mapping[str, Callable[[int], optuna.pruners.BasePruner]] = {
    "asha": lambda epochs: SuccessiveHalving(first_rung(epochs)),
    "hyperband": lambda epochs: optuna.pruners.HyperbandPruner(
        min_resource=min(epochs, shortest_trial(epochs)), max_resource=epochs, reduction_factor=REDUCTION
    ),
    "median": lambda epochs: optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=shortest_trial(epochs)),
    "none": lambda _: optuna.pruners.NopPruner(),
}
"""Functions that create the pruners, by name, from the maximum number of epochs; ``FOLD_PRUNERS`` are those for folds.

hyperband assigns a trial to a bracket by its number and the study's name, and samplers learn from the trials of one bracket.
"""

SEVERAL_OBJECTIVES = frozenset({"tpe", "random", "gp", "qmc", "grid", "nsga2", "nsga3", "asha", "none"})
"""Samplers and pruners that support several objectives; ``asha`` then compares Pareto ranks."""


def make_sampler(name: str, space: Space, *, study_seed: int, seed: int) -> optuna.samplers.BaseSampler:
    """Create a sampler.

    Raises:
        UnknownNameError: OptunaHub's registry has no such sampler.
        UsageError: It needs a library that is not installed, or a finite space; or a sampler of OptunaHub cannot be loaded.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)  # for TPE's groups and for BruteForceSampler
        return make_hub_sampler(name, space, seed=seed) if is_hub_sampler(name) else SAMPLERS[name](space, study_seed, seed)


def check_several_objectives(n_objectives: int, *, sampler: str, pruner: str) -> None:
    """Check that a sampler and a pruner support the number of objectives. Whether a sampler of OptunaHub does is not known.

    Raises:
        UsageError: One of them supports a single objective only.
    """
    if n_objectives == 1:
        return
    for kind, name, table in (("Sampler", sampler, SAMPLERS), ("Pruner", pruner, PRUNERS)):
        if name not in SEVERAL_OBJECTIVES and not is_hub_sampler(name):
            supported = ", ".join(known for known in table if known in SEVERAL_OBJECTIVES)
            raise UsageError(
                f"{kind} '{name}' supports one objective only; received {n_objectives}. "
                f"Use one of {supported}, or one objective."
            )


def make_pruner(name: str, *, epochs: int, folds: int) -> optuna.pruners.BasePruner:
    """Create a pruner: one that compares folds if trials report folds, otherwise one that compares epochs.

    Raises:
        UnknownNameError: The pruner does not exist.
        UsageError: It compares epochs and trials report folds, or the other way round.
    """
    if name not in {*PRUNERS, *FOLD_PRUNERS}:
        raise UnknownNameError("pruner", name, {*PRUNERS, *FOLD_PRUNERS})
    if folds and name not in FOLD_PRUNERS:
        raise UsageError(
            f"A pruner must compare folds if --folds is set; received --pruner {name} with --folds {folds}. "
            f"Use one of {', '.join(FOLD_PRUNERS)}, or omit --folds."
        )
    if not folds and name not in PRUNERS:
        raise UsageError(
            f"Pruner {name} compares the folds of two trials; received no --folds. "
            f"Add --folds 5, or use one of {', '.join(PRUNERS)}."
        )
    return FOLD_PRUNERS[name](folds) if folds else PRUNERS[name](epochs)


class OptunaProposer(StudyProposer):
    """A proposer with an Optuna sampler.

    Args:
        study: The study; its storage is written at every call.
        space: The search space.
        sampler: A name in ``SAMPLERS``, or that of a sampler of OptunaHub.
        pruner: A name in ``PRUNERS``, or in ``FOLD_PRUNERS`` if there are folds.
        epochs: Maximum number of epochs of a trial.
        folds: Number of folds, which trials then report instead of epochs; 0 for none.
        sign: Returns the facts, such as the driver, that are written first on a trial of a given number.
        seed: With one worker, the same seed gives the same proposals, whether or not the search was interrupted (a sampler of
            OptunaHub may propose others after an interruption).
        priors: Points and scores of an earlier study, for ``LEARNING_SAMPLERS``.
        fits: See ``StudyProposer``.
        effective: See ``StudyProposer``.

    Raises:
        UnknownNameError: The sampler or the pruner does not exist.
        UsageError: The sampler needs a library that is not installed, or a finite space; the sampler or the pruner supports
            one objective only; or the pruner does not match the reports (epochs or folds).
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
        fits: Callable[[Mapping[str, Value]], bool] = lambda _: True,
        effective: Callable[[Mapping[str, Value]], Mapping[str, Value]] = lambda point: point,
    ) -> None:
        if sampler not in SAMPLERS and not is_hub_sampler(sampler):
            raise UnknownNameError("sampler", sampler, SAMPLERS)
        created_pruner = make_pruner(pruner, epochs=epochs, folds=folds)
        check_several_objectives(len(study.directions), sampler=sampler, pruner=pruner)
        super().__init__(
            study,
            space,
            pruner=created_pruner,
            epochs=folds or epochs,
            seed=seed,
            sign=sign,
            fits=fits,
            effective=effective,
        )
        is_halving = pruner == "asha" and len(study.directions) > 1
        self._halving = ParetoHalving(first_rung(epochs)) if is_halving else None
        self._sampler = sampler
        self._priors = priors if sampler in LEARNING_SAMPLERS else ()
        # A sampler is created here, so that a UsageError is raised before the first trial. One of OptunaHub may keep its state
        # in memory, so it is created once; its seed depends on the finished trials, which else would be proposed again.
        self._is_created_once = is_hub_sampler(sampler)
        self._set_sampler(len(study.get_trials(deepcopy=False)) if self._is_created_once else 0, attempt=0)

    def _next_slot(self, trials: Sequence[FrozenTrial]) -> Slot | Pause:
        is_over = self._sampler == "grid" and self._evaluated.first_unevaluated() is None
        return Pause.OVER if is_over else Slot()

    def _draw(self, trial: optuna.Trial, attempt: int) -> dict[str, Value]:
        """Sample values as ``Trial.suggest_...`` does, without writing them."""
        if not self._is_created_once:
            self._set_sampler(trial.number, attempt)
        study = add_priors_to_study(self._study, self._space, self._priors)
        sampled = optuna.Trial(study, trial_id_of(trial))
        relative = sampled.relative_params
        current = copy.copy(self._study.get_trials(deepcopy=False)[trial.number])
        current.params, current.distributions = {}, {}

        def choose(parameter: Parameter) -> Value:
            distribution = to_optuna(parameter)
            if parameter.name in relative:
                value = relative[parameter.name]
            else:
                value = self._study.sampler.sample_independent(study, current, parameter.name, distribution)
            value = distribution.to_external_repr(distribution.to_internal_repr(value))
            current.params[parameter.name], current.distributions[parameter.name] = value, distribution
            return value

        return self._space.resolve(choose)

    def _should_prune(self, trial: optuna.Trial, report: Report) -> bool:
        if self._halving is None:
            return super()._should_prune(trial, report)
        if not self._halving.is_rung(report.epoch):
            return False
        signs = [-1.0 if direction is StudyDirection.MAXIMIZE else 1.0 for direction in self._study.directions]
        reached = {stored.number: read_values(stored, report.epoch) for stored in self._study.get_trials(deepcopy=False)}
        reached_values = {number: values for number, values in reached.items() if values is not None}
        losses = np.array(list(reached_values.values()), dtype=np.float64) * signs  # None becomes NaN
        return not is_among_best_third(losses, list(reached_values).index(trial.number))

    def _set_sampler(self, number: int, attempt: int) -> None:
        seed = self._draw_seed(number, attempt)
        self._study.sampler = make_sampler(self._sampler, self._space, study_seed=self._seed, seed=seed)
