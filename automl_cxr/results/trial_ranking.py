"""The ranking of finished trials that were scored on the same images: scores, intervals, ties and costs of each trial."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from automl_cxr.records import TrialRecord
from automl_cxr.results.trial_comparison import FinishedTrial, is_maximized, rank_by, stack_probabilities, within_reach
from automl_cxr.scoring.best_set import LEVEL, chances_to_be_best
from automl_cxr.scoring.intervals import Interval, intervals_of, named_metric
from automl_cxr.scoring.objectives import COSTS
from automl_cxr.scoring.resampling import ResampledScores, resample_scores

_NO_INTERVAL = Interval(math.nan, math.nan, LEVEL)


@dataclass(frozen=True)
class RankingSettings:
    """Settings of a ranking.

    Attributes:
        metric: Metric that ranks the trials.
        intervals: Metrics with an interval, ``metric`` first.
        marks_ties: Whether to mark the trials that may be the best.
        n_resamples: Number of bootstrap resamples.
        all_intervals: Whether all trials are compared on resamples, and not only those within reach of the best.
    """

    metric: str
    intervals: tuple[str, ...]
    marks_ties: bool
    n_resamples: int
    all_intervals: bool = False


def rank_trials(trials: Sequence[FinishedTrial], settings: RankingSettings) -> list[dict[str, Any]]:
    """Score trials of the same images and return a row for each, best first; see ``leaderboard.build_leaderboard``."""
    ranked = rank_by(trials, settings.metric)
    compared = ranked if settings.all_intervals else within_reach(ranked, settings.metric)
    resampled = _resample(compared, settings)
    intervals_by_metric = {name: intervals_of(scores_of_metric) for name, scores_of_metric in resampled.items()}
    numbers = {id(trial): number for number, trial in enumerate(compared)}
    chances = _chances(compared, resampled[settings.metric], settings)
    rows = []
    for rank, trial in enumerate(ranked, start=1):
        number = numbers.get(id(trial))
        intervals = {name: _NO_INTERVAL if number is None else of[number] for name, of in intervals_by_metric.items()}
        chance = math.nan if number is None else chances[number]
        rows.append(
            {
                "rank": rank,
                **_identity(trial),
                settings.metric: trial.scores[settings.metric],
                **{f"{name}_{end}": getattr(limits, end) for name, limits in intervals.items() for end in ("low", "high")},
                **({"p_best": chance, "tied": bool(chance > 1 - LEVEL)} if settings.marks_ties else {}),
                **_objectives(trial),
                **trial.scores,
                **_costs(trial),
                "params": {f"params_{name}": value for name, value in sorted(trial.record.params.items())},
            }
        )
    return rows


def _resample(trials: Sequence[FinishedTrial], settings: RankingSettings) -> dict[str, ResampledScores]:
    """Score trials of the same images on resamples of the patients."""
    images, spec = trials[0].predictions, trials[0].spec
    probabilities, thresholds = stack_probabilities(trials)
    return resample_scores(
        images.labels,
        probabilities,
        images.patients,
        [named_metric(name, images.classes, spec.normal_index, task=images.task) for name in settings.intervals],
        n_resamples=settings.n_resamples,
        seed=spec.seed,
        normal_class=spec.normal_index,
        thresholds=thresholds,
    )


def _chances(trials: Sequence[FinishedTrial], resampled: ResampledScores, settings: RankingSettings) -> np.ndarray:
    """Compute for each trial whether it may be the best, (n_trials,); NaN for those that violate a requirement."""
    chances = np.full(len(trials), np.nan)
    if settings.marks_ties:
        sign = 1 if is_maximized(trials[0], settings.metric) else -1
        feasible = np.flatnonzero([trial.record.is_feasible for trial in trials])
        chances[feasible] = chances_to_be_best(sign * resampled.scores[feasible], sign * resampled.of_resamples[feasible])
    return chances


def _identity(trial: FinishedTrial) -> dict[str, Any]:
    return {
        "study": trial.store.name,
        "trial": trial.record.number,
        "feasible": trial.record.is_feasible,
        "pareto": trial.is_on_front,
    }


def _objectives(trial: FinishedTrial) -> dict[str, float]:
    """Return the values of the objectives by name; counts as integers."""
    counts = [name for name in trial.spec.objectives if name in COSTS and COSTS[name].is_known_before_training]
    values = zip(trial.spec.objectives, trial.record.values, strict=False)
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
