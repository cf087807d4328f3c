"""Proposers with the oracles of KerasTuner, called through ``populate_space``. Its tuners and its files are not used.

Each proposal uses a new oracle with the trials of the study, so a restarted search, or a second search on the same study, makes
the same decisions. Importing this module loads Keras, which takes some seconds.
"""

from __future__ import annotations

import contextlib
import math
import warnings
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import keras_tuner
import optuna
from keras_tuner.engine.trial import Trial
from keras_tuner.oracles import BayesianOptimizationOracle, GridSearchOracle, HyperbandOracle, RandomSearchOracle
from optuna.trial import FrozenTrial, TrialState
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_limits

from automl_cxr.engine.base_proposer import Slot, StudyProposer
from automl_cxr.engine.optuna_proposer import PRUNERS, make_pruner
from automl_cxr.engine.parameters import Choice, Float, Int, Parameter, Value
from automl_cxr.engine.protocol import Facts, Pause
from automl_cxr.engine.space import Space
from automl_cxr.errors import UnknownNameError

_FACTOR = 3
_STARTUP = 8  # random trials before a model is fitted; KerasTuner's default is three for each parameter, most of a search
_SCORE = "score"


# ---------------------------------------------------------------------------------------------------- spaces


def to_kerastuner(space: Space, *, as_grid: bool = False) -> keras_tuner.HyperParameters:
    """Convert a space to KerasTuner.

    A parameter with finitely many values becomes the index of its value: KerasTuner would convert True to 1, lose the upper
    bound of a range with steps of 0.1 and reject choices of mixed types. A parameter with one searched parent is declared in
    the scope of the parent. One with several parents is always active in KerasTuner; ``from_kerastuner`` removes it if it is
    inactive.

    Args:
        space: The search space.
        as_grid: Whether every finite parameter is enumerated. Otherwise integers with a logarithmic scale keep their scale.
    """
    hyperparameters = keras_tuner.HyperParameters()
    hyperparameters.Fixed("automl_cxr/space", space.name)  # an oracle regards empty values as a failed draw
    for parameter in space.parameters:
        with contextlib.ExitStack() as scopes:
            for parent, values in _scopes(space, parameter):
                scopes.enter_context(hyperparameters.conditional_scope(parent, values))
            _declare(hyperparameters, parameter, as_grid=as_grid)
    return hyperparameters


def _scopes(space: Space, parameter: Parameter) -> list[tuple[str, list[Any]]]:
    """Return the scopes of a parameter, outermost first."""
    searched = {known.name: known for known in space.parameters}
    parents = [parent for parent in parameter.when if parent in searched]
    if len(parents) != 1:
        return []
    parent = searched[parents[0]]
    return [*_scopes(space, parent), (parent.name, [_encode(parent, value) for value in parameter.when[parent.name]])]


def _declare(hyperparameters: keras_tuner.HyperParameters, parameter: Parameter, *, as_grid: bool) -> None:
    first = None if parameter.default is None else parameter.default
    if _keeps_scale(parameter) and not (as_grid and isinstance(parameter, Int)):
        declare = hyperparameters.Int if isinstance(parameter, Int) else hyperparameters.Float
        sampling = "log" if parameter.log else "linear"  # type: ignore[union-attr]
        declare(parameter.name, parameter.low, parameter.high, sampling=sampling, default=first)  # type: ignore[union-attr]
    else:
        values = parameter.grid() or []
        default = 0 if first is None else _index(parameter, first)
        hyperparameters.Int(parameter.name, 0, len(values) - 1, default=default)


def _keeps_scale(parameter: Parameter) -> bool:
    """Return whether KerasTuner gets the parameter's own values, and not their indices."""
    return (isinstance(parameter, Float) and parameter.step is None) or (isinstance(parameter, Int) and parameter.log)


def _index(parameter: Parameter, value: Value) -> int:
    if isinstance(parameter, Choice):
        return next(i for i, known in enumerate(parameter.values) if type(known) is type(value) and known == value)
    return round((float(value) - parameter.low) / (parameter.step or 1))


def _encode(parameter: Parameter, value: Value) -> Any:
    return value if _keeps_scale(parameter) else _index(parameter, value)


def from_kerastuner(space: Space, values: Mapping[str, Any], *, as_grid: bool = False) -> dict[str, Value]:
    """Convert values from KerasTuner: exact values of the space, without those of inactive parameters."""

    def decode(parameter: Parameter) -> Value:
        value = values[parameter.name]
        if not _keeps_scale(parameter) or (as_grid and isinstance(parameter, Int)):
            return (parameter.grid() or [])[value]
        # The Gaussian process may return the end of a logarithmic scale, which is above the last integer.
        clipped = min(max(value, parameter.low), parameter.high)  # type: ignore[union-attr]
        return int(clipped) if isinstance(parameter, Int) else float(clipped)

    return space.resolve(decode)


