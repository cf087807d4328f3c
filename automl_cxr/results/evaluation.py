"""Evaluation of a classifier on a part of the data of its study. Every evaluation on the test part is recorded."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import pandas as pd

from automl_cxr.data.dataset import Dataset
from automl_cxr.data.feature_table import open_recorded_table
from automl_cxr.errors import AutomlCxrError, DataError, UnknownNameError, UsageError
from automl_cxr.html_tables import note_line, rows_table, title_line, warning_line
from automl_cxr.results.classifier import Classifier
from automl_cxr.results.ensemble_record import record_test_opening
from automl_cxr.results.finding_scores import score_findings
from automl_cxr.results.operating_scores import score_operating_points
from automl_cxr.results.outcome_tables import calibration_table, net_benefits
from automl_cxr.results.set_coverage import SetCoverage
from automl_cxr.results.study_data import load_study_dataset
from automl_cxr.scoring.confusion import confusion_matrix
from automl_cxr.scoring.intervals import Interval, bootstrap_intervals
from automl_cxr.scoring.metric_table import CLASS_METRICS
from automl_cxr.scoring.metrics import METRICS, score_predictions
from automl_cxr.scoring.predictions import Predictions
from automl_cxr.study.model_sources import find_hashes
from automl_cxr.study.source_overlap import source_warnings
from automl_cxr.study.store import StudyStore

PARTS = ("test", "valid", "train")


@dataclass(frozen=True, repr=False)
class Evaluation:
    """The scores of a classifier on one part.

    Attributes:
        classifier: Name of the classifier.
        part: "test", "valid" or "train"; "external" for images of another site.
        predictions: The classifier's predictions.
        scores: Every metric by name.
        intervals: 95 % bootstrap interval by patient of each metric of ``METRICS`` that is defined for these classes.
        per_class: The scores of ``CLASS_METRICS`` and the number of images, one row for each class. For findings, see
            the attribute ``per_finding`` of ``results.finding_scores.FindingScores``.
        confusion: Number of images by true class (rows) and predicted class (columns). For findings, number of images by label
            and decision at the stored thresholds, one row for each finding.
        unreadable: Images that cannot be read, with the reason.
        n_opened: Number of evaluations on the test part so far, including this one; 0 for the other parts.
        out_of_fold: Whether the predictions are out of fold, as for "valid" with folds.
        warnings: Overlap of the parts of the study with the images that were used for models from which it started.
        site: Name of the external site, whose classes may be a part of those of the study; empty for a part of the study.
        notes: Sentences for the user on the images of the site, and on findings without a score.
        normal_class: Index of the class without a finding, if it is known.
        operating_points: Scores at the frozen operating points of the classifier, see
            ``results.operating_scores.OperatingScores``; None if it has none.
        set_coverage: Coverage of conformal sets on the test part or the site; None for other parts, or if it is not known.
    """

    classifier: str
    part: str
    predictions: Predictions
    scores: dict[str, float]
    intervals: dict[str, Interval]
    per_class: pd.DataFrame
    confusion: pd.DataFrame
    unreadable: dict[str, str]
    n_opened: int = 0
    out_of_fold: bool = False
    warnings: tuple[str, ...] = ()
    site: str = ""
    notes: tuple[str, ...] = ()
    normal_class: int | None = None
    operating_points: pd.DataFrame | None = None
    set_coverage: SetCoverage | None = None

    @cached_property
    def calibration(self) -> pd.DataFrame:
        """Calibration slope and intercept of each class or finding; see ``results.outcome_tables.calibration_table``."""
        return calibration_table(self.predictions)

    @cached_property
    def net_benefits(self) -> pd.DataFrame:
        """Net benefit of decisions at some thresholds; see ``results.outcome_tables.net_benefits``."""
        return net_benefits(self.predictions, self.normal_class)

    @property
    def place(self) -> str:
        """Description of the images for a title: "test part", "valid part", "train part", "out of fold" or "site hospital"."""
        if self.site:
            return f"site {self.site}"
        return "out of fold" if self.out_of_fold else f"{self.part} part"

    def __repr__(self) -> str:
        """Return the scores with their intervals, for notebooks."""
        scores = "\n".join(
            f"  {name:18} {self.scores[name]:.4f}  95% {interval.low:.3f}..{interval.high:.3f}"
            for name, interval in self.intervals.items()
        )
        warnings = "".join(f"\n{warning}" for warning in self.warnings)
        return f"Evaluation of {self.classifier}, {self.place}, {len(self.predictions)} images\n{scores}{warnings}"

    def _repr_html_(self) -> str:
        scores = [(name, self.scores[name], interval.low, interval.high) for name, interval in self.intervals.items()]
        per_class = self.per_class.reset_index() if self.per_class.index.name else self.per_class
        parts = [
            title_line(f"Evaluation of {self.classifier}, {self.place}, {len(self.predictions)} images"),
            *map(warning_line, self.warnings),
            rows_table(("metric", "score", "95 % low", "95 % high"), scores),
            title_line("Scores of each finding" if self.predictions.is_multilabel else "Scores of each class"),
            rows_table(list(map(str, per_class.columns)), per_class.itertuples(index=False, name=None)),
            *map(note_line, self.notes),
        ]
        return "".join(parts)


def evaluate(
    store: StudyStore,
    classifier: Classifier,
    *,
    part: str = "test",
    data: str | None = None,
    features: str | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Predict a part of the study's split and score it.

    With folds there is no validation part. "valid" then scores the saved out-of-fold predictions, in which each image was
    predicted by the network that was not trained on it.

    Args:
        store: The study whose split is used.
        classifier: A trial of the study or an ensemble of its trials.
        part: "test", "valid" or "train".
        data: Current location of the data; by default the recorded one.
        features: Current location of the study's table of features; by default the recorded one.
        on_progress: Called with (processed images, all images).

    Raises:
        UnknownNameError: The part is unknown.
        UsageError: The study has no test part, or out-of-fold predictions with the mirrored view are requested.
        DataError: The classifier belongs to another study, or the data are missing or have changed.
    """
    if part not in PARTS:
        raise UnknownNameError("part", part, PARTS)
    if classifier.split_digest != store.split_digest:
        raise DataError(
            f"The split of {classifier.name} differs from that of study '{store.name}', so it may have been trained on the "
            "images of this part. Evaluate it on the study in which it was trained."
        )
    spec, split, warnings = store.spec, store.split, tuple(source_warnings(store.folder))
    if part == "test" and not split.test:
        raise UsageError(
            f"Study '{store.name}' has no test part, because it was created with a test fraction of 0. Score the classifier on "
            "other images: `automl-cxr leaderboard --external DIR`, or `automl-cxr predict`."
        )
    if part == "valid" and split.folds:
        if classifier.mirrored:
            raise UsageError(
                "Out-of-fold predictions are stored for the images alone; received a classifier with the mirrored view. "
                "Evaluate it without --mirrored, or on the test part."
            )
        out_of_fold = Predictions.from_npz(classifier.predictions)
        evaluation = _score(classifier, part, out_of_fold, {}, spec.normal_index, spec.seed)
        return with_operating_scores(replace(evaluation, out_of_fold=True, warnings=warnings), classifier)
    dataset = load_study_dataset(store, data)
    with contextlib.suppress(AutomlCxrError):  # for other commands, which may not find the images of an earlier version's study
        find_hashes(store.folder, root=dataset.root)
    images = split.test if part == "test" else getattr(split, part).images
    if classifier.takes_features or features is not None:
        table = open_recorded_table(features or spec.features or "", spec.features_digest)
        classifier = classifier.with_features(table, dataset.root)
    predictions, unreadable = _predict(classifier, dataset, images, on_progress)
    evaluation = _score(classifier, part, predictions, unreadable, spec.normal_index, spec.seed)
    evaluation = with_operating_scores(replace(evaluation, warnings=warnings), classifier)
    if part != "test":
        return evaluation
    n_opened = store.record_test_opening(classifier.name, evaluation.scores)
    evaluation = replace(evaluation, n_opened=n_opened)
    if classifier.folder is not None:
        with contextlib.suppress(OSError):  # an ensemble in a read-only folder can also be evaluated
            record_test_opening(classifier.folder, _test_record(evaluation))
    return evaluation


