"""What a report rests on, read once: the study's record, its best trial and that one's predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from automl_cxr.config import TrialConfig
from automl_cxr.errors import AutomlCxrError, StudyError
from automl_cxr.records import SplitRecord, TrialRecord
from automl_cxr.results.explain.overlays import HeatmapOverlay
from automl_cxr.results.study_data import load_study_dataset
from automl_cxr.results.study_ensembles import read_ensembles
from automl_cxr.scoring.intervals import Interval, bootstrap_interval
from automl_cxr.scoring.metrics import METRICS, score_predictions
from automl_cxr.scoring.predictions import Predictions
from automl_cxr.study.provenance import SearchEntry
from automl_cxr.study.spec import StudySpec
from automl_cxr.study.store import StudyStore
from automl_cxr.study.study_audit import load_audit
from automl_cxr.study.trial_counts import TrialCounts, count_trials

if TYPE_CHECKING:
    import pandas as pd

    from automl_cxr.data.audit.record import Audit

_RESAMPLES, _RESAMPLES_BY_ROW = 2000, 200  # the second of metrics that need the probabilities of every resample


@dataclass(frozen=True, eq=False)
class Heatmaps:
    """What a model looks at, or why that is not known.

    Attributes:
        model: Its name.
        overlays: Heat maps, by class.
        corners: What ``results.explanation.corner_evidence`` measured; None where nothing was.
        warnings: Of evidence in corners and borders.
        why_not: A sentence where there are no heat maps.
    """

    model: str = ""
    overlays: Sequence[HeatmapOverlay] = ()
    corners: pd.DataFrame | None = None
    warnings: Sequence[str] = field(default=())
    why_not: str = ""


@dataclass(frozen=True, kw_only=True)
class ReportData:
    """What a report rests on. Nothing of it is of the test part but what the study recorded when it was opened.

    Attributes:
        store: The study.
        spec: Its settings.
        split: Which images serve for what.
        tally: What became of its trials.
        searches: The searches on it, in order.
        best: The best trial that keeps what the study requires; the best at all where none does.
        config: Its configuration.
        predictions: What it said of the validation part, or out of fold.
        scores: Every score of these.
        intervals: 95 % bootstrap interval by patient of each metric that is defined here.
        ensembles: The record of each ensemble of the study, by name.
        test_opened: Every look at the test part: ``when``, ``what`` and ``scores``.
        audit: What the study was stamped with; None where it has no audit.
        root: Folder that the ids of images are relative to; None where the data are gone, or were not looked for.
        why_no_pictures: A sentence where the data are gone.
        explained: What a kept model looks at; None where that was not asked for.
        milliseconds: For an image, by trial; of the kept models where that was measured for the report.
    """

    store: StudyStore
    spec: StudySpec
    split: SplitRecord
    tally: TrialCounts
    searches: Sequence[SearchEntry]
    best: TrialRecord
    config: TrialConfig
    predictions: Predictions
    scores: Mapping[str, float]
    intervals: Mapping[str, Interval]
    ensembles: Mapping[str, Mapping[str, Any]]
    test_opened: Sequence[Mapping[str, Any]] = field(default=())
    audit: Audit | None = None
    root: Path | None = None
    why_no_pictures: str = ""
    explained: Heatmaps | None = None
    milliseconds: Mapping[int, float] = field(default_factory=dict)

    @property
    def place(self) -> str:
        """What the best trial was judged on."""
        return "out of fold" if self.split.folds else "validation part"


def read_report_data(store: StudyStore) -> ReportData:
    """Read what a report rests on, of the study's folder and storage alone.

    Raises:
        StudyError: No trial is finished, or a file of the study or of its best trial is damaged.
    """
    spec, ranked = store.spec, store.ranked()
    if not ranked:
        raise StudyError(f"A report needs a finished trial; {_told_states(store)}. Continue the search.")
    best = ranked[0]
    try:
        config = TrialConfig.from_json((store.trial_folder(best.number) / "config.json").read_text(encoding="utf-8"))
        predictions = store.predictions(best.number)
    except (AutomlCxrError, OSError, ValueError, TypeError) as error:
        raise StudyError(
            f"The files of the best trial, {best.number}, cannot be read ({error}). See `automl-cxr verify {store.name}`."
        ) from error
    scores = score_predictions(predictions, normal_class=spec.normal_index)
    return ReportData(
        store=store,
        spec=spec,
        split=store.split,
        tally=count_trials(store),
        searches=store.searches(),
        best=best,
        config=config,
        predictions=predictions,
        scores=scores,
        intervals=_intervals(predictions, spec, scores),
        ensembles=read_ensembles(store),
        test_opened=store.test_opened(),
        audit=load_audit(store),
    )


def locate_images(evidence: ReportData, data: str | None = None) -> ReportData:
    """Find the folder of the study's images, or say why there are no pictures.

    Args:
        evidence: Of the study.
        data: Where the data are now; by default where they were.
    """
    try:
        return replace(evidence, root=Path(load_study_dataset(evidence.store, data).root))
    except (AutomlCxrError, OSError) as error:
        return replace(evidence, why_no_pictures=f"Pictures are left out. {error}")


def _told_states(store: StudyStore) -> str:
    states = [str(record.state) for record in store.records()]
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    return f"study '{store.name}' has {counts}" if counts else f"study '{store.name}' has none at all yet"


def _intervals(predictions: Predictions, spec: StudySpec, scores: Mapping[str, float]) -> dict[str, Interval]:
    return {
        name: bootstrap_interval(
            predictions,
            metric=name,
            n_resamples=_RESAMPLES if row.of_confusions is not None else _RESAMPLES_BY_ROW,
            seed=spec.seed,
            normal_class=spec.normal_index,
        )
        for name, row in METRICS.items()
        if name in scores
    }