# ---------------------------------------------------------------------------------------------------------- the proposers


class KerasTunerProposer(StudyProposer):
    """A proposer with a KerasTuner oracle. Its trials are recorded in the same form as those of other proposers.

    Args:
        study: The study; its storage is written at every call.
        space: The search space.
        pruner: A name in ``PRUNERS``, or in ``FOLD_PRUNERS`` if there are folds.
        epochs: Maximum number of epochs of a trial.
        folds: Number of folds, which trials then report instead of epochs; 0 for none.
        sign: Returns the facts, such as the driver, that are written first on a trial of a given number.
        seed: With one worker, the same seed gives the same proposals, whether or not the search was interrupted.
        fits: See ``StudyProposer``.
        effective: See ``StudyProposer``.

    Raises:
        UnknownNameError: The pruner does not exist.
        UsageError: The pruner does not match the reports (epochs or folds).
    """

    def __init__(
        self,
        study: optuna.Study,
        space: Space,
        *,
        pruner: str = "asha",
        epochs: int,
        folds: int = 0,
        seed: int,
        sign: Callable[[int], Facts] = lambda _: {},
        fits: Callable[[Mapping[str, Value]], bool] = lambda _: True,
        effective: Callable[[Mapping[str, Value]], Mapping[str, Value]] = lambda point: point,
    ) -> None:
        created_pruner = make_pruner(pruner, epochs=epochs, folds=folds)
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
        study.sampler = optuna.samplers.RandomSampler()  # not used: ``_draw`` does not call it
        self._hyperparameters = to_kerastuner(space)
        is_maximized = study.direction is optuna.study.StudyDirection.MAXIMIZE
        self._objective = keras_tuner.Objective(
            _SCORE, "max" if is_maximized else "min"
        )  # KerasTuner would guess the direction from the name
        self._ended: dict[int, Trial] = {}

    def _next_slot(self, trials: Sequence[FrozenTrial]) -> Slot | Pause:
        return Slot()

    def _draw(self, trial: optuna.Trial, attempt: int) -> dict[str, Value]:
        if not self._space.parameters:
            return {}
        oracle = self._oracle(self._study.get_trials(deepcopy=False), self._draw_seed(trial.number, attempt))
        # The matrices are small, so that several threads would take three times as long.
        with threadpool_limits(1), warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # KerasTuner sets the bounds of its Gaussian process
            return from_kerastuner(self._space, oracle.populate_space(_id(trial.number))["values"])

    @abstractmethod
    def _oracle(self, trials: Sequence[FrozenTrial], seed: int) -> keras_tuner.Oracle:
        """Create an oracle with the trials of the study."""

    def _settings(self, seed: int) -> dict[str, Any]:
        # For the oracle, 0 means no seed. Duplicate points are detected by ``EvaluatedPoints``, so most oracles get no trials.
        return {"objective": self._objective, "hyperparameters": self._hyperparameters, "seed": seed or 1}

    def _to_trial(self, trial: FrozenTrial, *, is_completed: bool, score: float | None) -> Trial:
        """Convert a trial of the study to KerasTuner. Oracles learn from COMPLETED trials only."""
        if trial.number in self._ended:
            self._ended[trial.number].score = score
            return self._ended[trial.number]
        hyperparameters = self._hyperparameters.copy()
        parameters = {parameter.name: parameter for parameter in self._space.parameters}
        values = {name: _encode(parameters[name], value) for name, value in trial.params.items() if name in parameters}
        hyperparameters.values = {"automl_cxr/space": self._space.name, **values}
        status = "COMPLETED" if is_completed else "RUNNING" if trial.state is TrialState.RUNNING else "FAILED"
        converted = Trial(hyperparameters, trial_id=_id(trial.number), status=status)
        converted.score = score
        if trial.state.is_finished():
            self._ended[trial.number] = converted
        return converted


def _id(number: int) -> str:
    return f"{number:08d}"


class RandomProposer(KerasTunerProposer):
    """KerasTuner's random search."""

    def _oracle(self, trials: Sequence[FrozenTrial], seed: int) -> keras_tuner.Oracle:
        return RandomSearchOracle(**self._settings(seed))