def with_operating_scores(evaluation: Evaluation, classifier: Classifier) -> Evaluation:
    """Return an evaluation with the scores of the classifier's operating points, if it has any."""
    points = classifier.operating_points
    if not points:
        return evaluation
    scores = score_operating_points(points, evaluation.predictions, place=evaluation.place)
    return replace(evaluation, operating_points=scores.table, warnings=(*evaluation.warnings, *scores.warnings))


def _test_record(evaluation: Evaluation) -> dict[str, object]:
    """Return the entries of an evaluation for an ensemble's record and model card."""
    predictions, points = evaluation.predictions, evaluation.operating_points
    return {
        "n_images": len(predictions),
        "n_patients": len(set(predictions.patients)),
        "n_opened": evaluation.n_opened,
        "warnings": list(evaluation.warnings),
        "metrics": [
            {"metric": name, "score": evaluation.scores[name], "low": interval.low, "high": interval.high}
            for name, interval in evaluation.intervals.items()
        ],
        "operating_points": [] if points is None else points.to_dict(orient="records"),
    }


def _predict(
    classifier: Classifier, dataset: Dataset, images: tuple[str, ...], on_progress: Callable[[int, int], None] | None
) -> tuple[Predictions, dict[str, str]]:
    files = [Path(os.path.join(dataset.root, image)) for image in images]
    probabilities, unreadable = classifier.predict(files, on_progress=on_progress)
    readable = [image for position, image in enumerate(images) if position not in unreadable]
    if not readable:
        raise DataError(f"None of the {len(images)} images can be read, for example {images[0]} ({unreadable[0]}).")
    predictions = Predictions(
        ids=tuple(readable),
        labels=dataset.labels_of(readable),
        probabilities=probabilities,
        classes=dataset.classes,
        patients=tuple(dataset.table.set_index("image").loc[readable, "patient_id"]),
        thresholds=classifier.threshold_array,
    )
    return predictions, {images[position]: reason for position, reason in unreadable.items()}


