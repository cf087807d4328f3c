"""The record of the classifier that a search recommends: recommended.json in the folder of the study."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

from automl_cxr.io import write_text
from automl_cxr.scoring.intervals import Interval
from automl_cxr.study.store import StudyStore, explained_disk_errors, read_record
from automl_cxr.text_records import build_record, parse_json

RECOMMENDATION_FILE = "recommended.json"
_LEVEL = 0.95


@dataclass(frozen=True, kw_only=True)
class Recommendation:
    """The recommended classifier of a study.

    Attributes:
        trials: Number of the trial, or of the members of the ensemble.
        ensemble: Name of the ensemble's folder; None for a trial.
        method: Method that combines the members; None for a trial.
        metric: Name of the metric of the scores: the first objective of the study.
        score: Score of the trial, or out-of-fold score of the ensemble.
        low: Lower limit of the 95 % bootstrap interval by patient; None where it is undefined.
        high: Upper limit of the interval.
        place: Images of the score: "validation part" or "out of fold".
        n_trials: Number of finished trials from which the classifier was chosen.
        sentence: The recommendation in one sentence, which begins with "Use".
    """

    trials: tuple[int, ...]
    ensemble: str | None = None
    method: str | None = None
    metric: str
    score: float
    low: float | None
    high: float | None
    place: str
    n_trials: int
    sentence: str

    def __post_init__(self) -> None:
        is_trial = self.ensemble is None and len(self.trials) == 1
        is_ensemble = self.ensemble is not None and self.trials and Path(self.ensemble).name == self.ensemble
        if not (is_trial or is_ensemble):
            raise ValueError("it must name one trial, or an ensemble and its trials")

    @property
    def kind(self) -> str:
        """The text "trial" or "ensemble"."""
        return "trial" if self.ensemble is None else "ensemble"

    @property
    def name(self) -> str:
        """Name of the classifier, such as "trial 3" or "ensemble recommended"."""
        return f"trial {self.trials[0]}" if self.ensemble is None else f"ensemble {self.ensemble}"

    @property
    def interval(self) -> Interval:
        """95 % bootstrap interval of the score by patient; NaN where it is undefined."""
        low, high = (float("nan") if end is None else end for end in (self.low, self.high))
        return Interval(low, high, _LEVEL)


def load_recommendation(store: StudyStore) -> Recommendation | None:
    """Return the recommended classifier of a study; None if no search has recommended one.

    Raises:
        StudyError: The record is damaged.
    """
    file = store.folder / RECOMMENDATION_FILE
    return read_record(file, lambda text: build_record(Recommendation, parse_json(text))) if file.is_file() else None


def save_recommendation(store: StudyStore, recommendation: Recommendation | None) -> None:
    """Write the recommended classifier of a study, or remove the record if there is none.

    Raises:
        StudyError: The file cannot be written.
    """
    file = store.folder / RECOMMENDATION_FILE
    with explained_disk_errors(file):
        if recommendation is None:
            file.unlink(missing_ok=True)
        else:
            text = json.dumps(dataclasses.asdict(recommendation), indent=1, ensure_ascii=False, allow_nan=False)
            write_text(file, text)
