"""A study as people use it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from automl_cxr.records import TrialRecord
from automl_cxr.results import ensembles
from automl_cxr.results.classifier import Classifier, classifier_of_trial, load_ensemble
from automl_cxr.results.ensembles import BuiltEnsemble
from automl_cxr.results.error_analysis import ErrorAnalysis, analyse_errors
from automl_cxr.results.error_report import N_SHOWN, error_page
from automl_cxr.results.evaluation import Evaluation, evaluate
from automl_cxr.results.explain.explanation import corner_evidence, explain
from automl_cxr.results.explain.overlays import HeatmapOverlay
from automl_cxr.results.export import Export, export_classifier
from automl_cxr.results.external_validation import open_sites
from automl_cxr.results.figures import Figures
from automl_cxr.results.importance import PED_ANOVA, importance_table
from automl_cxr.results.leaderboard import build_leaderboard
from automl_cxr.results.replay import TOLERANCE, Replay, replay_trial
from automl_cxr.results.report import write_report
from automl_cxr.results.study_data import judged_images
from automl_cxr.results.verification import Verification, verify_study
from automl_cxr.study import study_info
from automl_cxr.study.data_preparation import OnProgress
from automl_cxr.study.provenance import SearchEntry
from automl_cxr.study.store import StudyStore
from automl_cxr.study.trial_counts import TrialCounts, count_trials


class Study:
    """A study as people use it. It reads the record at every call, so it may be watched while a search runs."""

    def __init__(self, store: StudyStore) -> None:
        self._store = store

    def __repr__(self) -> str:
        spec, states = self._store.spec, [str(record.state) for record in self._store.records()]
        best = self.best
        counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states)) or "none yet"
        told = f"best {spec.objective} {best.score:.4f} (trial {best.number})" if best else self._why_none()
        return f"Study '{self.name}': space {spec.space_name}, {spec.image_size} pixels; trials: {counts}; {told}"

    def _why_none(self) -> str:
        requirements = self._store.spec.requirements
        return f"no trial meets {', '.join(requirements)}" if requirements and self._store.ranked() else "no score yet"

    @property
    def name(self) -> str:
        return self._store.name

    @property
    def folder(self) -> Path:
        """Where its files lie."""
        return self._store.folder

    @property
    def trials(self) -> list[TrialRecord]:
        """Every trial, by number."""
        return self._store.records()

    @property
    def best(self) -> TrialRecord | None:
        """The best finished trial on the validation part that keeps what the study requires, or None."""
        eligible = self._store.eligible()
        return eligible[0] if eligible else None

    @property
    def objectives(self) -> tuple[str, ...]:
        """What is optimised, the first of them ranking."""
        return self._store.spec.objectives

    @property
    def pareto_front(self) -> list[TrialRecord]:
        """The finished trials that no other one beats in every objective, best first by the first one."""
        return self._store.pareto_front()

    @property
    def figures(self) -> Figures:
        """Plotly pictures, such as ``learning_curves()`` or ``roc()``; its repr names them all."""
        return Figures(self._store)

    def leaderboard(self, *others: Study, external: Sequence[str | Path] = (), **choices: Any) -> pd.DataFrame:
        """Rank the finished trials, together with those of other studies.

        ``external`` names the data of other places by which every kept model is scored. Further keywords are those of
        ``results.leaderboard.build_leaderboard``: ``metric``, ``intervals``, ``latency``, ``sort``, ``n_resamples`` and
        ``on_progress``. Figures and errors as there and in ``results.external``.
        """
        stores = [study._store for study in (self, *others)]
        return build_leaderboard(*stores, sites=open_sites(external), **choices)

    def importance(self, *, evaluator: str = PED_ANOVA) -> pd.DataFrame:
        """Tell how much each hyperparameter mattered; see ``results.importance.importance_table``."""
        return importance_table(self._store, evaluator=evaluator)

    def report(self, out: str | os.PathLike[str], **choices: Any) -> Path:
        """Write everything about the study into one HTML file, and return it.

        Keywords and errors are those of ``results.report.build_report``: ``data``, ``explain``, ``latency``, ``on_progress``.
        """
        return write_report(self._store, Path(out), **choices)

    def details(self) -> study_info.StudyDetails:
        """Collect settings, images, trials, searches and files; see ``study.catalogue.StudyDetails``."""
        return study_info.describe_study(self._store)

    def ensemble(self, **choices: Any) -> BuiltEnsemble:
        """Build an ensemble of the best trials.

        Keywords are those of ``results.ensembles.build_ensemble``: ``top``, ``members``, ``diverse``, ``predictions``,
        ``method``, ``objective``, ``settings``, ``seed`` and ``name``.
        """
        return ensembles.build_ensemble(self._store, **choices)

    def evaluate(
        self,
        what: int | BuiltEnsemble | Classifier | str | Path | None = None,
        *,
        part: str = "test",
        data: str | None = None,
        on_progress: OnProgress | None = None,
    ) -> Evaluation:
        """Score a classifier, by default the best trial, on a part; opening the test part is recorded.

        ``what`` may be a trial's number, an ensemble or its folder, or a classifier. Errors as in
        ``results.evaluation.evaluate``.
        """
        return evaluate(self._store, self._opened(what), part=part, data=data, on_progress=on_progress)

    def _opened(self, what: int | BuiltEnsemble | Classifier | str | Path | None) -> Classifier:
        match what:
            case None | int():
                return classifier_of_trial(self._store, what)
            case BuiltEnsemble():
                return load_ensemble(what.folder)
            case Classifier():
                return what
            case _:
                return load_ensemble(Path(what))

    def validation_images(self, *, per_class: int | None = None, data: str | None = None) -> dict[str, str]:
        """Find the files of the validation part and their classes; see ``results.study_images.judged_images``."""
        return judged_images(self._store, data, per_class=per_class)

    def explain(
        self,
        images: Sequence[str | Path] = (),
        *,
        what: int | BuiltEnsemble | Classifier | str | Path | None = None,
        per_class: int = 3,
        data: str | None = None,
        **choices: Any,
    ) -> list[HeatmapOverlay]:
        """Show why a classifier, by default the best trial, says what it says of some images.

        Without images, of ``per_class`` of each class of the validation part. ``what`` is as for ``evaluate``, other keywords
        are those of ``results.explanation.explain``, such as ``method``, ``class_name`` and ``seconds``.
        """
        labels = {} if images else self.validation_images(per_class=per_class, data=data)
        return explain(self._opened(what), images or list(labels), labels=labels, **choices)

    def corner_evidence(
        self,
        images: Sequence[str | Path] = (),
        *,
        what: int | BuiltEnsemble | Classifier | str | Path | None = None,
        data: str | None = None,
        **choices: Any,
    ) -> pd.DataFrame:
        """Measure how much of a classifier's evidence lies in corners and borders, by default over the validation part.

        ``what`` is as for ``evaluate``; columns and other keywords are those of ``results.explanation.corner_evidence``.
        """
        return corner_evidence(self._opened(what), images or list(self.validation_images(data=data)), **choices)

    def errors(self, **choices: Any) -> ErrorAnalysis:
        """Compare what models get wrong, by default what the best trial gets wrong of the validation part.

        Keywords are those of ``results.chosen_models.select_models``: ``trials``, ``top``, ``ensembles``, ``predictions``,
        ``part``, ``data`` and ``on_progress``. Opening the test part is recorded.
        """
        return analyse_errors(self._store, **choices)

    def error_page(
        self,
        analysis: ErrorAnalysis,
        *,
        n_shown: int = N_SHOWN,
        data: str | None = None,
        on_progress: OnProgress | None = None,
    ) -> str:
        """Write what ``errors`` found as HTML with pictures; see ``results.error_page.error_page``."""
        return error_page(self._store, analysis, n_shown=n_shown, data=data, on_progress=on_progress)

    def replay(
        self,
        trial: int,
        *,
        tolerance: float = TOLERANCE,
        data: str | None = None,
        on_progress: OnProgress | None = None,
    ) -> Replay:
        """Train a trial again and compare; see ``results.replay.replay_trial``."""
        return replay_trial(self._store, trial, tolerance=tolerance, data=data, on_progress=on_progress)

    def verify(
        self, trial: int | None = None, *, data: str | None = None, on_progress: OnProgress | None = None
    ) -> Verification:
        """Check that the finished trials are what the record says; see ``results.verification.verify_study``."""
        return verify_study(self._store, trial, data=data, on_progress=on_progress)

    def tally(self) -> TrialCounts:
        """Count what became of the trials so far; see ``study.tally.TrialCounts``."""
        return count_trials(self._store)

    def searches(self) -> list[SearchEntry]:
        """Every search that was begun on the study, in order: when, command, versions, code, machine."""
        return self._store.searches()

    def classifier(self, trial: int | None = None) -> Classifier:
        """Open a trial's model, by default the best one's, for ``predict``."""
        return classifier_of_trial(self._store, trial)

    def export(
        self, out: str | os.PathLike[str] | None = None, *, trial: int | None = None, file_format: str | None = None
    ) -> Export:
        """Write a trial's model, by default the best one's, as one file; see ``results.export.export_classifier``."""
        return export_classifier(self.classifier(trial), out, file_format=file_format)
