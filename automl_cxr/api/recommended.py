"""The recommended classifier of a study."""

from __future__ import annotations

from pathlib import Path

from automl_cxr.html_tables import facts_table, note_line, title_line
from automl_cxr.results.classifier import Classifier, classifier_of_study
from automl_cxr.results.recommendation_record import Recommendation
from automl_cxr.scoring.intervals import Interval
from automl_cxr.study.store import StudyStore


class Recommended:
    """The classifier that the last complete search of a study recommends; see ``Study.recommended``."""

    def __init__(self, store: StudyStore, record: Recommendation) -> None:
        self._store = store
        self._record = record

    def __repr__(self) -> str:
        return self.sentence

    def _repr_html_(self) -> str:
        record, interval = self._record, self.interval
        facts = {
            "classifier": record.name,
            "members": None if self.kind == "trial" else ", ".join(f"trial {number}" for number in self.members),
            "method": record.method,
            f"{record.metric}, {record.place}": record.score,
            "95 % interval": f"{interval.low:.4f} to {interval.high:.4f}",
            "chosen from": f"{record.n_trials} finished trials",
        }
        return title_line("Recommended classifier") + facts_table(facts) + note_line(self.sentence)

    @property
    def kind(self) -> str:
        """The text "trial" or "ensemble"."""
        return self._record.kind

    @property
    def trial(self) -> int | None:
        """Number of the trial; None for an ensemble."""
        return self._record.trials[0] if self.kind == "trial" else None

    @property
    def ensemble(self) -> Path | None:
        """Folder of the ensemble, for ``Study.evaluate`` and ``automl_cxr.predict``; None for a trial."""
        return None if self._record.ensemble is None else self._store.folder / "ensembles" / self._record.ensemble

    @property
    def members(self) -> tuple[int, ...]:
        """Numbers of the trials of the ensemble, or the number of the trial."""
        return self._record.trials

    @property
    def metric(self) -> str:
        """Name of the metric of ``score``."""
        return self._record.metric

    @property
    def score(self) -> float:
        """Validation score of the trial, or out-of-fold score. It is optimistic, because the same images chose the trials."""
        return self._record.score

    @property
    def interval(self) -> Interval:
        """95 % bootstrap interval of the score by patient."""
        return self._record.interval

    @property
    def sentence(self) -> str:
        """The recommendation in one sentence."""
        return self._record.sentence

    def classifier(self) -> Classifier:
        """Open the classifier for ``automl_cxr.predict``; if it was deleted, the best trial."""
        return classifier_of_study(self._store)
