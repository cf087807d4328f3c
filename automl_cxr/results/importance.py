"""Importances of a study's hyperparameters for the score, by Optuna's evaluators.

A conditional hyperparameter is active in some of the trials only. Its importance is estimated within these trials, and is not
comparable with the importances over all trials: few trials give large values by chance.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Sequence

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


def importance_table(store: StudyStore, *, evaluator: str = PED_ANOVA) -> pd.DataFrame:
    """Return the importance of each searched hyperparameter for the (first) objective over the COMPLETE trials.

    Returns:
        One row for each hyperparameter: the ranking of those that are active in all trials, then the conditional ones, then
        those that are left out; each part with the most important first. The columns:

        - parameter;
        - importance: the sum over the ranking is 1. For a conditional hyperparameter, its share among all hyperparameters that
          are active in the same trials, over these trials only. NaN if left out;
        - trials: the number of COMPLETE trials in which it is active;
        - conditional: whether it is not active in all of them;
        - left_out: the reason why its importance cannot be computed, or "".

    Raises:
        UnknownNameError: The evaluator is unknown.
        StudyError: Fewer than four trials are complete, all scores are equal, or nothing was searched.
    """
    if evaluator not in EVALUATORS:
        raise UnknownNameError("evaluator", evaluator, EVALUATORS)
    trials = store.study.get_trials(deepcopy=False, states=[optuna.trial.TrialState.COMPLETE])
    _check_enough(store, trials)
    names = [parameter.name for parameter in store.spec.space.parameters]
    numbers_of = {name: frozenset(trial.number for trial in trials if name in trial.params) for name in names}
    rows = []
    for numbers in dict.fromkeys(numbers_of.values()):
        within = [trial for trial in trials if trial.number in numbers]
        compared = [name for name in names if numbers <= numbers_of[name]]
        reasons = {name: _reason(name, within) for name in compared}
        shares = _shares(store, within, [name for name, reason in reasons.items() if not reason], evaluator)
        rows += [
            {
                "parameter": name,
                "importance": shares.get(name, float("nan")),
                "trials": len(within),
                "conditional": len(within) < len(trials),
                "left_out": reasons[name],
            }
            for name in compared
            if numbers_of[name] == numbers
        ]
    table = pd.DataFrame(rows).assign(is_left_out=lambda rows: rows["left_out"] != "")
    parts = ["is_left_out", "conditional", "importance"]
    return table.sort_values(parts, ascending=[True, True, False], kind="stable", ignore_index=True).drop(columns="is_left_out")


def _check_enough(store: StudyStore, trials: Sequence[FrozenTrial]) -> None:
    if not store.spec.space.parameters:
        raise StudyError(f"Study '{store.name}' searches no hyperparameter, so there are no importances.")
    if len(trials) < _MIN_TRIALS:
        raise StudyError(
            f"Importances need at least {_MIN_TRIALS} complete trials; study '{store.name}' has {len(trials)}. "
            "Continue the search with more --trials; dozens are recommended."
        )
    if _has_one_score(trials):
        raise StudyError(
            f"All {len(trials)} complete trials of study '{store.name}' have the same score, so no hyperparameter explains it."
        )


def _has_one_score(trials: Sequence[FrozenTrial]) -> bool:
    return len({trial.values[0] for trial in trials}) == 1


def _reason(name: str, within: Sequence[FrozenTrial]) -> str:
    """Return the reason why the importance of a hyperparameter cannot be computed over trials in which it is active, or ""."""
    if len(within) < _MIN_TRIALS:
        return f"active in {len(within)} complete trials"
    if within[0].distributions[name].single() or len({trial.params[name] for trial in within}) == 1:
        return "one value in all trials"
    return "the same score in all its trials" if _has_one_score(within) else ""


def _shares(store: StudyStore, within: Sequence[FrozenTrial], compared: Collection[str], evaluator: str) -> dict[str, float]:
    """Return the importances of hyperparameters over trials in which all of them are active; their sum is 1."""
    if not compared:
        return {}
    computed_by: BaseImportanceEvaluator = (
        FanovaImportanceEvaluator(seed=store.spec.seed) if evaluator == FANOVA else PedAnovaImportanceEvaluator()
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # warnings about few trials; the column "trials" has their number
        importances = optuna.importance.get_param_importances(
            _first_objective(store, within), evaluator=computed_by, params=list(compared)
        )
    return {name: float(share) for name, share in importances.items()}


def _first_objective(store: StudyStore, trials: Sequence[FrozenTrial]) -> optuna.Study:
    """Return an in-memory study with the trials and the first objective, which every evaluator supports."""
    study = optuna.create_study(direction=store.study.directions[0])
    study.add_trials(
        [
            optuna.trial.create_trial(value=trial.values[0], params=trial.params, distributions=trial.distributions)
            for trial in trials
        ]
    )
    return study
