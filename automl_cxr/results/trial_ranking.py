"""The ranking of finished trials that were scored on the same images: scores, intervals, ties and costs of each trial."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from automl_cxr.records import TrialRecord
from automl_cxr.scoring.best_set import LEVEL, chances_to_be_best
from automl_cxr.scoring.intervals import intervals_of, named_metric
from automl_cxr.scoring.metrics import score_predictions
from automl_cxr.scoring.objectives import COSTS
from automl_cxr.scoring.predictions import Predictions
from automl_cxr.scoring.resampling import resample_scores
from automl_cxr.scoring.thresholds import thresholds_of
from automl_cxr.study.store import StudyStore


@dataclass(frozen=True)
class FinishedTrial:
    """A finished trial of one of the compared studies."""

    store: StudyStore
    record: TrialRecord
    predictions: Predictions
    is_on_front: bool


@dataclass(frozen=True)
class RankingSettings:
    """Settings of a ranking.

    Attributes:
        metric: Metric that ranks the trials.
        intervals: Metrics with an interval, ``metric`` first.
        marks_ties: Whether to mark the trials that may be the best.
        n_resamples: Number of bootstrap resamples.
    """

    metric: str
    intervals: tuple[str, ...]
    marks_ties: bool
    n_resamples: int


def group_by_images(stores: Sequence[StudyStore]) -> list[list[FinishedTrial]]:
    """Group the finished trials of studies that were scored on the same images, labels, patients, classes and normal class.

    Trials of findings are never in one group with trials of classes.
    """
    groups: dict[object, list[FinishedTrial]] = {}
    for store in stores:
        front = {record.number for record in store.pareto_front()}
        for record in store.ranked():
            predictions = store.predictions(record.number)
            scored_on = (
                *(predictions.ids, predictions.labels.tobytes(), predictions.patients, predictions.classes),
                *(store.spec.normal_index, predictions.task),
            )
            groups.setdefault(scored_on, []).append(FinishedTrial(store, record, predictions, record.number in front))
    return list(groups.values())


def rank_trials(trials: Sequence[FinishedTrial], settings: RankingSettings) -> list[dict[str, Any]]:
    """Score trials of the same images and return a row for each, best first; see ``leaderboard.build_leaderboard``."""
    images, normal_class = trials[0].predictions, trials[0].store.spec.normal_index
    probabilities = np.stack([trial.predictions.probabilities for trial in trials])
    with_interval = [named_metric(name, images.classes, normal_class, task=images.task) for name in settings.intervals]
    resampled = resample_scores(
        images.labels,
        probabilities,
        images.patients,
        with_interval,
        n_resamples=settings.n_resamples,
        seed=trials[0].store.spec.seed,
        normal_class=normal_class,
        thresholds=thresholds_of([trial.predictions for trial in trials]) if images.is_multilabel else None,
    )
    scores = [score_predictions(trial.predictions, normal_class=normal_class) for trial in trials]
    intervals_by_metric = {name: intervals_of(scores_of_metric) for name, scores_of_metric in resampled.items()}
    sign = 1 if with_interval[0].direction == "maximize" else -1
    ranking = resampled[settings.metric]
    chances = np.full(len(trials), np.nan)
    if settings.marks_ties:
        feasible = np.flatnonzero([trial.record.is_feasible for trial in trials])
        chances[feasible] = chances_to_be_best(sign * ranking.scores[feasible], sign * ranking.of_resamples[feasible])

    def sort_key(number: int) -> tuple[float, bool, float, int]:
        score = sign * float(ranking.scores[number])
        return trials[number].record.violation, math.isnan(score), -score, number

    return [
        {
            "rank": rank,
            **_identity(trials[number]),
            settings.metric: scores[number][settings.metric],
            **{
                f"{name}_{end}": getattr(intervals[number], end)
                for name, intervals in intervals_by_metric.items()
                for end in ("low", "high")
            },
            **({"p_best": chances[number], "tied": bool(chances[number] > 1 - LEVEL)} if settings.marks_ties else {}),
            **_objectives(trials[number]),
            **scores[number],
            **_costs(trials[number]),
            "params": {f"params_{name}": value for name, value in sorted(trials[number].record.params.items())},
        }
        for rank, number in enumerate(sorted(range(len(trials)), key=sort_key), start=1)
    ]


def _identity(trial: FinishedTrial) -> dict[str, Any]:
    return {
        "study": trial.store.name,
        "trial": trial.record.number,
        "feasible": trial.record.is_feasible,
        "pareto": trial.is_on_front,
    }


def _objectives(trial: FinishedTrial) -> dict[str, float]:
    """Return the values of the objectives by name; counts as integers."""
    counts = [name for name in trial.store.spec.objectives if name in COSTS and COSTS[name].is_known_before_training]
    values = zip(trial.store.spec.objectives, trial.record.values, strict=False)
    return {name: int(value) if name in counts else value for name, value in values}


def _costs(trial: FinishedTrial) -> dict[str, Any]:
    record, facts = trial.record, trial.store.facts(trial.record.number)
    return {
        "n_parameters": record.n_parameters,
        "weight_bytes": facts.get("weight_bytes"),
        "multiply_adds": facts.get("multiply_adds"),
        "seconds": record.seconds,
        **_epochs_or_folds(record),
        "has_model": trial.store.has_model(record.number),
    }


def _epochs_or_folds(record: TrialRecord) -> dict[str, Any]:
    if record.folds is None:
        return {"epochs": len(record.scores), "best_epoch": record.best_epoch}
    scores = list(record.scores.values())
    return {"fold_mean": statistics.mean(scores), "fold_sd": statistics.stdev(scores)}
