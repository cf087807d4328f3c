"""Models of a study that are looked at side by side, and what each said of the same images."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from automl_cxr.errors import DataError, StudyError, UnknownNameError, UsageError
from automl_cxr.results.classifier import (
    ENSEMBLE_FILE,
    classifier_of_trial,
    explain_no_model,
    load_ensemble,
)
from automl_cxr.results.evaluation import PARTS, evaluate
from automl_cxr.scoring.prediction_tables import read_prediction_tables
from automl_cxr.scoring.predictions import Predictions, align
from automl_cxr.study.store import PREDICTIONS_FILE, StudyStore


@dataclass(frozen=True, eq=False)
class ComparedModels:
    """What several models said of the same images.

    Attributes:
        names: Of the models.
        images: Ids, labels, patients and classes, with the first model's probabilities.
        probabilities: float32 (n_models, n, n_classes), rows as ``images`` has them.
        place: What the images are, for a title: "valid part", "out of fold", "test part" or "train part".
        unreadable: Images that could not be read, with the reason.
        n_opened: How often the test part has now been opened; 0 for the other parts.
    """

    names: tuple[str, ...]
    images: Predictions
    probabilities: np.ndarray
    place: str
    unreadable: dict[str, str] = field(default_factory=dict)
    n_opened: int = 0


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
    """Collect what some models say of a part; nothing named stands for the best trial.

    Of the validation part every finished trial has saved its predictions, with its model or without; with folds these are
    out of fold. Of another part the models predict, and opening the test part is recorded for each of them.

    Args:
        store: The study.
        trials: Numbers of trials.
        top: The best trials instead, as many; fewer if fewer are finished.
        ensembles: Names or folders of ensembles of the study.
        predictions: Tables of other programs for the same images; see ``scoring.prediction_tables``.
        part: "valid", "test" or "train".
        data: Where the data are now, for parts that must be predicted; by default where they were.
        on_progress: Told (images done, images in all), by one model after another.

    Raises:
        UsageError: Both trials and ``top``, ``top`` below 1, a model named twice, or an unknown part.
        StudyError: No trial is finished, or a named one is not, or its model is needed and gone.
        DataError: An ensemble is another study's or damaged, a table does not fit, or the data are gone.
    """
    if part not in PARTS:
        raise UnknownNameError("part", part, PARTS)
    numbers = _choose_trials(store, trials, top, only_others=bool(ensembles or predictions), needs_model=part != "valid")
    folders = [_find_ensemble(store, name) for name in ensembles]
    tables = [table.with_classes(store.spec.classes, f"study '{store.name}'") for table in read_prediction_tables(predictions)]
    place, unreadable, n_opened = ("out of fold" if store.split.folds else "valid part"), {}, 0
    said: dict[str, Predictions] = {}
    if part == "valid":
        said |= {f"trial {number}": store.predictions(number) for number in numbers}
        said |= {f"ensemble {folder.resolve().name}": Predictions.from_npz(folder / PREDICTIONS_FILE) for folder in folders}
    else:
        classifiers = [classifier_of_trial(store, number) for number in numbers] + [load_ensemble(one) for one in folders]
        for classifier in classifiers:
            judged = evaluate(store, classifier, part=part, data=data, on_progress=on_progress)
            said[classifier.name], place = judged.predictions, judged.place
            unreadable, n_opened = judged.unreadable, judged.n_opened
    said |= {table.name: table.predictions for table in tables}
    if len(said) < len(numbers) + len(folders) + len(tables):
        raise UsageError("Models are compared with one another, so each is named once. Leave the second one out.")
    probabilities, images = align(list(said.values()), names=list(said))
    return ComparedModels(tuple(said), images, probabilities, place, unreadable, n_opened)


def _choose_trials(
    store: StudyStore, trials: Sequence[int] | None, top: int | None, *, only_others: bool, needs_model: bool
) -> list[int]:
    if trials is not None and top is not None:
        raise UsageError("Trials are named or the best are taken, not both. Leave --trials or --top out.")
    finished = [record.number for record in store.ranked()]
    for number in trials or ():
        if store.record(number).number not in finished:
            raise StudyError(
                f"Trial {number} of study '{store.name}' is not complete, so it saved no predictions. Name another."
            )
    if trials is not None:
        return list(trials)
    if top is None and only_others:
        return []
    if top is not None and top < 1:
        raise UsageError(f"At least one trial is looked at; received --top {top}.")
    best = [record.number for record in store.eligible() if not needs_model or store.has_model(record.number)]
    if not best:
        raise StudyError(explain_no_model(store) if finished else f"Study '{store.name}' has no finished trial yet.")
    return best[: top or 1]


def _find_ensemble(store: StudyStore, name: str | Path) -> Path:
    """Find an ensemble's folder by its path or by its name, and check that it is of this study.

    Raises:
        DataError: There is none, it is damaged, or it was made with another split.
    """
    folder = Path(name)
    if not (folder / ENSEMBLE_FILE).is_file():
        folder = store.folder / "ensembles" / folder
    try:
        split_digest = json.loads((folder / ENSEMBLE_FILE).read_text(encoding="utf-8"))["split_digest"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        there = sorted(path.parent.name for path in store.folder.glob(f"ensembles/*/{ENSEMBLE_FILE}"))
        raise DataError(
            f"Study '{store.name}' has no ensemble {name} ({error}). It has: {', '.join(there) or 'none'}."
        ) from error
    if split_digest != store.split_digest:
        raise DataError(
            f"The ensemble {name} was made with another split than that of study '{store.name}'. Name its own study."
        )
    return folder
