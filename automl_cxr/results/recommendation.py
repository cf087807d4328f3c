"""The classifier that a search recommends: an ensemble of several trials, or the best trial.

    candidates   the finished trials that meet the requirements of the study and have a model, the best 50
    members      chosen by score, by different errors and by different networks, without near-duplicates, as far as the sum of
                 their costs meets the requirements
    methods      a geometric mean, the average, and the best member alone, compared on patients that they were not fitted on
    choice       the first of these methods within one standard error of the best one

An ensemble is preferred to the best trial, because the best trial is the one that these images favour most. The geometric mean
is preferred to the average, because it gives weaker members less weight; its few weights are kept close to equal. On new
patients it had the lowest log loss (``benchmarks/README.md``). The genetic algorithm and stacking are not compared, because
they take half a minute for 1,000 images; ``ensemble build`` compares them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from automl_cxr.data.image_metadata import load_image_metadata
from automl_cxr.ensemble.build import AUTO, build_weight_scorer
from automl_cxr.ensemble.genetic_settings import GeneticSettings
from automl_cxr.ensemble.member_selection import NEAR_DUPLICATE, choose_diverse, error_correlations
from automl_cxr.ensemble.method_comparison import SIMPLEST, MethodScore
from automl_cxr.ensemble.objective import Objective
from automl_cxr.ensemble.pipeline import Combination, combine_members
from automl_cxr.errors import StudyError
from automl_cxr.records import TrialRecord
from automl_cxr.results.ensemble_folder import RECOMMENDED, EnsembleFolder, remove_former_recommendations
from automl_cxr.results.ensemble_record import copy_members, write_ensemble
from automl_cxr.results.ensembles import objective_of_study, study_context
from automl_cxr.results.recommendation_record import Recommendation, save_recommendation
from automl_cxr.results.study_data import load_trial_config
from automl_cxr.scoring.intervals import Interval, bootstrap_interval
from automl_cxr.scoring.objectives import COSTS, Requirement, measure
from automl_cxr.scoring.predictions import Predictions
from automl_cxr.scoring.worst_group import worst_group_scores
from automl_cxr.study.store import StudyStore, explained_disk_errors

ENSEMBLE_NAME = "recommended"
MAX_MEMBERS = 6
_MAX_CANDIDATES = 50
_METHODS = ("geometric", "average", SIMPLEST)  # the preferred ones first


def recommend(store: StudyStore) -> Recommendation | None:
    """Choose the recommended classifier of a study, write its ensemble if it is one, and record it.

    The ensemble is the folder ``recommended`` of the study's ensembles. It replaces the ensemble of an earlier recommendation,
    unless that one was evaluated on the test part; its name is then followed by a number.

    Args:
        store: The study.

    Returns:
        The recommendation; None if no finished trial meets the requirements of the study and has a model.

    Raises:
        StudyError: A file cannot be read or written.
    """
    with explained_disk_errors(store.folder), FileLock(store.folder / "recommended.lock"):
        candidates = _candidates(store)
        recommendation = _recommend_one_of(store, candidates) if candidates else None
        save_recommendation(store, recommendation)
        remove_former_recommendations(_ensembles_of(store), None if recommendation is None else recommendation.ensemble)
    return recommendation


def _candidates(store: StudyStore) -> list[TrialRecord]:
    """Return the best usable trials that were scored on the same images as the best one, best first."""
    usable = [record for record in store.eligible() if store.has_model(record.number)][:_MAX_CANDIDATES]
    images = [frozenset(store.predictions(record.number).ids) for record in usable]
    return [record for record, of_record in zip(usable, images, strict=True) if of_record == images[0]]


def _recommend_one_of(store: StudyStore, candidates: Sequence[TrialRecord]) -> Recommendation:
    found = _combine(store, candidates)
    if isinstance(found, _Ensemble):
        return _recommend_ensemble(store, found) or _recommend_trial(store, candidates[0], "")
    return _recommend_trial(store, candidates[0], found)


@dataclass(frozen=True, eq=False)
class _Ensemble:
    """An ensemble that is preferred to the best trial, before it is written.

    Attributes:
        members: Numbers of the trials.
        combination: The ensemble.
        result: Out-of-fold result of its method.
    """

    members: list[int]
    combination: Combination
    result: MethodScore


def _combine(store: StudyStore, candidates: Sequence[TrialRecord]) -> _Ensemble | str:
    """Return the ensemble to recommend, or the reason why the best trial alone is recommended; "" if it needs no words."""
    spec = store.spec
    if len(spec.objectives) > 1:  # an ensemble has the costs of all its members, so it is not on the Pareto front of the trials
        return "by the first objective"
    objective = objective_of_study(store)
    members = _choose_members(store, candidates, objective)
    if len(members) < 2:
        return "" if len(candidates) < 2 else _reason_for_one_member(store)
    combination = combine_members(
        [store.predictions(number) for number in members],
        names=[f"trial {number}" for number in members],
        method=AUTO,
        objective=objective,
        settings=GeneticSettings(seed=spec.seed),
        compared=_METHODS,
    )
    if combination.comparison is None:
        return "a class has too few patients to compare ensembles"
    result = combination.comparison.methods[combination.method]
    if len(combination.used) < 2:
        return f"ensembles of {len(members)} trials are no better"
    if not all(_meets_requirements(store, one) for one in (combination.predictions, result.predictions)):
        return "an ensemble would not meet the requirements"
    return _Ensemble([members[position] for position in combination.used], combination.without_unused_members(), result)


def _choose_members(store: StudyStore, candidates: Sequence[TrialRecord], objective: Objective) -> list[int]:
    """Choose members whose costs together meet the requirements of the study."""
    predictions = [store.predictions(record.number) for record in candidates]
    scorer, _ = build_weight_scorer(predictions, objective)
    kinds = [load_trial_config(store, record.number).kind for record in candidates]
    bounds = [bound for bound in _requirements(store) if bound.name in COSTS]
    costs = dict.fromkeys(bounds, 0.0)
    is_duplicate = error_correlations(scorer) > NEAR_DUPLICATE
    members: list[int] = []
    for index in choose_diverse(scorer, len(candidates), kinds=kinds):
        record = candidates[index]
        with_record = {bound: cost + bound.value_of(record.violations[str(bound)]) for bound, cost in costs.items()}
        meets_bounds = all(bound.violation(cost) <= 0 for bound, cost in with_record.items())
        if len(members) < MAX_MEMBERS and meets_bounds and not is_duplicate[index, members].any():
            members.append(index)
            costs = with_record
    return [candidates[index].number for index in members]


def _reason_for_one_member(store: StudyStore) -> str:
    if any(bound.name in COSTS for bound in _requirements(store)):
        return "an ensemble would not meet the requirements, or the other trials make nearly the same errors"
    return "the other trials make nearly the same errors"


def _meets_requirements(store: StudyStore, predictions: Predictions) -> bool:
    """Return whether predictions meet the bounds on metrics."""
    names = [bound.name for bound in _requirements(store)]
    metadata, normal_class = load_image_metadata(store.folder), store.spec.normal_index
    groups = worst_group_scores(names, predictions, metadata, normal_class=normal_class)
    values = {
        bound: measure(
            bound.name,
            predictions.labels,
            predictions.probabilities,
            normal_class=normal_class,
            costs=groups,
            classes=store.spec.classes,
        )
        for bound in _requirements(store)
        if bound.name not in COSTS
    }
    return all(bound.violation(value) <= 0 for bound, value in values.items())


def _requirements(store: StudyStore) -> list[Requirement]:
    return [Requirement.parse(text) for text in store.spec.requirements]


def _recommend_ensemble(store: StudyStore, ensemble: _Ensemble) -> Recommendation | None:
    """Write the ensemble; None if another search has removed the model of a member meanwhile."""
    combination, result = ensemble.combination, ensemble.result
    destination = EnsembleFolder(_ensembles_of(store), None, default_name=ENSEMBLE_NAME)
    with destination.staged() as partial:
        try:
            rows = copy_members(store, ensemble.members, partial)
        except (StudyError, FileNotFoundError):
            return None
        write_ensemble(partial, combination, rows, {**study_context(store), RECOMMENDED: True})
        name = destination.publish(partial).name
    metric, n_trials = combination.objective.name, len(store.eligible())
    caveat = "" if result.gain > 0 else " (within one standard error; the best trial is the one that these images favour)"
    sentence = (
        f"Use ensemble {name} (trials {', '.join(map(str, ensemble.members))}, {combination.method}): {metric} "
        f"{result.score:.4f}{_describe(combination.interval)} out of fold, {result.gain:+.4f} against the best single trial of "
        f"each fold{caveat}; chosen from {n_trials} finished trials."
    )
    return Recommendation(
        trials=tuple(ensemble.members),
        ensemble=name,
        method=combination.method,
        metric=metric,
        score=result.score,
        low=_defined(combination.interval.low),
        high=_defined(combination.interval.high),
        place="out of fold",
        n_trials=n_trials,
        sentence=sentence,
    )


def _recommend_trial(store: StudyStore, record: TrialRecord, reason: str) -> Recommendation:
    spec, n_trials = store.spec, len(store.eligible())
    predictions = store.predictions(record.number)
    score = float(record.score)  # type: ignore[arg-type]  # a COMPLETE trial has a score
    interval = bootstrap_interval(predictions, metric=spec.objective, seed=spec.seed, normal_class=spec.normal_index)
    place, where = ("out of fold",) * 2 if store.split.folds else ("validation part", "on the validation part")
    rank = "the only finished trial" if n_trials == 1 else f"the best of {n_trials} finished trials"
    sentence = (
        f"Use trial {record.number} ({load_trial_config(store, record.number).family}): {spec.objective} {score:.4f}"
        f"{_describe(interval)} {where}, {'; '.join(filter(None, (rank, reason)))}."
    )
    return Recommendation(
        trials=(record.number,),
        metric=spec.objective,
        score=score,
        low=_defined(interval.low),
        high=_defined(interval.high),
        place=place,
        n_trials=n_trials,
        sentence=sentence,
    )


def _ensembles_of(store: StudyStore) -> Path:
    return store.folder / "ensembles"


def _describe(interval: Interval) -> str:
    return "" if math.isnan(interval.low) else f" (95% {interval.low:.4f} to {interval.high:.4f})"


def _defined(end: float) -> float | None:
    """Return the limit of an interval, or None for NaN, which JSON does not support."""
    return None if math.isnan(end) else end
