"""Verification of finished trials: checks that files, configurations, models and scores agree with the storage."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TypeVar

import numpy as np

from automl_cxr.architectures import FAMILIES
from automl_cxr.config import TrialConfig
from automl_cxr.errors import AutomlCxrError, StudyError
from automl_cxr.io import sha256_of_file
from automl_cxr.records import TrialRecord, TrialState
from automl_cxr.results.study_data import decode_study_images, load_study_dataset, load_trial_config
from automl_cxr.scoring.intervals import named_metric
from automl_cxr.scoring.predictions import Predictions
from automl_cxr.study.store import StudyStore

_Result = TypeVar("_Result")
SCORE_TOLERANCE = 1e-6
PREDICTION_TOLERANCE = 1e-5
"""Tolerance for the probabilities of a reloaded model: the batch size affects rounding."""

_FILES = ("config.json", "history.csv", "train.log", "valid.npz")  # only the best trials have model.keras


@dataclass(frozen=True, kw_only=True)
class TrialCheck:
    """The result of the verification of one trial.

    Attributes:
        trial: Number of the trial.
        score: Score in the storage.
        rescored: Score that is computed from the saved predictions; None if they cannot be read.
        predictions_differ_by: Largest difference between a saved probability and that of the reloaded model; None if there is
            no model.
        problems: Descriptions of the problems.
    """

    trial: int
    score: float
    rescored: float | None
    predictions_differ_by: float | None
    problems: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Verification:
    """The result of the verification of a study.

    Attributes:
        study: Name of the study.
        trials: Result of each trial, ordered by number.
    """

    study: str
    trials: tuple[TrialCheck, ...]

    @property
    def is_sound(self) -> bool:
        """Whether no trial has a problem."""
        return not any(check.problems for check in self.trials)


def verify_study(
    store: StudyStore,
    number: int | None = None,
    *,
    data: str | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Verification:
    """Verify the COMPLETE trials of a study, or one of them. The predictions of saved models are computed again.

    Args:
        store: The study.
        number: The trial to verify; None for all.
        data: Current location of the data; by default the recorded one.
        on_progress: Called with (verified trials, all trials).

    Raises:
        StudyError: There is no such trial, or it is not complete.
        DataError: Predictions must be computed, but the data are missing or have changed.
    """
    records = [store.record(number)] if number is not None else store.records(TrialState.COMPLETE)
    for record in records:
        if record.state is not TrialState.COMPLETE:
            raise StudyError(f"Only a complete trial can be verified; trial {record.number} is {record.state}.")
    images = _images_on_demand(store, data)
    checks = []
    for record in records:
        checks.append(_check_trial(store, record, images))
        if on_progress is not None:
            on_progress(len(checks), len(records))
    return Verification(study=store.name, trials=tuple(checks))


_Images = Callable[[TrialConfig], Path]


def _images_on_demand(store: StudyStore, data: str | None) -> _Images:
    """Return a function that reads the data at its first call, because data are not needed without models."""
    dataset = cache(lambda: load_study_dataset(store, data))
    return lambda config: decode_study_images(store, dataset(), config)


def _check_trial(store: StudyStore, record: TrialRecord, images: _Images) -> TrialCheck:
    problems = [*_missing_files(store, record), *_changed_files(store, record)]
    config = _try(lambda: load_trial_config(store, record.number), problems)
    saved = _try(lambda: store.predictions(record.number), problems)
    rescored = differ_by = None
    if config is not None:
        problems += _contradictions(config, record)
    if saved is not None:
        problems += _image_mismatches(store, saved)
        spec = store.spec
        objective = named_metric(spec.objective, spec.classes, spec.normal_index, task=spec.task)
        rescored = objective.function(saved.labels, saved.probabilities, spec.normal_index)
        if not abs(rescored - record.score) <= SCORE_TOLERANCE:  # type: ignore[operator]
            problems.append(f"the score of its predictions is {rescored:.6f}, the score in the storage is {record.score:.6f}")
    if config is not None and saved is not None and store.has_model(record.number) and _has_judged_model(store, config):
        decoded = images(config)
        repeated = _try(lambda: _predict_again(store, record, decoded), problems)
        if repeated is not None:
            same_shape = repeated.shape == saved.probabilities.shape
            differ_by = float(np.abs(repeated - saved.probabilities).max()) if same_shape else np.inf
            if differ_by > PREDICTION_TOLERANCE:
                problems.append(f"the predictions of its model differ from the saved ones, by up to {differ_by:.2g}")
    return TrialCheck(
        trial=record.number,
        score=record.score,  # type: ignore[arg-type]
        rescored=rescored,
        predictions_differ_by=differ_by,
        problems=tuple(problems),
    )


def _has_judged_model(store: StudyStore, config: TrialConfig) -> bool:
    """Return whether the saved model gave the predictions. With folds, the model of a probe is fitted on all images."""
    return not store.split.folds or FAMILIES[config.family].has_gradient_steps


def _try(step: Callable[[], _Result], problems: list[str]) -> _Result | None:
    """Return the result of a step; if it fails, add the error to the problems and return None."""
    try:
        return step()
    except (AutomlCxrError, OSError, ValueError, TypeError) as error:
        problems.append(str(error))
        return None


def _missing_files(store: StudyStore, record: TrialRecord) -> Iterator[str]:
    folder = store.trial_folder(record.number)
    yield from (f"{name} is missing" for name in _FILES if not (folder / name).is_file())


def _changed_files(store: StudyStore, record: TrialRecord) -> Iterator[str]:
    """Yield a problem for each changed file; a removed model is not a problem."""
    for name, digest in store.facts(record.number).get("sha256", {}).items():
        file = store.trial_folder(record.number) / name
        if file.is_file() and sha256_of_file(file) != digest:
            yield f"{name} was changed after the trial wrote it"


def _contradictions(config: TrialConfig, record: TrialRecord) -> Iterator[str]:
    """Yield a problem for each hyperparameter whose value in config.json differs from the storage."""
    stored = dict(record.params) if record.seed is None else {**record.params, "seed": record.seed}
    for name, value in stored.items():
        if getattr(config, name) != value:
            yield f"config.json has {name} {getattr(config, name)!r}, the storage {value!r}"


def _image_mismatches(store: StudyStore, saved: Predictions) -> Iterator[str]:
    judged = store.split.judged
    if saved.ids != judged.images or not np.array_equal(saved.labels, np.asarray(judged.labels, np.int64)):
        yield "its predictions are not those of the validation part or of the folds of the study"


def _predict_again(store: StudyStore, record: TrialRecord, images: Path) -> np.ndarray:
    from automl_cxr.model.inference import load_model
    from automl_cxr.training.cross_validation import predict_out_of_fold  # imports Keras
    from automl_cxr.training.passes import predict_probabilities
    from automl_cxr.training.trial import load_parts

    model = load_model(str(store.model_file(record.number)))
    if store.split.folds:
        return predict_out_of_fold(model, images, store.split)
    return predict_probabilities(model, load_parts(images, store.split)[1])
