"""Classifiers at work: opening one, describing a network, predicting, combining others' predictions."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from automl_cxr.api.locations import open_study
from automl_cxr.data.dataset import load_image_paths
from automl_cxr.errors import UsageError
from automl_cxr.results import ensembles
from automl_cxr.results.classifier import ENSEMBLE_FILE, Classifier, load_ensemble
from automl_cxr.results.ensembles import BuiltEnsemble
from automl_cxr.study.data_preparation import OnProgress
from automl_cxr.study.presets import Preset, find_preset

if TYPE_CHECKING:
    from automl_cxr.model.memory_estimate import MemoryEstimate
    from automl_cxr.model.summary import ModelSummary


def open_classifier(
    target: str | Path, *, trial: int | None = None, runs: str | Path | None = None, storage: str | None = None
) -> Classifier:
    """Open what a user names: an ensemble's folder, a trial's folder, or a study's best trial (or ``trial``).

    Raises:
        UsageError: A trial of an ensemble or of a trial was asked for, or the path is neither's.
        StudyError: It is neither a folder of an ensemble nor a study, or the trial has no model.
    """
    if (Path(target) / ENSEMBLE_FILE).is_file():
        if trial is not None:
            raise UsageError(f"A trial belongs to a study; {target} is an ensemble. Leave --trial out.")
        return load_ensemble(Path(target))
    if os.sep in str(target):
        folder = Path(target).absolute()
        if folder.parent.name == "trials" and folder.name.isdecimal() and trial is None:
            study = folder.parents[1]
            return open_study(study.name, runs=runs or study.parent, storage=storage).classifier(int(folder.name))
        raise UsageError(
            f"An ensemble's folder holds {ENSEMBLE_FILE}, and a trial's lies in trials/; received {target}, which is neither. "
            "A study is named, not located."
        )
    return open_study(str(target), runs=runs, storage=storage).classifier(trial)


def describe(
    name: str, fixed: Mapping[str, Any] | None = None, *, n_classes: int | None = None
) -> tuple[Preset, ModelSummary, MemoryEstimate]:
    """Count the layers of the network that a name stands for, and the memory to train it; no data and no weights are needed.

    Args:
        name: A shipped study or search space (its preset), the path of such a TOML file, or a backbone.
        fixed: Hyperparameters to set to other values.
        n_classes: Outputs; by default those of its publication, else 2.

    Raises:
        UsageError: An unknown name or an impossible value.
        ImpossibleModelError: There is no such network.
    """
    system = find_preset(name, fixed or {})
    from automl_cxr.model.memory_estimate import estimate_memory  # Keras, which an unknown name need not wait for
    from automl_cxr.model.summary import describe_model

    summary = describe_model(system.config, n_classes or system.n_classes or 2)
    return system, summary, estimate_memory(summary, system.config)


def predict(
    classifier: Classifier, paths: Sequence[str | Path], *, on_progress: OnProgress | None = None
) -> tuple[pd.DataFrame, dict[str, str]]:
    """Classify image files and the images in folders.

    Returns:
        One row an image: image, class, and ``probability_<class>`` for each class; and the reason for each path that is
        missing, holds no image or cannot be read.

    Raises:
        TrialError: A model file is damaged.
    """
    files, problems = load_image_paths(paths)
    probabilities, unreadable = classifier.predict(files, on_progress=on_progress)
    readable = [str(path) for position, path in enumerate(files) if position not in unreadable]
    table = _prediction_table(readable, classifier.classes, probabilities)
    return table, problems | {str(files[position]): reason for position, reason in unreadable.items()}


def combine_predictions(predictions: Sequence[str | Path], **choices: Any) -> BuiltEnsemble:
    """Build an ensemble of models of which only tables of predictions are known.

    Keywords are those of ``results.ensembles.build_ensemble_of_tables``: ``method``, ``objective``, ``normal_class``,
    ``settings``, ``seed`` and ``name``.
    """
    return ensembles.build_ensemble_of_tables(predictions, **choices)


def apply_ensemble(folder: str | Path, predictions: Sequence[str | Path]) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Combine members' predictions of other images; see ``results.ensembles.apply_ensemble``.

    Returns:
        One row an image, as ``predict`` gives it; and what was done to the scores of tables.
    """
    combined, notes = ensembles.apply_ensemble(Path(folder), predictions)
    return _prediction_table(list(combined.ids), combined.classes, combined.probabilities), notes


def _prediction_table(images: list[str], classes: tuple[str, ...], probabilities: np.ndarray) -> pd.DataFrame:
    table = pd.DataFrame({"image": images, "class": [classes[best] for best in probabilities.argmax(axis=1)]})
    for column, class_name in enumerate(classes):
        table[f"probability_{class_name}"] = probabilities[:, column]
    return table
