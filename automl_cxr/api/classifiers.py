"""Functions for classifiers: open, describe, predict, combine predictions."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from itertools import compress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from automl_cxr.api.locations import locate, open_study
from automl_cxr.data.dataset import load_image_paths
from automl_cxr.data.feature_table import read_feature_table
from automl_cxr.errors import StudyError, UsageError
from automl_cxr.notebook_bars import with_notebook_bar
from automl_cxr.results import ensembles, sealed_images
from automl_cxr.results.abstention import add_sets, calibrate_classifier, describe_sets
from automl_cxr.results.classifier import ENSEMBLE_FILE, Classifier, load_ensemble
from automl_cxr.results.ensembles import BuiltEnsemble
from automl_cxr.scoring.operating_points import OperatingPoint
from automl_cxr.serving.report_files import open_report_folder, write_reports
from automl_cxr.serving.server import ServerOptions, serve_classifier
from automl_cxr.serving.structured_report import ReportContext, digest_models
from automl_cxr.storage.urls import explained_storage_errors
from automl_cxr.study.data_preparation import OnProgress
from automl_cxr.study.model_sources import study_of_model
from automl_cxr.study.presets import Preset, find_preset
from automl_cxr.study.store import StudyStore
from automl_cxr.tasks import FINDING_SEPARATOR

if TYPE_CHECKING:
    from automl_cxr.model.memory_estimate import MemoryEstimate
    from automl_cxr.model.summary import ModelSummary


def open_classifier(
    target: str | Path, *, trial: int | None = None, runs: str | Path | None = None, storage: str | None = None
) -> Classifier:
    """Open a classifier.

    Args:
        target: Folder of an ensemble, folder of a trial, or name of a study.
        trial: Number of the study's trial. [default: the best one]
        runs: Folder that contains the files of all studies; see ``open_study``.
        storage: Optuna storage URL; see ``open_study``.

    Raises:
        UsageError: ``trial`` was given for a folder, or the folder contains neither an ensemble nor a trial.
        StudyError: The study does not exist, or the trial has no stored model.
    """
    if (Path(target) / ENSEMBLE_FILE).is_file():
        if trial is not None:
            raise UsageError(f"--trial selects a trial of a study; received the ensemble {target}. Omit --trial.")
        return load_ensemble(Path(target))
    if os.sep in str(target):
        folder = Path(target).absolute()
        if folder.parent.name == "trials" and folder.name.isdecimal() and trial is None:
            study = folder.parents[1]
            return open_study(study.name, runs=runs or study.parent, storage=storage).classifier(int(folder.name))
        raise UsageError(
            f"The folder of an ensemble contains {ENSEMBLE_FILE}, and the folder of a trial is in trials/; received {target}, "
            "which is neither. To open a study, pass its name instead of its folder."
        )
    return open_study(str(target), runs=runs, storage=storage).classifier(trial)


def describe(
    name: str, fixed: Mapping[str, Any] | None = None, *, n_classes: int | None = None
) -> tuple[Preset, ModelSummary, MemoryEstimate]:
    """Describe a network: its layers and costs, and the memory that its training needs. No data and no weights are read.

    Args:
        name: A shipped study file or search space (its preset), the path of such a TOML file, or a backbone.
        fixed: Hyperparameters whose values replace those of ``name``.
        n_classes: Number of classes. [default: the published number, else 2]

    Returns:
        The configuration, the summary of the network, and the memory estimate.

    Raises:
        UnknownNameError: The name or a hyperparameter does not exist.
        UsageError: A value is impossible.
        ImpossibleModelError: The network cannot be built, for example because the images are too small.
    """
    system = find_preset(name, fixed or {})
    from automl_cxr.model.memory_estimate import estimate_memory  # imports Keras, which takes seconds
    from automl_cxr.model.summary import describe_model

    summary = describe_model(system.config, n_classes or system.n_classes or 2)
    return system, summary, estimate_memory(summary, system.config)


@with_notebook_bar("predicting")
def predict(
    classifier: Classifier,
    paths: Sequence[str | Path],
    *,
    abstain: float | None = None,
    features: str | Path | None = None,
    reports: str | Path | None = None,
    runs: str | Path | None = None,
    storage: str | None = None,
    on_progress: OnProgress | None = None,
) -> tuple[pd.DataFrame, dict[str, str]]:
    """Classify image files and all images in folders. Images of the study's test part are recorded as an evaluation on it.

    Args:
        classifier: Result of ``open_study(...).classifier()``, or an ensemble.
        paths: Image files and folders.
        abstain: Stated coverage of conformal sets, between 0 and 1, by which the classifier abstains; see
            ``results.abstention.add_sets`` for the columns. [default: a decision for each image]
        features: Table of features of the images, for a classifier that takes features instead of images. Its ids are the
            paths relative to the current folder, absolute paths, or file names.
        reports: New or empty folder for a DICOM structured report of each DICOM image. [default: none]
        runs: Folder that contains the files of all studies. [default: that of the classifier]
        storage: Optuna storage URL of its study; see ``open_study``.
        on_progress: Called with the number of predicted images and of all images.

    Returns:
        A table with one row per image; and the reason for each path that is missing, contains no image or cannot be read.
        The columns are image, class, and ``probability_<class>`` for each class, and ``decision_<class>`` (1 or 0) for each
        operating point. For findings they are image, findings (those
        whose probability reaches the threshold, as "A|B"; "" for none), and ``probability_<finding>`` and
        ``decision_<finding>`` (1 or 0) for each finding. ``attrs["notes"]`` of the table contains messages for the user.

    Raises:
        TrialError: A model file is damaged.
        UsageError: The coverage is out of range, the classifier averages over the mirrored view, it takes features and no table
            was given, the folder of the reports contains files, or highdicom is not installed.
        DataError: The table of features is unusable, or has no row for an image.
    """
    if reports is not None:
        open_report_folder(Path(reports))
    sets = None if abstain is None else calibrate_classifier(classifier, abstain)
    if features is not None:
        classifier = classifier.with_features(read_feature_table(features), Path.cwd())
    files, problems = load_image_paths(paths)
    probabilities, unreadable = classifier.predict(files, on_progress=on_progress)
    readable = [str(path) for position, path in enumerate(files) if position not in unreadable]
    table = _prediction_table(readable, classifier.classes, probabilities, classifier.thresholds, classifier.operating_points)
    notes = record_test_images(classifier, files, "predictions", runs=runs, storage=storage)
    if sets is not None:
        table = add_sets(table, sets, classifier.classes)
        notes += describe_sets(table, sets, classifier.classes)
    if reports is not None:
        context = ReportContext(classifier=classifier, model_digest=digest_models(classifier), sets=sets)
        notes += write_reports(list(map(Path, readable)), probabilities, context, Path(reports))
    table.attrs["notes"] = notes
    return table, problems | {str(files[position]): reason for position, reason in unreadable.items()}


def record_test_images(
    classifier: Classifier, files: Sequence[Path], use: str, *, runs: str | Path | None = None, storage: str | None = None
) -> list[str]:
    """Record the use of test images of a classifier's study as an evaluation on its test part.

    Args:
        classifier: A trial or an ensemble.
        files: The images that are used.
        use: Name of the use, such as "predictions".
        runs: Folder that contains the files of all studies. [default: that of the classifier]
        storage: Optuna storage URL of the study; see ``open_study``.

    Returns:
        Messages for the user; none if there are no test images among the files.
    """
    n_images = sealed_images.count_test_images(classifier, files)
    return _record_test_use(classifier, n_images, use, runs=runs, storage=storage) if n_images else []


def _record_test_use(
    classifier: Classifier, n_images: int | None, use: str, *, runs: str | Path | None, storage: str | None
) -> list[str]:
    """Record the use of test images; ``n_images`` is None if their number is not known yet."""
    place = study_of_model(classifier.members[0].file)
    folder, url = locate(runs or (None if place is None else place.parent), storage)
    try:
        store = StudyStore.open(classifier.study, runs=folder, storage=url)
    except StudyError as error:
        number = "The image is" if n_images is None else f"{n_images} of the images are"
        found = f"{number} in the test part of study '{classifier.study}'"
        return [f"{found}. This is not recorded, because the study was not found ({error})."]
    with explained_storage_errors():
        return [sealed_images.record_test_images(store, classifier, n_images, use)]


def serve(
    classifier: Classifier,
    options: ServerOptions | None = None,
    *,
    runs: str | Path | None = None,
    storage: str | None = None,
    on_ready: Callable[[str], None],
) -> None:
    """Serve a classifier over HTTP until the process is interrupted. The first test image of the study is recorded.

    Args:
        classifier: Result of ``open_classifier``.
        options: Address, token and limits. [default: on this machine only, without a token]
        runs: Folder that contains the files of all studies. [default: that of the classifier]
        storage: Optuna storage URL of its study; see ``open_study``.
        on_ready: Called with the address when the server accepts requests.

    Raises:
        UsageError: A package is not installed, there is no token for an address beyond this machine, or the server cannot
            listen on the address.
    """

    def record_test_use() -> list[str]:
        try:
            return _record_test_use(classifier, None, "served predictions", runs=runs, storage=storage)
        except (OSError, StudyError) as error:  # such as a study on a read-only disk; the server continues
            found = f"The image is in the test part of study '{classifier.study}'"
            reason = error.strerror if isinstance(error, OSError) else error  # without the path, which clients need not know
            return [f"{found}. This is not recorded, because the study cannot be changed ({reason})."]

    serve_classifier(classifier, options or ServerOptions(), record_test_use=record_test_use, on_ready=on_ready)


def combine_predictions(predictions: Sequence[str | Path], **choices: Any) -> BuiltEnsemble:
    """Build an ensemble from tables of predictions, without the models.

    Args:
        predictions: Files of predictions (.npz or CSV), one per model, for the same images.
        choices: Keywords of ``results.ensembles.build_ensemble_of_tables``: ``method``, ``objective``, ``normal_class``,
            ``settings``, ``seed``, ``name``, ``operating_point`` and ``confidence``.

    Raises:
        DataError: A table is unreadable, or the tables contain different images.
        UsageError: The method or a setting is invalid.
    """
    return ensembles.build_ensemble_of_tables(predictions, **choices)


def apply_ensemble(folder: str | Path, predictions: Sequence[str | Path]) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Combine the members' predictions for new images; see ``results.ensembles.apply_ensemble``.

    Args:
        folder: Folder of the ensemble.
        predictions: Files of predictions, one per member, in the order of the members.

    Returns:
        A table with one row per image, as in ``predict``; and notes about the columns that are used and about rescaled scores.

    Raises:
        DataError: A table is unreadable, or the number of tables differs from the number of members.
    """
    combined, points, notes = ensembles.apply_ensemble(Path(folder), predictions)
    return _prediction_table(list(combined.ids), combined.classes, combined.probabilities, combined.thresholds, points), notes


def _prediction_table(
    images: list[str],
    classes: tuple[str, ...],
    probabilities: np.ndarray,
    thresholds: Sequence[float] | np.ndarray | None,
    points: Sequence[OperatingPoint],
) -> pd.DataFrame:
    if thresholds is not None:
        return _finding_table(images, classes, probabilities, probabilities >= np.asarray(thresholds))
    table = pd.DataFrame({"image": images, "class": [classes[best] for best in probabilities.argmax(axis=1)]})
    for column, class_name in enumerate(classes):
        table[f"probability_{class_name}"] = probabilities[:, column]
    for point in points:
        table[f"decision_{point.name}"] = (probabilities[:, classes.index(point.name)] >= point.threshold).astype(int)
    return table


def _finding_table(
    images: list[str], findings: tuple[str, ...], probabilities: np.ndarray, decided: np.ndarray
) -> pd.DataFrame:
    present = [FINDING_SEPARATOR.join(compress(findings, row)) for row in decided]
    columns: dict[str, Any] = {"image": images, "findings": present}
    for column, finding in enumerate(findings):
        columns[f"probability_{finding}"] = probabilities[:, column]
        columns[f"decision_{finding}"] = decided[:, column].astype(int)
    return pd.DataFrame(columns)
