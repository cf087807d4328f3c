"""Reading of other programs' predictions: tables of image, label and a score for each class."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from automl_cxr.errors import DataError
from automl_cxr.scoring.predictions import UNKNOWN_LABEL, Predictions

_IMAGE_COLUMNS = ("image", "image_id", "id")
_LABEL_COLUMN = "label"
_PATIENT_COLUMN = "patient_id"
_PREFIX = "probability_"  # column prefix in the tables of `automl-cxr predict`
_OTHER_COLUMNS = frozenset({"class", "predicted", "split", "view"})  # these columns are not scores
_ROUNDING_ERROR = 1e-3  # of row sums; such rows are rescaled without a note


@dataclass(frozen=True, eq=False)
class PredictionTable:
    """One model's predictions from a file.

    Attributes:
        name: Name of the file, for messages.
        predictions: The predictions.
        has_patients: Whether the file contains patients.
        note: Conversion of the scores, for users; empty if they were probabilities.
        path: The file.
    """

    name: str
    predictions: Predictions
    has_patients: bool
    note: str
    path: Path

    def with_classes(self, classes: tuple[str, ...], whose: str) -> PredictionTable:
        """Reorder the columns to ``classes``. ``whose`` names the model or table with these classes in messages.

        Raises:
            DataError: The table has other classes.
        """
        given = self.predictions
        if set(given.classes) != set(classes):
            raise DataError(
                f"Prediction tables must have the same classes. Received {', '.join(given.classes)} in {self.name}, "
                f"and {', '.join(classes)} in {whose}. Use the same column names."
            )
        columns = [given.classes.index(name) for name in classes]
        new_label = np.append(np.argsort(columns), UNKNOWN_LABEL)  # index -1, the unknown label, selects the last entry
        labels = new_label[given.labels]
        ordered = replace(given, labels=labels, probabilities=given.probabilities[:, columns], classes=classes)
        return replace(self, predictions=ordered)


def read_prediction_tables(
    paths: Sequence[str | os.PathLike[str]], *, classes: tuple[str, ...] | None = None
) -> list[PredictionTable]:
    """Read npz files of this program and CSV tables of any program.

    Columns are matched by name. Images may be in any order: ``scoring.predictions.align`` matches them by id. Patients in one
    table are used for all tables.

    Args:
        paths: Files. ``.npz`` is the format of this program, any other file is a CSV table with a header: ``image`` (or
            ``image_id``, ``id``), ``label`` (a class name; may be missing or empty), optionally ``patient_id``, and a column of
            scores for each class with the name of the class or ``probability_<class>``.
        classes: The classes in order; by default those of the first table.

    Raises:
        DataError: A file cannot be read, or has other classes.
    """
    tables = [_read(Path(path)) for path in paths]
    if not tables:
        return []
    reference = tables[0].name if classes is None else "the requested classes"
    tables = [table.with_classes(classes or tables[0].predictions.classes, reference) for table in tables]
    patient_of: dict[str, str] = {}
    for table in tables:
        if table.has_patients:
            patient_of |= dict(zip(table.predictions.ids, table.predictions.patients, strict=True))
    return [replace(table, predictions=_with_patients(table.predictions, patient_of)) for table in tables]


def _read(path: Path) -> PredictionTable:
    if path.suffix.lower() == ".npz":
        predictions = Predictions.from_npz(path)
        return PredictionTable(path.name, predictions, predictions.patients != predictions.ids, "", path)
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file, strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise _unreadable(path, str(getattr(error, "strerror", None) or error)) from error
    if not rows:
        raise _unreadable(path, "no rows")
    if any(None in row or None in row.values() for row in rows):
        raise _unreadable(path, "rows of different lengths")
    return _from_rows(path, rows)


def _from_rows(path: Path, rows: list[dict[str, str]]) -> PredictionTable:
    columns = list(rows[0])
    image = next((name for name in _IMAGE_COLUMNS if name in columns), None)
    if image is None:
        raise _unreadable(path, f"no column image, but {', '.join(columns)}")
    column_of = _score_columns(columns, image)
    if len(column_of) < 2:
        raise _unreadable(path, f"fewer than two columns of scores among {', '.join(columns)}")
    classes = tuple(column_of)
    try:
        scores = np.array([[float(row[column]) for column in column_of.values()] for row in rows], dtype=np.float64)
    except ValueError as error:
        raise _unreadable(path, f"a score is not a number: {error}") from error
    probabilities, note = _normalize_scores(scores, path)
    has_patients = _PATIENT_COLUMN in columns
    ids = tuple(row[image] for row in rows)
    patients = tuple(row[_PATIENT_COLUMN] for row in rows) if has_patients else ()
    labels = np.array([_label(row.get(_LABEL_COLUMN, ""), classes, path) for row in rows], dtype=np.int64)
    try:
        predictions = Predictions(ids, labels, probabilities, classes, patients)
    except DataError as error:
        raise _unreadable(path, str(error)) from error
    return PredictionTable(path.name, predictions, has_patients, note, path)


def _score_columns(columns: Sequence[str], image: str) -> dict[str, str]:
    """Find the columns of scores by class: those with the prefix, else all columns that have no other known meaning."""
    prefixed = {name.removeprefix(_PREFIX): name for name in columns if name.startswith(_PREFIX)}
    others = {image, _LABEL_COLUMN, _PATIENT_COLUMN, *_OTHER_COLUMNS}
    return prefixed or {name: name for name in columns if name not in others}


def _label(name: str, classes: Sequence[str], path: Path) -> int:
    if not name:
        return UNKNOWN_LABEL
    if name not in classes:
        raise _unreadable(path, f"the label '{name}' has no column among {', '.join(classes)}")
    return classes.index(name)


def _normalize_scores(scores: np.ndarray, path: Path) -> tuple[np.ndarray, str]:
    """Convert scores to probabilities: logits by a softmax, others by division by the row sum. Also return a note."""
    if not np.isfinite(scores).all():
        raise _unreadable(path, "a score that is not finite")
    if (scores < 0).any():
        powers = np.exp(scores - scores.max(axis=1, keepdims=True))
        return (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32), "scores below 0: used as logits (softmax)"
    sums = scores.sum(axis=1, keepdims=True)
    if (sums <= 0).any():
        raise _unreadable(path, "a row whose scores are all 0")
    n_off = int((np.abs(sums - 1) > _ROUNDING_ERROR).sum())
    note = f"{n_off} of {len(scores)} rows do not sum to 1: divided by their sums" if n_off else ""
    return (scores / sums).astype(np.float32), note


def _with_patients(predictions: Predictions, patient_of: dict[str, str]) -> Predictions:
    return replace(predictions, patients=tuple(patient_of.get(name, name) for name in predictions.ids))


def _unreadable(path: Path, reason: str) -> DataError:
    return DataError(
        f"A prediction table needs a header with columns image, label, and a score for each class. Received {path} ({reason}). "
        "Write it as image,label,CLASS,CLASS,..."
    )
