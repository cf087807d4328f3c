"""KerasTuner proposes: its oracles alone, asked through ``populate_space``, without its tuner, its files or its memory.

An oracle is made anew for every proposal and filled from the study's record, so that a restart, or a second search on the same
study, decides as the first would have. Importing this module loads Keras, some seconds that only who asks for it pays.
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
from automl_cxr.engine.protocol import Facts, Pause
from automl_cxr.engine.space import Choice, Float, Int, Parameter, Space, Value
from automl_cxr.errors import UnknownNameError

_FACTOR = 3
_STARTUP = 8  # trials at random before a model is fitted; KerasTuner's own three a parameter is most of a search
_SCORE = "score"


# ------------------------------------------------------------------------------------------------------------ the dialect


def to_kerastuner(space: Space, *, as_grid: bool = False) -> keras_tuner.HyperParameters:
    """Translate a space.

    What has finitely many values becomes the index of its value: KerasTuner would turn True into 1, lose the upper end of a
    range of 0.1 steps and refuse choices of mixed types. A parameter with one searched parent stands in its scope; one with
    several parents is always active to KerasTuner, and ``from_kerastuner`` leaves it out where it is not.

    Args:
        space: What is searched.
        as_grid: Whether every finite parameter is to be enumerated; otherwise whole numbers on a logarithmic scale keep it.
    """
    hyperparameters = keras_tuner.HyperParameters()
    hyperparameters.Fixed("automl_cxr/space", space.name)  # an oracle takes values without a name for a failed draw
    for parameter in space.parameters:
        with contextlib.ExitStack() as scopes:
            for parent, values in _scopes(space, parameter):
                scopes.enter_context(hyperparameters.conditional_scope(parent, values))
            _declare(hyperparameters, parameter, as_grid=as_grid)
    return hyperparameters


def _scopes(space: Space, parameter: Parameter) -> list[tuple[str, list[Any]]]:
    """List the scopes that a parameter stands in, outermost first."""
    searched = {known.name: known for known in space.parameters}
    parents = [parent for parent in parameter.when if parent in searched]
    if len(parents) != 1:
        return []
    parent = searched[parents[0]]
    return [*_scopes(space, parent), (parent.name, [_encode(parent, value) for value in parameter.when[parent.name]])]


def _declare(hyperparameters: keras_tuner.HyperParameters, parameter: Parameter, *, as_grid: bool) -> None:
    first = None if parameter.default is None else parameter.default
    if _is_on_scale(parameter) and not (as_grid and isinstance(parameter, Int)):
        declare = hyperparameters.Int if isinstance(parameter, Int) else hyperparameters.Float
        sampling = "log" if parameter.log else "linear"  # type: ignore[union-attr]
        declare(parameter.name, parameter.low, parameter.high, sampling=sampling, default=first)  # type: ignore[union-attr]
    else:
        values = parameter.grid() or []
        default = 0 if first is None else _index(parameter, first)
        hyperparameters.Int(parameter.name, 0, len(values) - 1, default=default)


def _is_on_scale(parameter: Parameter) -> bool:
    """Whether KerasTuner deals in the parameter's own values, and not in their indices."""
    return (isinstance(parameter, Float) and parameter.step is None) or (isinstance(parameter, Int) and parameter.log)


def _index(parameter: Parameter, value: Value) -> int:
    if isinstance(parameter, Choice):
        return next(i for i, known in enumerate(parameter.values) if type(known) is type(value) and known == value)
    return round((float(value) - parameter.low) / (parameter.step or 1))


def _encode(parameter: Parameter, value: Value) -> Any:
    return value if _is_on_scale(parameter) else _index(parameter, value)


def from_kerastuner(space: Space, values: Mapping[str, Any], *, as_grid: bool = False) -> dict[str, Value]:
    """Translate KerasTuner's values back: exactly values of the space, and those of inactive parameters absent."""

    def decode(parameter: Parameter) -> Value:
        value = values[parameter.name]
        if not _is_on_scale(parameter) or (as_grid and isinstance(parameter, Int)):
            return (parameter.grid() or [])[value]
        # The Gaussian process may step on the very end of a logarithmic scale, which lies beyond the last whole number.
        inside = min(max(value, parameter.low), parameter.high)  # type: ignore[union-attr]
        return int(inside) if isinstance(parameter, Int) else float(inside)

    return space.resolve(decode)


# ---------------------------------------------------------------------------------------------------------- the proposers


