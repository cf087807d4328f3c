"""Selection of models for a comparison, and their predictions for the same images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from automl_cxr.errors import DataError, StudyError, UnknownNameError, UsageError
from automl_cxr.results.classifier import (
    ENSEMBLE_FILE,
    classifier_of_trial,
    explain_no_model,
    load_ensemble,
    stored_recommendation,
)
from automl_cxr.results.evaluation import PARTS, evaluate
from automl_cxr.scoring.prediction_tables import read_prediction_tables
from automl_cxr.scoring.predictions import Predictions, align
from automl_cxr.scoring.thresholds import choose_thresholds
from automl_cxr.study.store import PREDICTIONS_FILE, StudyStore
from automl_cxr.text_records import parse_json_object


@dataclass(frozen=True, eq=False)
class ComparedModels:
    """Predictions of several models for the same images.

    Attributes:
        names: Names of the models.
        images: Ids, labels, patients and classes, with the first model's probabilities.
        probabilities: float32 (n_models, n, n_classes), in the order of ``images``.
        place: Description of the images for a title: "valid part", "out of fold", "test part" or "train part".
        unreadable: Images that cannot be read, with the reason.
        n_opened: Number of evaluations on the test part so far, including this one; 0 for the other parts.
        notes: Messages about the columns that are used of tables, conversions of their scores, and their thresholds.
        thresholds: For findings, the probability from which each model reports each, float64 (n_models, n_findings); None for
            classes.
    """

    names: tuple[str, ...]
    images: Predictions
    probabilities: np.ndarray
    place: str
    unreadable: dict[str, str] = field(default_factory=dict)
    n_opened: int = 0
    notes: tuple[str, ...] = ()
    thresholds: np.ndarray | None = None


def select_models(
    store: StudyStore,
    *,
    trials: Sequence[int] | None = None,
    top: int | None = None,
    ensembles: Sequence[str | Path] = (),
    predictions: Sequence[str | Path] = (),
    part: str = "valid",
    data: str | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> ComparedModels:
    """Return the predictions of some models for a part; by default those of the recommended classifier, else of the best trial.

    For the validation part, the saved predictions of the trials are used; with folds, they are out of fold. For other parts,
    the predictions are computed. An evaluation on the test part is recorded for each model.

    Args:
        store: The study.
        trials: Trial numbers.
        top: Number of best trials, instead of ``trials``; limited by the number of finished trials.
        ensembles: Names or folders of ensembles of the study.
        predictions: Tables of other programs for the same images; see ``scoring.prediction_tables``.
        part: "valid", "test" or "train".
        data: Current location of the data, if predictions must be computed; by default the recorded one.
        on_progress: Called with (processed images, all images), for one model after another.

    Raises:
        UsageError: Both ``trials`` and ``top`` are given, ``top`` is below 1, a model is given twice, or the part is unknown.
        StudyError: No trial is finished, one of ``trials`` is not finished, or a required model was removed.
        DataError: An ensemble belongs to another study or is damaged, a table does not match, or the data are missing.
    """
    if part not in PARTS:
        raise UnknownNameError("part", part, PARTS)
    if trials is None and top is None and not ensembles and not predictions:
        trials, ensembles = _recommended(store)
    numbers = _resolve_trials(store, trials, top, only_others=bool(ensembles or predictions), needs_model=part != "valid")
    folders = [_find_ensemble(store, name) for name in ensembles]
    tables = read_prediction_tables(
        predictions, classes=store.spec.classes, whose=f"study '{store.name}'", task=store.spec.task
    )
    place, unreadable, n_opened = ("out of fold" if store.split.folds else "valid part"), {}, 0
    predictions_by_model: dict[str, Predictions] = {}
    if part == "valid":
        predictions_by_model |= {f"trial {number}": store.predictions(number) for number in numbers}
        predictions_by_model |= {
            f"ensemble {folder.resolve().name}": Predictions.from_npz(folder / PREDICTIONS_FILE) for folder in folders
        }
    else:
        classifiers = [classifier_of_trial(store, number) for number in numbers] + [load_ensemble(one) for one in folders]
        for classifier in classifiers:
            evaluation = evaluate(store, classifier, part=part, data=data, on_progress=on_progress)
            predictions_by_model[classifier.name], place = evaluation.predictions, evaluation.place
            unreadable, n_opened = evaluation.unreadable, evaluation.n_opened
    predictions_by_model |= {table.name: table.predictions for table in tables}
    if len(predictions_by_model) < len(numbers) + len(folders) + len(tables):
        raise UsageError("Compared models must be distinct; a name was repeated. Remove the repetition.")
    probabilities, images = align(list(predictions_by_model.values()), names=list(predictions_by_model))
    notes = [f"{table.name}: {table.note}" for table in tables if table.note]
    thresholds = _thresholds(predictions_by_model, notes) if images.is_multilabel else None
    return ComparedModels(
        tuple(predictions_by_model), images, probabilities, place, unreadable, n_opened, tuple(notes), thresholds
    )


def _thresholds(predictions_by_model: Mapping[str, Predictions], notes: list[str]) -> np.ndarray:
    """Return the thresholds of each model, (n_models, n_findings); add a note on those that are chosen on the same images."""
    chosen = [name for name, predictions in predictions_by_model.items() if predictions.thresholds is None]
    if chosen:
        notes.append(
            f"{', '.join(chosen)}: the thresholds are unknown, so those with the highest F1 on these images are used. The "
            "numbers of errors are optimistic."
        )
    return np.stack(
        [
            choose_thresholds(one.labels, one.probabilities) if one.thresholds is None else one.thresholds
            for one in predictions_by_model.values()
        ]
    )


def _recommended(store: StudyStore) -> tuple[Sequence[int] | None, Sequence[str]]:
    """Return the recommended trial or the recommended ensemble; neither if there is none."""
    recommended = stored_recommendation(store)
    if recommended is None:
        return None, ()
    return (recommended.trials, ()) if recommended.ensemble is None else (None, (recommended.ensemble,))


def _resolve_trials(
    store: StudyStore, trials: Sequence[int] | None, top: int | None, *, only_others: bool, needs_model: bool
) -> list[int]:
    if trials is not None and top is not None:
        raise UsageError("--trials and --top exclude each other; received both. Omit one of them.")
    finished = [record.number for record in store.ranked()]
    for number in trials or ():
        if store.record(number).number not in finished:
            raise StudyError(
                f"Trial {number} of study '{store.name}' is not complete, so it has no saved predictions. Choose another trial."
            )
    if trials is not None:
        return list(trials)
    if top is None and only_others:
        return []
    if top is not None and top < 1:
        raise UsageError(f"--top must be at least 1; received {top}.")
    best = [record.number for record in store.eligible() if not needs_model or store.has_model(record.number)]
    if not best:
        raise StudyError(explain_no_model(store) if finished else f"Study '{store.name}' has no finished trial yet.")
    return best[: top or 1]


def _find_ensemble(store: StudyStore, name: str | Path) -> Path:
    """Return an ensemble's folder from its path or name, after checking that it belongs to this study.

    Raises:
        DataError: There is no such ensemble, it is damaged, or it was built with another split.
    """
    folder = Path(name)
    if not (folder / ENSEMBLE_FILE).is_file():
        folder = store.folder / "ensembles" / folder
    try:
        split_digest = parse_json_object((folder / ENSEMBLE_FILE).read_text(encoding="utf-8"))["split_digest"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        names = sorted(path.parent.name for path in store.folder.glob(f"ensembles/*/{ENSEMBLE_FILE}"))
        raise DataError(
            f"Study '{store.name}' has no ensemble {name} ({error}). Its ensembles: {', '.join(names) or 'none'}."
        ) from error
    if split_digest != store.split_digest:
        raise DataError(
            f"The split of ensemble {name} differs from that of study '{store.name}'. Specify the study of the ensemble."
        )
    return folder