class BayesianProposer(KerasTunerProposer):
    """KerasTuner's Gaussian process with an upper confidence bound, fitted to the COMPLETE trials.

    With a dozen parameters a proposal takes seconds, because KerasTuner differentiates its model by finite differences. No
    other trial is proposed meanwhile. A running trial gets the worst score so far: KerasTuner's own estimate depends on the fit
    of the previous proposal, which is not stored. KerasTuner has no constraints: a trial that violates one, trained or refused,
    gets the worst score too.
    """

    def _oracle(self, trials: Sequence[FrozenTrial], seed: int) -> keras_tuner.Oracle:
        oracle = BayesianOptimizationOracle(**self._settings(seed), max_trials=None, num_initial_points=_STARTUP)
        completed = [trial for trial in trials if trial.state is TrialState.COMPLETE]
        if len(completed) < _STARTUP:
            return oracle
        scores = [trial.value for trial in completed if trial.value is not None]
        worst = min(scores) if self._objective.direction == "max" else max(scores)
        running = [trial for trial in trials if trial.state is TrialState.RUNNING and trial.params]
        refused = [trial for trial in trials if trial.state is TrialState.PRUNED and not _is_feasible(trial)]
        for trial in sorted([*completed, *running, *refused], key=lambda trial: trial.number):
            score = trial.value if trial.state is TrialState.COMPLETE and _is_feasible(trial) else worst
            oracle.trials[_id(trial.number)] = self._to_trial(trial, is_completed=True, score=score)
        return oracle


class GridProposer(KerasTunerProposer):
    """KerasTuner's grid search, which evaluates the defaults first and then every other point once."""

    def __init__(self, study: optuna.Study, space: Space, **settings: Any) -> None:
        space.points()  # raises UsageError for an infinite space; KerasTuner would use ten values of a continuous range
        super().__init__(study, space, **settings)
        self._points = self._walk()

    def _next_slot(self, trials: Sequence[FrozenTrial]) -> Slot | Pause:
        return Pause.OVER if self._evaluated.first_unevaluated() is None else Slot()

    def _draw(self, trial: optuna.Trial, attempt: int) -> dict[str, Value]:
        return next(point for point in self._points if point not in self._evaluated)

    def _walk(self) -> Iterator[dict[str, Value]]:
        self._hyperparameters = to_kerastuner(self._space, as_grid=True)
        oracle = self._oracle([], seed=1)
        values = oracle.populate_space(_id(0))["values"]
        while values is not None:
            yield from_kerastuner(self._space, values, as_grid=True)
            values = _next_combination(oracle, values)

    def _oracle(self, trials: Sequence[FrozenTrial], seed: int) -> keras_tuner.Oracle:
        return GridSearchOracle(**self._settings(seed))


def _next_combination(oracle: GridSearchOracle, values: dict[str, Any]) -> dict[str, Any] | None:
    """Return the values that follow in a grid (``GridSearchOracle._get_next_combination``, KerasTuner 1.4), None at its end.

    The public ``populate_space`` waits for each trial to end, because building its model may declare a new parameter. This is
    the only private name of KerasTuner that is used; tests/test_private_names.py checks it.
    """
    return oracle._get_next_combination(values)


