"""Checks that a study's finished trials are what the record says of them: files, configurations, models and scores."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TypeVar

import numpy as np

from automl_cxr.config import TrialConfig
from automl_cxr.errors import AutomlCxrError, StudyError
from automl_cxr.records import TrialRecord, TrialState
from automl_cxr.results.study_data import decode_study_images, load_study_dataset
from automl_cxr.scoring.metrics import metric
from automl_cxr.scoring.predictions import Predictions
from automl_cxr.study.store import StudyStore

_Found = TypeVar("_Found")
SCORE_TOLERANCE = 1e-6
PREDICTION_TOLERANCE = 1e-5
"""How far the probabilities of a reloaded model may lie from those that it saved: other batches, other order of sums."""

_FILES = ("config.json", "history.csv", "train.log", "valid.npz")  # model.keras only of the best trials


@dataclass(frozen=True, kw_only=True)
class TrialCheck:
    """What was found of one trial.

    Attributes:
        trial: Its number.
        score: Its score in the storage.
        rescored: The score of its saved predictions, computed anew; None where they cannot be read.
        predictions_differ_by: Largest difference between a saved probability and one of the reloaded model; None where there is
            no model to ask.
        problems: What is wrong, a sentence each.
    """

    trial: int
    score: float
    rescored: float | None
    predictions_differ_by: float | None
    problems: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Verification:
    """What was found of a study.

    Attributes:
        study: Its name.
        trials: The checks of its trials, by number.
    """

    study: str
    trials: tuple[TrialCheck, ...]

    @property
    def is_sound(self) -> bool:
        """Whether nothing is wrong with any trial."""
        return not any(check.problems for check in self.trials)


def verify_study(
    store: StudyStore,
    number: int | None = None,
    *,
    data: str | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Verification:
    """Check the COMPLETE trials of a study, or one of them. Models that were kept predict the validation part anew.

    Args:
        store: The study.
        number: The one trial to check; None for all.
        data: Where the data are now; by default where they were.
        on_progress: Told (trials checked, trials in all).

    Raises:
        StudyError: There is no such trial, or it is not complete.
        DataError: A model is to predict, and the data are gone or no longer those of the study.
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
    """Read the data when the first model asks for them, and only then."""
    dataset = cache(lambda: load_study_dataset(store, data))
    return lambda config: decode_study_images(store, dataset(), config)


def _check_trial(store: StudyStore, record: TrialRecord, images: _Images) -> TrialCheck:
    problems = [*_missing_files(store, record), *_changed_files(store, record)]
    config = _read(lambda: _load_config(store, record), problems)
    saved = _read(lambda: store.predictions(record.number), problems)
    rescored = differ_by = None
    if config is not None:
        problems += _contradictions(config, record)
    if saved is not None:
        problems += _strangers(store, saved)
        rescored = metric(store.spec.objective).function(saved.labels, saved.probabilities, store.spec.normal_index)
        if not abs(rescored - record.score) <= SCORE_TOLERANCE:  # type: ignore[operator]
            problems.append(f"its predictions score {rescored:.6f}, the storage has {record.score:.6f}")
    if config is not None and saved is not None and store.has_model(record.number):
        decoded = images(config)
        again = _read(lambda: _predict_again(store, record, decoded), problems)
        if again is not None:
            differ_by = float(np.abs(again - saved.probabilities).max()) if again.shape == saved.probabilities.shape else np.inf
            if differ_by > PREDICTION_TOLERANCE:
                problems.append(f"its model predicts otherwise than it did: a probability differs by {differ_by:.2g}")
    return TrialCheck(
        trial=record.number,
        score=record.score,  # type: ignore[arg-type]
        rescored=rescored,
        predictions_differ_by=differ_by,
        problems=tuple(problems),
    )


def _read(step: Callable[[], _Found], problems: list[str]) -> _Found | None:
    """Take a step; what it cannot read is a problem of the trial and no end of the check."""
    try:
        return step()
    except (AutomlCxrError, OSError, ValueError, TypeError) as error:
        problems.append(str(error))
        return None


def _missing_files(store: StudyStore, record: TrialRecord) -> Iterator[str]:
    folder = store.trial_folder(record.number)
    yield from (f"{name} is missing" for name in _FILES if not (folder / name).is_file())


def _changed_files(store: StudyStore, record: TrialRecord) -> Iterator[str]:
    """Name the files that are no longer what the trial wrote; a model that was dropped is none of them."""
    for name, digest in store.facts(record.number).get("sha256", {}).items():
        file = store.trial_folder(record.number) / name
        if file.is_file() and hashlib.sha256(file.read_bytes()).hexdigest() != digest:
            yield f"{name} was changed after the trial had written it"


def _load_config(store: StudyStore, record: TrialRecord) -> TrialConfig:
    return TrialConfig.from_json((store.trial_folder(record.number) / "config.json").read_text(encoding="utf-8"))


def _contradictions(config: TrialConfig, record: TrialRecord) -> Iterator[str]:
    told = dict(record.params) if record.seed is None else {**record.params, "seed": record.seed}
    for name, value in told.items():
        if getattr(config, name) != value:
            yield f"config.json has {name} {getattr(config, name)!r}, the storage {value!r}"


def _strangers(store: StudyStore, saved: Predictions) -> Iterator[str]:
    judged = store.split.judged
    if saved.ids != judged.images or saved.labels.tolist() != list(judged.labels):
        yield "its predictions are not of the study's validation part, or of its folds"


def _predict_again(store: StudyStore, record: TrialRecord, images: Path) -> np.ndarray:
    from automl_cxr.model.inference import load_model
    from automl_cxr.training.cross_validation import predict_out_of_fold  # Keras, on first use
    from automl_cxr.training.trainer import predict_probabilities
    from automl_cxr.training.trial import load_parts

    model = load_model(str(store.model_file(record.number)))
    if store.split.folds:
        return predict_out_of_fold(model, images, store.split)
    return predict_probabilities(model, load_parts(images, store.split)[1])
