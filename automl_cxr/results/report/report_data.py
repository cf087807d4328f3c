"""The data of a report, read once: the study's record, its best trial and the predictions of that trial."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from automl_cxr.config import TrialConfig
from automl_cxr.data.image_metadata import load_image_metadata
from automl_cxr.errors import AutomlCxrError, StudyError
from automl_cxr.records import SplitRecord, TrialRecord
from automl_cxr.results.corrected_best import CorrectedBest
from automl_cxr.results.explain.overlays import HeatmapOverlay
from automl_cxr.results.finding_scores import FindingScores, score_findings
from automl_cxr.results.leaderboard import build_leaderboard
from automl_cxr.results.study_data import load_study_dataset, load_trial_config
from automl_cxr.results.study_ensembles import read_ensembles
from automl_cxr.results.study_subgroups import compared_metrics
from automl_cxr.results.subgroup_tables import SubgroupAnalysis, analyse_subgroups, group_predictions
from automl_cxr.scoring.intervals import Interval, bootstrap_interval, bootstrap_intervals
from automl_cxr.scoring.metrics import METRICS, score_predictions
from automl_cxr.scoring.predictions import Predictions
from automl_cxr.study.provenance import SearchEntry
from automl_cxr.study.source_overlap import source_warnings
from automl_cxr.study.spec import StudySpec
from automl_cxr.study.store import StudyStore
from automl_cxr.study.study_audit import load_audit
from automl_cxr.study.trial_counts import TrialCounts, count_trials

if TYPE_CHECKING:
    import pandas as pd

    from automl_cxr.data.audit.record import Audit

_N_RESAMPLES = 2000
_N_RESAMPLES_SLOW = 200  # for metrics that are computed from the probabilities of every resample


def _no_metadata() -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame()


@dataclass(frozen=True, eq=False)
class Heatmaps:
    """Heat maps of a model and its off-lung evidence, or the reason why they are missing.

    Attributes:
        model: Name of the model.
        overlays: Heat maps, ordered by class.
        off_lung_evidence: Result of ``measure_off_lung_evidence``; None if it could not be computed.
        warnings: Warnings about evidence in corners and borders.
        missing_reason: Message for the reader if there are no heat maps.
    """

    model: str = ""
    overlays: Sequence[HeatmapOverlay] = ()
    off_lung_evidence: pd.DataFrame | None = None
    warnings: Sequence[str] = field(default=())
    missing_reason: str = ""


@dataclass(frozen=True, kw_only=True)
class ReportData:
    """The data of a report. The only data about the test part are the recorded evaluations.

    Attributes:
        store: The study.
        spec: Specification of the study.
        split: Training, validation and test images, or folds.
        counts: Numbers of trials by outcome.
        searches: The searches of the study, in order.
        best: The best trial that satisfies the study's requirements, or the best trial if none does.
        config: Configuration of the best trial.
        predictions: Predictions of the best trial for the validation part, or out of fold.
        scores: All scores of these predictions.
        intervals: 95% bootstrap interval by patient of each metric that is defined for them.
        ensembles: Record of each ensemble of the study, by name.
        test_opened: Recorded evaluations of the test part: ``when``, ``what`` (the model) and ``scores``.
        source_warnings: Overlap of the parts with the images that were used for models from which the study started.
        audit: The audit recorded with the study; None if the study has no audit.
        root: Folder to which the image ids are relative; None if the images are not available or not located yet.
        no_pictures_reason: Message for the reader if the images are not available.
        heatmaps: Heat maps of the best saved model; None if they were not requested.
        milliseconds: Latency per image by trial, of the saved models, if it was measured for the report.
        finding_scores: The scores of each finding; None for a study of classes.
        metadata: Sex, age and other metadata of the images (``Dataset.metadata``); without a column if none are known.
    """

    store: StudyStore
    spec: StudySpec
    split: SplitRecord
    counts: TrialCounts
    searches: Sequence[SearchEntry]
    best: TrialRecord
    config: TrialConfig
    predictions: Predictions
    scores: Mapping[str, float]
    intervals: Mapping[str, Interval]
    ensembles: Mapping[str, Mapping[str, Any]]
    test_opened: Sequence[Mapping[str, Any]] = field(default=())
    source_warnings: Sequence[str] = field(default=())
    audit: Audit | None = None
    root: Path | None = None
    no_pictures_reason: str = ""
    heatmaps: Heatmaps | None = None
    milliseconds: Mapping[int, float] = field(default_factory=dict)
    finding_scores: FindingScores | None = None
    metadata: pd.DataFrame = field(default_factory=_no_metadata)

    @property
    def evaluated_on(self) -> str:
        """The images on which scores are computed: "validation part" or "out of fold"."""
        return "out of fold" if self.split.folds else "validation part"

    @cached_property
    def leaderboard(self) -> pd.DataFrame:
        """The leaderboard with the shortcut baseline; it takes a minute for many trials of many images.

        Raises:
            AutomlCxrError: A file of a trial is damaged.
        """
        return build_leaderboard(self.store, with_baseline=True)

    @cached_property
    def subgroups(self) -> SubgroupAnalysis | None:
        """Scores of the best trial in groups of patients; None if no metadata are known."""
        groupings = group_predictions(self.metadata, self.predictions.ids)
        if not groupings:
            return None
        return analyse_subgroups(
            self.predictions,
            groupings,
            metrics=compared_metrics(self.spec, None),
            normal_class=self.spec.normal_index,
            all_intervals=False,
            seed=self.spec.seed,
        )

    @property
    def corrected(self) -> CorrectedBest | None:
        """Score of the best trial, corrected for the choice among the trials; None if no trial meets the requirements."""
        of_sets: Sequence[CorrectedBest | None] = self.leaderboard.attrs.get("corrected", ())
        return of_sets[0] if of_sets else None


def read_report_data(store: StudyStore) -> ReportData:
    """Read the data of a report from the folder and the storage of a study. Images and models are not read.

    Raises:
        StudyError: No trial is finished, or a file of the study or of its best trial is damaged.
    """
    spec, ranked = store.spec, store.ranked()
    if not ranked:
        raise StudyError(f"A report needs a finished trial; {_describe_states(store)}. Continue the search.")
    best = ranked[0]
    try:
        config = load_trial_config(store, best.number)
        predictions = store.predictions(best.number)
    except AutomlCxrError as error:
        raise StudyError(
            f"The files of the best trial, {best.number}, cannot be read ({error}). See `automl-cxr verify {store.name}`."
        ) from error
    finding_scores = score_findings(predictions, seed=spec.seed) if predictions.is_multilabel else None
    if finding_scores is None:
        scores = score_predictions(predictions, normal_class=spec.normal_index)
        intervals = _intervals(predictions, spec, scores)
    else:
        scores, intervals = finding_scores.scores, finding_scores.intervals
    if spec.objective not in intervals:  # a metric of one class or finding
        interval = bootstrap_interval(predictions, metric=spec.objective, seed=spec.seed, normal_class=spec.normal_index)
        intervals = {**intervals, spec.objective: interval}
    return ReportData(
        store=store,
        spec=spec,
        split=store.split,
        counts=count_trials(store),
        searches=store.searches(),
        best=best,
        config=config,
        predictions=predictions,
        scores=scores,
        intervals=intervals,
        ensembles=read_ensembles(store),
        test_opened=store.test_opened(),
        source_warnings=source_warnings(store.folder),
        audit=load_audit(store),
        finding_scores=finding_scores,
        metadata=load_image_metadata(store.folder),
    )


def locate_images(report_data: ReportData, data: str | None = None) -> ReportData:
    """Return the report data with the folder of the images, or with the reason why there are no pictures.

    The metadata are those of the data if the study has not stored them.

    Args:
        report_data: The data of the study's report.
        data: Current folder of the images; by default the folder used for the search.
    """
    try:
        dataset = load_study_dataset(report_data.store, data)
        stored = report_data.metadata
        return replace(report_data, root=Path(dataset.root), metadata=dataset.metadata if stored.columns.empty else stored)
    except (AutomlCxrError, OSError) as error:
        return replace(report_data, no_pictures_reason=f"Pictures are omitted. {error}")


def _describe_states(store: StudyStore) -> str:
    states = [str(record.state) for record in store.records()]
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    return f"study '{store.name}' has {counts}" if counts else f"study '{store.name}' has no trials yet"


def _intervals(predictions: Predictions, spec: StudySpec, scores: Mapping[str, float]) -> dict[str, Interval]:
    intervals: dict[str, Interval] = {}
    for n_resamples, is_fast in ((_N_RESAMPLES, True), (_N_RESAMPLES_SLOW, False)):
        names = [name for name, row in METRICS.items() if name in scores and (row.of_confusions is not None) == is_fast]
        intervals |= bootstrap_intervals(
            predictions, names, n_resamples=n_resamples, seed=spec.seed, normal_class=spec.normal_index
        )
    return {name: intervals[name] for name in METRICS if name in scores}