class HyperbandProposer(KerasTunerProposer):
    """KerasTuner's Hyperband: one sweep over its brackets, with replacements for failed trials.

    A trial of a rung runs until the rung's epoch and is then recorded as PRUNED. The best trials of a rung are continued by new
    trials, which refer to them as ``parent``. Trials of the last rung are COMPLETE. A pruner is not used, because trials are
    stopped at rungs only.

    KerasTuner's own loop does not replace a failed trial, and promotes fewer trials. Here a configuration that fails, or is
    stopped before its rung, is removed from all rounds of its bracket, as if it had not been drawn: round 0 gets a new one,
    and later rounds get the best of the remaining ones.

    Trials without a bracket (from an earlier search with another sampler) are ignored.
    """

    def __init__(self, study: optuna.Study, space: Space, *, pruner: str = "none", **settings: Any) -> None:
        if pruner not in PRUNERS:
            raise UnknownNameError("pruner", pruner, PRUNERS)
        super().__init__(study, space, pruner="none", **settings)
        self._last_bracket = HyperbandOracle(**self._settings(1), max_epochs=self._epochs, factor=_FACTOR).get_state()[
            "current_bracket"
        ]

    @property
    def n_planned_full_trials(self) -> int:
        """Number of trials in the last rungs of all brackets."""
        return sum(self._last_rung_size(bracket) for bracket in range(self._last_bracket + 1))

    def continuable(self) -> set[int]:
        """Return the numbers of the trials that ended at a rung and are not continued yet, in unfinished brackets."""
        members = [trial for trial in self._read() if "bracket" in trial.user_attrs]
        removed = _removed(members)
        continued = {trial.user_attrs.get("parent") for trial in members if trial.number not in removed}
        complete = Counter(trial.user_attrs["bracket"] for trial in members if trial.state is TrialState.COMPLETE)
        return {
            trial.number
            for trial in members
            if trial.user_attrs.get("stopped_by") == "rung"
            and trial.number not in removed | continued
            and complete[trial.user_attrs["bracket"]] < self._last_rung_size(trial.user_attrs["bracket"])
        }

    def _last_rung_size(self, bracket: int) -> int:
        """Return the number of trials of a bracket that run to the last epoch (KerasTuner's formula)."""
        return math.ceil(math.ceil(1 + math.log(self._epochs, _FACTOR)) / (bracket + 1))

    def _next_slot(self, trials: Sequence[FrozenTrial]) -> Slot | Pause:
        oracle = self._oracle(trials, seed=1)
        trial_id = _id(len(trials))
        reply = oracle.populate_space(trial_id)
        if reply["status"] != "RUNNING":
            return Pause.IDLE if reply["status"] == "IDLE" else Pause.OVER
        values = reply["values"]
        # KerasTuner adds the newest bracket to the values, even if the trial belongs to an older one.
        brackets = oracle.get_state()["brackets"]
        bracket = next(b["bracket_num"] for b in brackets if any(trial_id == s["id"] for r in b["rounds"] for s in r))
        return Slot(
            epochs=values["tuner/epochs"],
            parent=int(values["tuner/trial_id"]) if "tuner/trial_id" in values else None,
            facts={"bracket": bracket, "round": values["tuner/round"]},
        )

    def _draw(self, trial: optuna.Trial, attempt: int) -> dict[str, Value]:
        if not self._space.parameters:
            return {}
        oracle = RandomSearchOracle(
            **self._settings(self._draw_seed(trial.number, attempt))
        )  # Hyperband draws round 0 in the same way
        return from_kerastuner(self._space, oracle.populate_space(_id(trial.number))["values"])

    def _oracle(self, trials: Sequence[FrozenTrial], seed: int) -> keras_tuner.Oracle:
        oracle = HyperbandOracle(**self._settings(seed), max_epochs=self._epochs, factor=_FACTOR)
        members = [trial for trial in trials if "bracket" in trial.user_attrs]
        removed = _removed(members)
        worst = -math.inf if self._objective.direction == "max" else math.inf  # never promoted
        newest = min((trial.user_attrs["bracket"] for trial in members), default=self._last_bracket)
        brackets: dict[int, list[list[dict[str, str | None]]]] = {
            number: [[] for _ in range(number + 1)] for number in range(self._last_bracket, newest - 1, -1)
        }
        for trial in members:
            if trial.number not in removed:
                score = trial.user_attrs.get(_SCORE) if _is_feasible(trial) else worst
                oracle.trials[_id(trial.number)] = self._to_trial(trial, is_completed=_has_reached_rung(trial), score=score)
                parent = trial.user_attrs.get("parent")
                slot = {"past_id": None if parent is None else _id(parent), "id": _id(trial.number)}
                brackets[trial.user_attrs["bracket"]][trial.user_attrs["round"]].append(slot)
        running = {_id(trial.number): _id(trial.number) for trial in members if trial.state is TrialState.RUNNING}
        oracle.set_state(
            {
                **oracle.get_state(),
                "brackets": [{"bracket_num": number, "rounds": rounds} for number, rounds in brackets.items()],
                "current_bracket": newest,
                "ongoing_trials": running,
            }
        )
        return oracle


def _is_feasible(trial: FrozenTrial) -> bool:
    return all(violation <= 0 for violation in trial.constraints.values())


def _has_reached_rung(trial: FrozenTrial) -> bool:
    return trial.state is TrialState.COMPLETE or trial.user_attrs.get("stopped_by") == "rung"


def _removed(members: Sequence[FrozenTrial]) -> set[int]:
    """Return the numbers of the trials that ended before their rung, and of those that they continued."""
    parents = {trial.number: trial.user_attrs.get("parent") for trial in members}
    removed = set()
    for trial in members:
        if trial.state.is_finished() and not _has_reached_rung(trial):
            number: int | None = trial.number
            while number is not None:
                removed.add(number)
                number = parents.get(number)
    return removed


ORACLES: Mapping[str, type[KerasTunerProposer]] = {
    "kt-hyperband": HyperbandProposer,
    "kt-bayesian": BayesianProposer,
    "kt-random": RandomProposer,
    "kt-grid": GridProposer,
}
"""Proposers by name."""