def _score(
    classifier: Classifier,
    part: str,
    predictions: Predictions,
    unreadable: dict[str, str],
    normal_class: int | None,
    seed: int,
) -> Evaluation:
    if predictions.is_multilabel:
        found = score_findings(predictions, seed=seed)
        return Evaluation(
            classifier.name,
            part,
            predictions,
            found.scores,
            found.intervals,
            found.per_finding,
            found.decisions,
            unreadable,
            notes=found.notes,
        )
    classes = list(predictions.classes)
    scores = score_predictions(predictions, normal_class=normal_class)
    named = [name for name in METRICS if name in scores]
    intervals = bootstrap_intervals(predictions, named, seed=seed, normal_class=normal_class)
    counts = confusion_matrix(predictions.labels, predictions.predicted, len(classes))
    per_class = pd.DataFrame(
        {kind: [scores[f"{kind}_{name}"] for name in classes] for kind in CLASS_METRICS},
        index=pd.Index(classes, name="class"),
    )
    per_class["images"] = counts.sum(axis=1)
    confusion = pd.DataFrame(counts, index=pd.Index(classes, name="true"), columns=pd.Index(classes, name="predicted"))
    return Evaluation(
        classifier.name,
        part,
        predictions,
        scores,
        intervals,
        per_class,
        confusion,
        unreadable,
        normal_class=normal_class,
    )