class KerasTunerProposer(StudyProposer):
    """Proposes what a KerasTuner oracle would, from a record that looks like any other's.

    Args:
        study: The record; its storage is written at every call.
        space: What is searched.
        pruner: A name in ``PRUNERS``, or with folds in ``FOLD_PRUNERS``.
        epochs: The most epochs that a trial may take.
        folds: Folds of a trial, which it then reports instead of epochs; 0 for none.
        sign: Facts that are written on a trial, given its number, before anything else is.
        seed: With one worker, the same seed gives the same proposals, whether or not the search was interrupted.

    Raises:
        UnknownNameError: No such pruner.
        UsageError: The pruner does not go with what trials report.
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
    ) -> None:
        judge = make_pruner(pruner, epochs=epochs, folds=folds)
        super().__init__(study, space, pruner=judge, epochs=folds or epochs, seed=seed, sign=sign)
        study.sampler = optuna.samplers.RandomSampler()  # asked for nothing
        self._hyperparameters = to_kerastuner(space)
        is_maximized = study.direction is optuna.study.StudyDirection.MAXIMIZE
        self._objective = keras_tuner.Objective(_SCORE, "max" if is_maximized else "min")  # by its name it would be guessed
        self._ended: dict[int, Trial] = {}

    def _next_slot(self, trials: Sequence[FrozenTrial]) -> Slot | Pause:
        return Slot()

    def _draw(self, trial: optuna.Trial, attempt: int) -> dict[str, Value]:
        if not self._space.parameters:
            return {}
        oracle = self._oracle(self._study.get_trials(deepcopy=False), self._stream(trial.number, attempt))
        # The matrices are small: threads would only wait for one another, at thrice the time.
        with threadpool_limits(1), warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # of a Gaussian process whose bounds are KerasTuner's
            return from_kerastuner(self._space, oracle.populate_space(_id(trial.number))["values"])

    @abstractmethod
    def _oracle(self, trials: Sequence[FrozenTrial], seed: int) -> keras_tuner.Oracle:
        """Make an oracle that knows the trials of the record."""

    def _settings(self, seed: int) -> dict[str, Any]:
        # The oracle takes 0 for no seed. Points are compared in one place for all proposers, so it gets none to compare.
        return {"objective": self._objective, "hyperparameters": self._hyperparameters, "seed": seed or 1}

    def _retell(self, trial: FrozenTrial, *, is_completed: bool, score: float | None) -> Trial:
        """Tell a trial of the record in KerasTuner's terms. Only a COMPLETED one teaches it anything."""
        if trial.number in self._ended:
            self._ended[trial.number].score = score
            return self._ended[trial.number]
        hyperparameters = self._hyperparameters.copy()
        parameters = {parameter.name: parameter for parameter in self._space.parameters}
        told = {name: _encode(parameters[name], value) for name, value in trial.params.items() if name in parameters}
        hyperparameters.values = {"automl_cxr/space": self._space.name, **told}
        status = "COMPLETED" if is_completed else "RUNNING" if trial.state is TrialState.RUNNING else "FAILED"
        retold = Trial(hyperparameters, trial_id=_id(trial.number), status=status)
        retold.score = score
        if trial.state.is_finished():
            self._ended[trial.number] = retold
        return retold


def _id(number: int) -> str:
    return f"{number:08d}"


class RandomProposer(KerasTunerProposer):
    """KerasTuner's random search."""

    def _oracle(self, trials: Sequence[FrozenTrial], seed: int) -> keras_tuner.Oracle:
        return RandomSearchOracle(**self._settings(seed))


