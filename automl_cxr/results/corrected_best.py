"""The score of the best trial, corrected for the choice among all trials; used by every output that quotes the best trial."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from automl_cxr.results.trial_comparison import FinishedTrial, group_by_images, rank_by, within_reach
from automl_cxr.scoring.intervals import Interval
from automl_cxr.scoring.selection_bias import corrected_score
from automl_cxr.study.store import StudyStore


@dataclass(frozen=True)
class CorrectedBest:
    """The corrected score of the best trial; see ``scoring.selection_bias.corrected_score``.

    Attributes:
        study: Name of its study.
        trial: Number of the trial.
        metric: Metric that ranks the trials.
        value: Corrected score; NaN if it cannot be estimated.
        interval: 95 % interval of the corrected score.
        raw: Score on all images, as on the leaderboard.
        n_candidates: Number of trials among which it is the best.
    """

    study: str
    trial: int
    metric: str
    value: float
    interval: Interval
    raw: float
    n_candidates: int

    def sentence(self) -> str:
        """Return the corrected score as a sentence for readers of the uncorrected one; "" if there was no choice."""
        if self.n_candidates == 1:
            return ""
        if math.isnan(self.value):
            reason = "it is undefined" if math.isnan(self.raw) else "there are too few patients"
            return (
                f"The {self.metric} of trial {self.trial} cannot be corrected for the choice among {self.n_candidates} trials, "
                f"because {reason}."
            )
        return (
            f"Corrected for the choice among {self.n_candidates} trials, the {self.metric} of trial {self.trial} is "
            f"{self.value:.4f} (95% interval {self.interval.low:.4f} to {self.interval.high:.4f}); uncorrected {self.raw:.4f}."
        )

    def fields(self) -> dict[str, Any]:
        """Return the fields for JSON; None instead of NaN."""
        scores = {
            "value": self.value,
            "low": self.interval.low,
            "high": self.interval.high,
            "uncorrected": self.raw,
        }
        defined = {name: None if math.isnan(score) else score for name, score in scores.items()}
        return {"trial": self.trial, "metric": self.metric, **defined, "n_candidates": self.n_candidates}


def correct_best(trials: Sequence[FinishedTrial], metric: str) -> CorrectedBest | None:
    """Correct the best score of trials that were scored on the same images.

    Trials that violate a requirement are not candidates, because they are never selected. Pruned trials have no final
    predictions and are not candidates either. In a large study the choice is repeated among the trials within reach of the best
    one, because the others are not chosen on a part of the patients either.

    Args:
        trials: Finished trials of the same images, in the order in which ties are resolved.
        metric: Metric that ranks the trials, a name in ``metrics_for`` the classes.

    Returns:
        The corrected score, or None if no trial meets the requirements.
    """
    candidates = [trial for trial in trials if trial.record.is_feasible]
    if not candidates:
        return None
    spec, compared = candidates[0].spec, within_reach(rank_by(candidates, metric), metric)
    corrected = corrected_score(
        [trial.predictions for trial in compared], metric=metric, normal_class=spec.normal_index, seed=spec.seed
    )
    best = compared[corrected.best]
    return CorrectedBest(
        study=best.store.name,
        trial=best.record.number,
        metric=metric,
        value=corrected.value,
        interval=corrected.interval,
        raw=corrected.raw,
        n_candidates=len(candidates),
    )


def correct_best_of_study(store: StudyStore, metric: str | None = None) -> CorrectedBest | None:
    """Correct the best score of a study, see ``correct_best``.

    Args:
        store: The study.
        metric: Metric that ranks the trials; by default the (first) objective.
    """
    groups = group_by_images([store])
    return correct_best(groups[0], metric or store.spec.objective) if groups else None
