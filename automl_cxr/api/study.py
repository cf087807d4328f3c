"""The class `Study`: results and actions of one study."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from automl_cxr.api.recommended import Recommended
from automl_cxr.api.study_html import study_html
from automl_cxr.errors import StudyError, UsageError
from automl_cxr.notebook_bars import with_notebook_bar
from automl_cxr.records import TrialRecord
from automl_cxr.results import ensembles
from automl_cxr.results.abstention import DEFAULT_COVERAGE, with_set_coverage
from automl_cxr.results.checklist.checklist_page import write_checklist
from automl_cxr.results.classifier import Classifier, classifier_of_study, classifier_of_trial, load_ensemble
from automl_cxr.results.corrected_best import CorrectedBest, correct_best_of_study
from automl_cxr.results.ensembles import BuiltEnsemble
from automl_cxr.results.error_analysis import ErrorAnalysis, analyse_errors
from automl_cxr.results.error_report import N_SHOWN, error_page
from automl_cxr.results.evaluation import Evaluation, evaluate
from automl_cxr.results.explain.explanation import explain
from automl_cxr.results.explain.off_lung_evidence import measure_off_lung_evidence
from automl_cxr.results.explain.overlays import HeatmapOverlay
from automl_cxr.results.export import Export, export_classifier
from automl_cxr.results.external_sites import open_sites
from automl_cxr.results.external_validation import evaluate_site
from automl_cxr.results.figures import Figures
from automl_cxr.results.finding_errors import FindingErrors
from automl_cxr.results.importance import PED_ANOVA, importance_table
from automl_cxr.results.leaderboard import build_leaderboard
from automl_cxr.results.recommendation_record import load_recommendation
from automl_cxr.results.replay import TOLERANCE, Replay, replay_trial
from automl_cxr.results.report import write_report
from automl_cxr.results.sealed_images import count_test_images, record_test_images
from automl_cxr.results.study_data import scored_findings, scored_images
from automl_cxr.results.study_subgroups import StudySubgroups, analyse_study_subgroups
from automl_cxr.results.verification import Verification, verify_study
from automl_cxr.scoring.conformal import check_coverage
from automl_cxr.study import study_info
from automl_cxr.study.data_preparation import OnProgress
from automl_cxr.study.provenance import SearchEntry
from automl_cxr.study.store import StudyStore
from automl_cxr.study.trial_counts import TrialCounts, count_trials
from automl_cxr.tracking.mirror import mirror_study


class Study:
    """Results and actions of one study. Every call reads the storage, so a running search can be followed.

    Open a study with ``automl_cxr.open_study``; ``automl_cxr.search`` returns one.
    """

    def __init__(self, store: StudyStore) -> None:
        self._store = store

    def __repr__(self) -> str:
        spec, states = self._store.spec, [str(record.state) for record in self._store.records()]
        best = self.best
        counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states)) or "none yet"
        result = f"best {spec.objective} {best.score:.4f} (trial {best.number})" if best else self._reason_for_no_best()
        return f"Study '{self.name}': space {spec.space_name}, {spec.image_size} pixels; trials: {counts}; {result}"

    def _repr_html_(self) -> str:
        return study_html(self._store)

    def _reason_for_no_best(self) -> str:
        requirements = self._store.spec.requirements
        return f"no trial meets {', '.join(requirements)}" if requirements and self._store.ranked() else "no score yet"

    @property
    def name(self) -> str:
        """Name of the study."""
        return self._store.name

    @property
    def folder(self) -> Path:
        """Folder that contains the study's files."""
        return self._store.folder

    @property
    def trials(self) -> list[TrialRecord]:
        """All trials, by number."""
        return self._store.records()

    @property
    def best(self) -> TrialRecord | None:
        """The finished trial with the best validation score that meets the study's requirements, or None."""
        eligible = self._store.eligible()
        return eligible[0] if eligible else None

    @property
    def recommended(self) -> Recommended | None:
        """The classifier that the last complete search recommends: a trial or an ensemble. None before such a search."""
        record = load_recommendation(self._store)
        return None if record is None else Recommended(self._store, record)

    @property
    def objectives(self) -> tuple[str, ...]:
        """Names of the objectives. The first one ranks trials."""
        return self._store.spec.objectives

    @property
    def pareto_front(self) -> list[TrialRecord]:
        """The finished trials that no other trial dominates in all objectives, best first by the first objective."""
        return self._store.pareto_front()

    @property
    def figures(self) -> Figures:
        """Plotly figures, such as ``learning_curves()`` or ``roc()``; its repr lists them all."""
        return Figures(self._store)

    @with_notebook_bar("models")
    def leaderboard(
        self,
        *others: Study,
        external: Sequence[str | Path] = (),
        class_map: Mapping[str, str] | str | Path | None = None,
        **choices: Any,
    ) -> pd.DataFrame:
        """Rank the finished trials of this study, and of other studies, in one table.

        Args:
            others: Further studies, which must be scored on the same images.
            external: Folders or tables of labelled images from other sites; every stored model and every ensemble is scored on
                them. Ensembles have rows without a rank.
            class_map: The study's class by the site's class, where the names differ; "" for images that are not used. Also as
                text, ``COVID-19=covid,No finding=no_finding``, or a CSV table with the columns ``class`` and ``name``.
            choices: Keywords of ``results.leaderboard.build_leaderboard``: ``metric``, ``intervals``, ``latency``, ``sort``,
                ``n_resamples`` and ``on_progress``.

        Returns:
            One row per trial, best first; see ``results.leaderboard.build_leaderboard``.

        Raises:
            UsageError: The studies are not comparable.
            UnknownNameError: A metric or column does not exist.
            DataError: External images are unusable.
        """
        stores = [study._store for study in (self, *others)]
        tasks = {store.spec.task for store in stores}
        if external and len(tasks) > 1:
            raise UsageError(
                "External sites are scored for studies of one task; received studies of classes and of findings. Rank them "
                "separately."
            )
        return build_leaderboard(*stores, sites=open_sites(external, class_map, task=tasks.pop()), **choices)

    def corrected_score(self, *, metric: str | None = None) -> CorrectedBest | None:
        """Estimate the score of the best trial on new patients: its score, corrected for the choice among the trials.

        The choice among the trials' predictions is repeated on four fifths of the patients and scored on the others; see
        ``scoring.selection_bias.corrected_score``. The choice of the epochs is not corrected.

        Args:
            metric: Metric that ranks the trials. [default: the (first) objective]

        Returns:
            The corrected score (``value``) with its ``interval``, the score on all images (``raw``) and the number of trials
            (``n_candidates``); None if no finished trial meets the requirements.

        Raises:
            UnknownNameError: The metric does not exist.
            StudyError: The predictions of a trial cannot be read.
        """
        return correct_best_of_study(self._store, metric)

    def importance(self, *, evaluator: str = PED_ANOVA) -> pd.DataFrame:
        """Estimate how strongly each hyperparameter affects the score; see ``results.importance.importance_table``.

        Args:
            evaluator: "ped-anova" or "fanova".

        Raises:
            StudyError: The study has too few finished trials.
            UnknownNameError: The evaluator does not exist.
        """
        return importance_table(self._store, evaluator=evaluator)

    @with_notebook_bar("models")
    def report(self, out: str | os.PathLike[str], **choices: Any) -> Path:
        """Write a report of the study as one HTML file.

        Args:
            out: File to write.
            choices: Keywords of ``results.report.build_report``: ``data``, ``explain``, ``latency`` and ``on_progress``.

        Returns:
            Path of the file.
        """
        return write_report(self._store, Path(out), **choices)

    def checklist(self, out: str | os.PathLike[str], *, name: str, data: str | None = None) -> Path:
        """Write a reporting checklist of the study; see ``results.checklist.checklist_page.write_checklist``.

        Args:
            out: File to write, .html or .md.
            name: "claim" or "tripod-ai".
            data: Folder or table of the images, if they were moved.

        Returns:
            Path of the file.

        Raises:
            UnknownNameError: There is no such checklist, or the file has another suffix.
            StudyError: No trial is finished.
        """
        return write_checklist(self._store, Path(out), name=name, data=data)

    def track(self, targets: str | Sequence[str]) -> list[str]:
        """Send the finished trials to experiment trackers that lack them.

        Args:
            targets: mlflow:URI, wandb:PROJECT or tensorboard:FOLDER, or several of these.

        Returns:
            A sentence for each tracker.

        Raises:
            UnknownNameError: There is no such tracker.
            UsageError: The library of a tracker is not installed.
            StudyError: A trial could not be sent.
        """
        sentences, is_complete = mirror_study(self._store, [targets] if isinstance(targets, str) else targets)
        if not is_complete:
            raise StudyError(" ".join(sentences) + " Correct the target, or start its server, and send the trials again.")
        return sentences

    def details(self) -> study_info.StudyDetails:
        """Return the settings, images, trials, searches and files of the study; see ``study.study_info.StudyDetails``."""
        return study_info.describe_study(self._store)

    def ensemble(self, **choices: Any) -> BuiltEnsemble:
        """Build an ensemble of the best trials.

        Args:
            choices: Keywords of ``results.ensembles.build_ensemble``: ``top``, ``members``, ``diverse``, ``predictions``,
                ``method``, ``objective``, ``settings``, ``seed``, ``name``, ``mirrored``, ``operating_point`` and
                ``confidence``.

        Raises:
            UsageError: The members or the method are unsuitable.
            StudyError: Too few trials have finished.
        """
        return ensembles.build_ensemble(self._store, **choices)

    @with_notebook_bar("predicting")
    def evaluate(
        self,
        what: int | BuiltEnsemble | Classifier | str | Path | None = None,
        *,
        part: str | None = None,
        data: str | None = None,
        features: str | None = None,
        external: str | Path | None = None,
        class_map: Mapping[str, str] | str | Path | None = None,
        abstain: float = DEFAULT_COVERAGE,
        on_progress: OnProgress | None = None,
    ) -> Evaluation:
        """Score a classifier on a part of the images of the study, or on images of another site.

        An evaluation on the test part is recorded.

        Args:
            what: Number of a trial, an ensemble or its folder, or a classifier. [default: the recommended one]
            part: "test", "valid" or "train". [default: "test"]
            data: Folder or table of the images, if they were moved.
            features: Table of features of the study, if it was moved.
            external: Folder or table of labelled images from another site, instead of a part.
            class_map: The study's class by the site's class, as for ``leaderboard``.
            abstain: Stated coverage of the conformal sets whose coverage is measured on the test part or the site.
            on_progress: Called with the number of predicted images and of all images; for a site, of networks.

        Raises:
            UsageError: A part and a site are given, or a class map without a site, or the coverage is out of range.
            StudyError: The model does not exist, or the images changed.
            DataError: The images are not found or unusable.
        """
        check_coverage(abstain)  # before the test part is opened
        sites = open_sites([] if external is None else [external], class_map, task=self._store.spec.task)
        if sites and (part is not None or data is not None):
            raise UsageError("An external site replaces the part of the study; received both. Omit --split and --data.")
        classifier = self._open(what)
        if sites:
            evaluation = evaluate_site(self._store, classifier, sites[0], on_progress=on_progress)
        else:
            part = part or "test"
            evaluation = evaluate(self._store, classifier, part=part, data=data, features=features, on_progress=on_progress)
        return with_set_coverage(evaluation, classifier, abstain)

    def _open(self, what: int | BuiltEnsemble | Classifier | str | Path | None) -> Classifier:
        match what:
            case None | int():
                return self.classifier(what)
            case BuiltEnsemble():
                return load_ensemble(what.folder)
            case Classifier():
                return what
            case _:
                return load_ensemble(Path(what))

    def validation_images(self, *, per_class: int | None = None, data: str | None = None) -> dict[str, str]:
        """Return the class of each validation image by file path, or its findings; see ``results.study_data.scored_images``.

        Args:
            per_class: Largest number of images per class. [default: all]
            data: Folder or table of the images, if they were moved.
        """
        return scored_images(self._store, data, per_class=per_class)

    def validation_findings(self, *, per_finding: int | None = None, data: str | None = None) -> dict[str, tuple[str, ...]]:
        """Return the findings of each validation image by file path; see ``results.study_data.scored_findings``.

        Args:
            per_finding: Largest number of images with each finding. [default: all images]
            data: Folder or table of the images, if they were moved.
        """
        return scored_findings(self._store, data, per_finding=per_finding)

    @with_notebook_bar("explaining")
    def explain(
        self,
        images: Sequence[str | Path] = (),
        *,
        what: int | BuiltEnsemble | Classifier | str | Path | None = None,
        per_class: int = 3,
        data: str | None = None,
        **choices: Any,
    ) -> list[HeatmapOverlay]:
        """Compute heat maps of the image regions that affect a classifier's predictions. Use of test images is recorded.

        Args:
            images: Image files. [default: ``per_class`` validation images of each class]
            what: Classifier, as for ``evaluate``.
            per_class: Number of validation images of each class.
            data: Folder or table of the images, if they were moved.
            choices: Keywords of ``results.explain.explanation.explain``, such as ``method``, ``class_name`` and ``seconds``.
        """
        classifier = self._open_for(images, what)
        labels = {} if images else self.validation_images(per_class=per_class, data=data)
        if labels and classifier.is_multilabel and choices.get("class_name") is None:
            choices["explained"] = self.validation_findings(per_finding=per_class, data=data)
        return explain(classifier, images or list(labels), labels=labels, **choices)

    @with_notebook_bar("explaining")
    def corner_evidence(
        self,
        images: Sequence[str | Path] = (),
        *,
        what: int | BuiltEnsemble | Classifier | str | Path | None = None,
        data: str | None = None,
        **choices: Any,
    ) -> pd.DataFrame:
        """Measure the share of the Grad-CAM evidence in the corners and borders of images. Use of test images is recorded.

        Args:
            images: Image files. [default: all validation images]
            what: Classifier, as for ``evaluate``.
            data: Folder or table of the images, if they were moved.
            choices: Keywords of ``results.explain.off_lung_evidence.measure_off_lung_evidence``, which describes the columns.
        """
        classifier = self._open_for(images, what)
        return measure_off_lung_evidence(classifier, images or list(self.validation_images(data=data)), **choices)

    def _open_for(self, images: Sequence[str | Path], what: int | BuiltEnsemble | Classifier | str | Path | None) -> Classifier:
        """Open a classifier for the explanation of images, and record the use of test images."""
        classifier = self._open(what)
        n_test_images = count_test_images(classifier, list(map(Path, images)))
        if n_test_images:
            record_test_images(self._store, classifier, n_test_images, "explanations")
        return classifier

    @with_notebook_bar("predicting")
    def errors(self, **choices: Any) -> ErrorAnalysis | FindingErrors:
        """Analyse the misclassified images of one or several models, by default the recommended one on the validation part.

        For several findings, the result is a ``FindingErrors`` with the missed and false findings.

        Args:
            choices: Keywords of ``results.compared_models.select_models``: ``trials``, ``top``, ``ensembles``,
                ``predictions``, ``part``, ``data`` and ``on_progress``. An evaluation on the test part is recorded.
        """
        return analyse_errors(self._store, **choices)

    @with_notebook_bar("predicting")
    def subgroups(self, **choices: Any) -> StudySubgroups:
        """Compare the scores of groups of patients, such as sexes and ages, for one model of the study.

        Args:
            choices: Keywords of ``results.study_subgroups.analyse_study_subgroups``: ``trial``, ``ensemble``, ``part``, ``by``,
                ``metrics``, ``min_patients``, ``intersections``, ``data`` and ``on_progress``. An evaluation on the test part
                is recorded.
        """
        return analyse_study_subgroups(self._store, **choices)

    @with_notebook_bar("drawing")
    def error_page(
        self,
        analysis: ErrorAnalysis | FindingErrors,
        *,
        n_shown: int = N_SHOWN,
        data: str | None = None,
        on_progress: OnProgress | None = None,
    ) -> str:
        """Return the result of ``errors`` as an HTML page with images; see ``results.error_report.error_page``.

        Args:
            analysis: Result of ``errors``.
            n_shown: Number of images of each class in each group.
            data: Folder or table of the images, if they were moved.
            on_progress: Called with the number of finished images and of all images.
        """
        return error_page(self._store, analysis, n_shown=n_shown, data=data, on_progress=on_progress)

    @with_notebook_bar("training")
    def replay(
        self,
        trial: int,
        *,
        tolerance: float = TOLERANCE,
        data: str | None = None,
        on_progress: OnProgress | None = None,
    ) -> Replay:
        """Train a trial again and compare the results with the record; see ``results.replay.replay_trial``.

        Args:
            trial: Number of the trial.
            tolerance: Largest difference of a score or probability that counts as equal.
            data: Folder or table of the images, if they were moved.
            on_progress: Called with the number of finished epochs (or folds) and of all.
        """
        return replay_trial(self._store, trial, tolerance=tolerance, data=data, on_progress=on_progress)

    @with_notebook_bar("verifying")
    def verify(
        self, trial: int | None = None, *, data: str | None = None, on_progress: OnProgress | None = None
    ) -> Verification:
        """Check files, parameters, predictions and models of finished trials; see ``results.verification.verify_study``.

        Args:
            trial: Number of the trial. [default: all finished trials]
            data: Folder or table of the images, if they were moved.
            on_progress: Called with the number of checked trials and of all.
        """
        return verify_study(self._store, trial, data=data, on_progress=on_progress)

    def trial_counts(self) -> TrialCounts:
        """Count the trials by outcome; see ``study.trial_counts.TrialCounts``."""
        return count_trials(self._store)

    def searches(self) -> list[SearchEntry]:
        """Return the provenance of all searches, by start time: time, command, versions, code and machine."""
        return self._store.searches()

    def classifier(self, trial: int | None = None) -> Classifier:
        """Open the recommended classifier, or the model of a trial, for ``automl_cxr.predict``.

        Args:
            trial: Number of the trial. [default: the recommended classifier; without a recommendation, the best trial]

        Raises:
            StudyError: The trial has no stored model.
        """
        return classifier_of_study(self._store) if trial is None else classifier_of_trial(self._store, trial)

    def export(
        self, out: str | os.PathLike[str] | None = None, *, trial: int | None = None, file_format: str | None = None
    ) -> Export:
        """Write a classifier as one file for other programs; see ``results.export.export_classifier``.

        Args:
            out: File to write. [default: named after the study and the trial or ensemble]
            trial: Number of the trial. [default: the recommended classifier]
            file_format: "keras", "onnx", "tflite" or "savedmodel". [default: by the suffix of ``out``, else "keras"]
        """
        return export_classifier(self.classifier(trial), out, file_format=file_format)