class BayesianProposer(KerasTunerProposer):
    """KerasTuner's Gaussian process with an upper confidence bound, over the COMPLETE trials.

    A proposal takes seconds with a dozen parameters, since KerasTuner differentiates its model by finite differences; meanwhile
    the search proposes nothing else. A trial that still runs counts as the worst score so far: KerasTuner's own guess depends
    on the fit of the proposal before, which no record holds. KerasTuner knows no constraints: a trial that breaks one counts as
    the worst too, whether it was trained or refused.
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
            oracle.trials[_id(trial.number)] = self._retell(trial, is_completed=True, score=score)
        return oracle


class GridProposer(KerasTunerProposer):
    """KerasTuner's grid: the defaults first, then every other point, and then it is over."""

    def __init__(self, study: optuna.Study, space: Space, **settings: Any) -> None:
        space.points()  # refuses a space without end; KerasTuner would take ten numbers of a range for all
        super().__init__(study, space, **settings)
        self._points = self._walk()

    def _next_slot(self, trials: Sequence[FrozenTrial]) -> Slot | Pause:
        return Pause.OVER if self._tried.first_unevaluated() is None else Slot()

    def _draw(self, trial: optuna.Trial, attempt: int) -> dict[str, Value]:
        return next(point for point in self._points if point not in self._tried)

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
    """KerasTuner's Hyperband: one sweep over its brackets, where a slot that failed is filled again.

    A rung's trial runs until its rung's epoch and is recorded as PRUNED there; the best of a rung are continued by new trials
    that name them as ``parent``. Trials of the last rung are COMPLETE. It takes no pruner: its rungs are where it stops.

    KerasTuner's own loop never fills a slot again whose trial failed, and promotes as many fewer. Here a configuration that
    fails, or is stopped before its rung, leaves its bracket at every round, as if it had not been drawn: round 0 gets a fresh
    one in its place, and later rounds the best that is left.

    Trials without a bracket (an earlier search with another sampler) take no part.
    """

    def __init__(self, study: optuna.Study, space: Space, *, pruner: str = "none", **settings: Any) -> None:
        if pruner not in PRUNERS:
            raise UnknownNameError("pruner", pruner, PRUNERS)
        super().__init__(study, space, pruner="none", **settings)
        self._last_bracket = HyperbandOracle(**self._settings(1), max_epochs=self._epochs, factor=_FACTOR).get_state()[
            "current_bracket"
        ]

    @property
    def n_full_asked(self) -> int:
        """Trials of the last rungs of all brackets."""
        return sum(self._last_rung_size(bracket) for bracket in range(self._last_bracket + 1))

    def continuable(self) -> set[int]:
        """Number the trials at a rung that nobody has continued yet, in brackets that are not over."""
        members = [trial for trial in self._read() if "bracket" in trial.user_attrs]
        lost = _lost(members)
        taken = {trial.user_attrs.get("parent") for trial in members if trial.number not in lost}
        complete = Counter(trial.user_attrs["bracket"] for trial in members if trial.state is TrialState.COMPLETE)
        return {
            trial.number
            for trial in members
            if trial.user_attrs.get("stopped_by") == "rung"
            and trial.number not in lost | taken
            and complete[trial.user_attrs["bracket"]] < self._last_rung_size(trial.user_attrs["bracket"])
        }

    def _last_rung_size(self, bracket: int) -> int:
        """Count the trials of a bracket that run to the last epoch; KerasTuner's own formula."""
        return math.ceil(math.ceil(1 + math.log(self._epochs, _FACTOR)) / (bracket + 1))

    def _next_slot(self, trials: Sequence[FrozenTrial]) -> Slot | Pause:
        oracle = self._oracle(trials, seed=1)
        trial_id = _id(len(trials))
        answer = oracle.populate_space(trial_id)
        if answer["status"] != "RUNNING":
            return Pause.IDLE if answer["status"] == "IDLE" else Pause.OVER
        values = answer["values"]
        # The bracket that KerasTuner writes among the values is the newest, also where an older one is being filled.
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
        oracle = RandomSearchOracle(**self._settings(self._stream(trial.number, attempt)))  # what Hyperband fills round 0 with
        return from_kerastuner(self._space, oracle.populate_space(_id(trial.number))["values"])

    def _oracle(self, trials: Sequence[FrozenTrial], seed: int) -> keras_tuner.Oracle:
        oracle = HyperbandOracle(**self._settings(seed), max_epochs=self._epochs, factor=_FACTOR)
        members = [trial for trial in trials if "bracket" in trial.user_attrs]
        lost = _lost(members)
        last_of_all = -math.inf if self._objective.direction == "max" else math.inf  # of a round that promotes
        newest = min((trial.user_attrs["bracket"] for trial in members), default=self._last_bracket)
        brackets: dict[int, list[list[dict[str, str | None]]]] = {
            number: [[] for _ in range(number + 1)] for number in range(self._last_bracket, newest - 1, -1)
        }
        for trial in members:
            if trial.number not in lost:
                score = trial.user_attrs.get(_SCORE) if _is_feasible(trial) else last_of_all
                oracle.trials[_id(trial.number)] = self._retell(trial, is_completed=_reached_its_rung(trial), score=score)
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


def _reached_its_rung(trial: FrozenTrial) -> bool:
    return trial.state is TrialState.COMPLETE or trial.user_attrs.get("stopped_by") == "rung"


def _lost(members: Sequence[FrozenTrial]) -> set[int]:
    """Number the trials that ended before their rung, and those that they continued."""
    parents = {trial.number: trial.user_attrs.get("parent") for trial in members}
    lost = set()
    for trial in members:
        if trial.state.is_finished() and not _reached_its_rung(trial):
            number: int | None = trial.number
            while number is not None:
                lost.add(number)
                number = parents.get(number)
    return lost


ORACLES: Mapping[str, type[KerasTunerProposer]] = {
    "kt-hyperband": HyperbandProposer,
    "kt-bayesian": BayesianProposer,
    "kt-random": RandomProposer,
    "kt-grid": GridProposer,
}
"""Proposers by name."""
