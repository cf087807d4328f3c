"""Which hyperparameters decided the scores of a study, by Optuna's evaluators."""

from __future__ import annotations

import warnings

import optuna
import pandas as pd
from optuna.importance import BaseImportanceEvaluator, FanovaImportanceEvaluator, PedAnovaImportanceEvaluator
from optuna.trial import FrozenTrial

from automl_cxr.errors import StudyError, UnknownNameError
from automl_cxr.study.store import StudyStore

PED_ANOVA, FANOVA = "ped-anova", "fanova"
EVALUATORS = (PED_ANOVA, FANOVA)
"""ped-anova (Watanabe et al. 2023): what set the best tenth of the trials apart. fanova (Hutter et al. 2014): what explains
the variance of the scores, by a random forest."""

_FEWEST = 4  # below, the best tenth is a trial like the others and a forest has one leaf


def importance_table(store: StudyStore, *, evaluator: str = PED_ANOVA) -> pd.DataFrame:
    """Tell how much each searched hyperparameter mattered for the (first) objective among the COMPLETE trials.

    Returns:
        One row a hyperparameter, the most important first: parameter, importance (the shares sum to 1; NaN for what the
        evaluator leaves out), trials (number of COMPLETE trials that had it) and left_out (why there is none, else "").

    Raises:
        UnknownNameError: No such evaluator.
        StudyError: Fewer than four trials are complete, their scores are all the same, or nothing was searched.
    """
    if evaluator not in EVALUATORS:
        raise UnknownNameError("evaluator", evaluator, EVALUATORS)
    trials = store.study.get_trials(deepcopy=False, states=[optuna.trial.TrialState.COMPLETE])
    _check_enough(store, trials)
    reasons = {parameter.name: _reason(parameter.name, trials, evaluator) for parameter in store.spec.space.parameters}
    assessed = [name for name, reason in reasons.items() if not reason]
    shares = _shares(store, trials, assessed, evaluator) if assessed else {}
    rows = [
        {
            "parameter": name,
            "importance": shares.get(name, float("nan")),
            "trials": sum(name in trial.params for trial in trials),
            "left_out": reason,
        }
        for name, reason in reasons.items()
    ]
    return pd.DataFrame(rows).sort_values("importance", ascending=False, na_position="last", kind="stable", ignore_index=True)


def _check_enough(store: StudyStore, trials: list[FrozenTrial]) -> None:
    if not store.spec.space.parameters:
        raise StudyError(f"Study '{store.name}' searches no hyperparameter, so none can be important.")
    if len(trials) < _FEWEST:
        raise StudyError(
            f"Importances need {_FEWEST} complete trials or more, better dozens; study '{store.name}' has {len(trials)}. "
            "Continue the search with more --trials."
        )
    if len({trial.values[0] for trial in trials}) == 1:
        raise StudyError(
            f"All {len(trials)} complete trials of study '{store.name}' have the same score, so no hyperparameter explains it."
        )


def _reason(name: str, trials: list[FrozenTrial], evaluator: str) -> str:
    """Say why a hyperparameter is left out; nothing where it is not."""
    having = [trial for trial in trials if name in trial.params]
    if len(having) < _FEWEST:
        return f"active in {len(having)} complete trials"
    if having[0].distributions[name].single() or len({trial.params[name] for trial in having}) == 1:
        return "one value in all trials"
    if evaluator == FANOVA and len(having) < len(trials):
        return f"not active in {len(trials) - len(having)} trials; --evaluator {PED_ANOVA} takes it"
    return ""


def _shares(store: StudyStore, trials: list[FrozenTrial], names: list[str], evaluator: str) -> dict[str, float]:
    chosen: BaseImportanceEvaluator = (
        FanovaImportanceEvaluator(seed=store.spec.seed) if evaluator == FANOVA else PedAnovaImportanceEvaluator()
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of regimes with few trials, which the column of trials tells
        found = optuna.importance.get_param_importances(_first_objective(store, trials), evaluator=chosen, params=names)
    return {name: float(share) for name, share in found.items()}


def _first_objective(store: StudyStore, trials: list[FrozenTrial]) -> optuna.Study:
    """Give a study in memory of the complete trials and the first objective alone, which every evaluator takes."""
    study = optuna.create_study(direction=store.study.directions[0])
    study.add_trials(
        [
            optuna.trial.create_trial(value=trial.values[0], params=trial.params, distributions=trial.distributions)
            for trial in trials
        ]
    )
    return study
