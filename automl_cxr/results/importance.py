"""Importances of a study's hyperparameters for the score, by Optuna's evaluators."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import optuna
import pandas as pd
from optuna.importance import BaseImportanceEvaluator, FanovaImportanceEvaluator, PedAnovaImportanceEvaluator
from optuna.trial import FrozenTrial

from automl_cxr.errors import StudyError, UnknownNameError
from automl_cxr.study.store import StudyStore

PED_ANOVA, FANOVA = "ped-anova", "fanova"
EVALUATORS = (PED_ANOVA, FANOVA)
"""ped-anova (Watanabe et al. 2023) measures which hyperparameters distinguish the best tenth of the trials, fanova (Hutter et
al. 2014) which ones explain the variance of the scores, by a random forest."""

_MIN_TRIALS = 4  # with fewer trials, the best tenth equals all trials, and the trees of the forest have one leaf


@dataclass(frozen=True, eq=False)
class ImportanceRequest:
    """Arguments for Optuna's importance functions.

    Attributes:
        study: In-memory study with the complete trials and the first objective.
        evaluator: The evaluator.
        params: Hyperparameters whose importance can be computed.
        left_out: For every searched hyperparameter the reason why its importance cannot be computed, or "".
    """

    study: optuna.Study
    evaluator: BaseImportanceEvaluator
    params: tuple[str, ...]
    left_out: Mapping[str, str]


def importance_request(store: StudyStore, *, evaluator: str = PED_ANOVA) -> ImportanceRequest:
    """Return the arguments for Optuna's importance functions; errors as in ``importance_table``."""
    if evaluator not in EVALUATORS:
        raise UnknownNameError("evaluator", evaluator, EVALUATORS)
    trials = store.study.get_trials(deepcopy=False, states=[optuna.trial.TrialState.COMPLETE])
    _check_enough(store, trials)
    left_out = {parameter.name: _reason(parameter.name, trials, evaluator) for parameter in store.spec.space.parameters}
    return ImportanceRequest(
        _first_objective(store, trials),
        FanovaImportanceEvaluator(seed=store.spec.seed) if evaluator == FANOVA else PedAnovaImportanceEvaluator(),
        tuple(name for name, reason in left_out.items() if not reason),
        left_out,
    )


def importance_table(store: StudyStore, *, evaluator: str = PED_ANOVA) -> pd.DataFrame:
    """Return the importance of each searched hyperparameter for the (first) objective over the COMPLETE trials.

    Returns:
        One row for each hyperparameter, the most important first: parameter, importance (the sum is 1; NaN if left out),
        trials (number of COMPLETE trials in which it is active) and left_out (the reason, or "").

    Raises:
        UnknownNameError: The evaluator is unknown.
        StudyError: Fewer than four trials are complete, all scores are equal, or nothing was searched.
    """
    request = importance_request(store, evaluator=evaluator)
    shares = _shares(request) if request.params else {}
    trials = request.study.get_trials(deepcopy=False)
    rows = [
        {
            "parameter": name,
            "importance": shares.get(name, float("nan")),
            "trials": sum(name in trial.params for trial in trials),
            "left_out": reason,
        }
        for name, reason in request.left_out.items()
    ]
    return pd.DataFrame(rows).sort_values("importance", ascending=False, na_position="last", kind="stable", ignore_index=True)


def _check_enough(store: StudyStore, trials: list[FrozenTrial]) -> None:
    if not store.spec.space.parameters:
        raise StudyError(f"Study '{store.name}' searches no hyperparameter, so there are no importances.")
    if len(trials) < _MIN_TRIALS:
        raise StudyError(
            f"Importances need at least {_MIN_TRIALS} complete trials; study '{store.name}' has {len(trials)}. "
            "Continue the search with more --trials; dozens are recommended."
        )
    if len({trial.values[0] for trial in trials}) == 1:
        raise StudyError(
            f"All {len(trials)} complete trials of study '{store.name}' have the same score, so no hyperparameter explains it."
        )


def _reason(name: str, trials: list[FrozenTrial], evaluator: str) -> str:
    """Return the reason why the importance of a hyperparameter cannot be computed, or ""."""
    active = [trial for trial in trials if name in trial.params]
    if len(active) < _MIN_TRIALS:
        return f"active in {len(active)} complete trials"
    if active[0].distributions[name].single() or len({trial.params[name] for trial in active}) == 1:
        return "one value in all trials"
    if evaluator == FANOVA and len(active) < len(trials):
        return f"not active in {len(trials) - len(active)} trials; use --evaluator {PED_ANOVA}"
    return ""


def _shares(request: ImportanceRequest) -> dict[str, float]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # warnings about few trials; the column "trials" has their number
        importances = optuna.importance.get_param_importances(
            request.study, evaluator=request.evaluator, params=list(request.params)
        )
    return {name: float(share) for name, share in importances.items()}


def _first_objective(store: StudyStore, trials: list[FrozenTrial]) -> optuna.Study:
    """Return an in-memory study with the complete trials and the first objective, which every evaluator supports."""
    study = optuna.create_study(direction=store.study.directions[0])
    study.add_trials(
        [
            optuna.trial.create_trial(value=trial.values[0], params=trial.params, distributions=trial.distributions)
            for trial in trials
        ]
    )
    return study
