"""Reading of other programs' predictions: tables of image, label and a score for each class."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from automl_cxr.csv_io import read_rows
from automl_cxr.errors import DataError
from automl_cxr.scoring.predictions import UNKNOWN_LABEL, Predictions

_IMAGE_COLUMNS = ("image", "image_id", "id")
_LABEL_COLUMN = "label"
_PATIENT_COLUMN = "patient_id"
_PREFIX = "probability_"  # column prefix in the tables of `automl-cxr predict`
_ROUNDING_ERROR = 1e-3  # of row sums; such rows are rescaled without a note


@dataclass(frozen=True, eq=False)
class PredictionTable:
    """One model's predictions from a file.

    Attributes:
        name: Name of the file, for messages.
        predictions: The predictions.
        has_patients: Whether the file contains patients.
        note: Columns of a CSV table that are used and not used, and conversion of its scores, for users; empty for npz.
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
            details = f" ({self.note})" if self.note else ""
            raise DataError(
                f"Prediction tables must have the same classes. Received {', '.join(given.classes)} in {self.name}{details}, "
                f"and {', '.join(classes)} in {whose}. Use the same column names."
            )
        columns = [given.classes.index(name) for name in classes]
        new_label = np.append(np.argsort(columns), UNKNOWN_LABEL)  # index -1, the unknown label, selects the last entry
        labels = new_label[given.labels]
        ordered = replace(given, labels=labels, probabilities=given.probabilities[:, columns], classes=classes)
        return replace(self, predictions=ordered)


def read_prediction_tables(
    paths: Sequence[str | os.PathLike[str]], *, classes: tuple[str, ...] | None = None, whose: str = "the requested classes"
) -> list[PredictionTable]:
    """Read npz files of this program and CSV tables of any program.

    Columns are matched by name. Images may be in any order: ``scoring.predictions.align`` matches them by id. Patients in one
    table are used for all tables.

    Args:
        paths: Files. ``.npz`` is the format of this program, any other file is a CSV table with a header: ``image`` (or
            ``image_id``, ``id``), ``label`` (a class name; may be missing or empty), optionally ``patient_id``, and a column of
            scores for each class: ``probability_<class>``, or the name of a class. A name of a class is one of ``classes``, or
            a label in one of the tables; other columns, such as an index or a fold, are not used.
        classes: The classes in order; by default those of the first table.
        whose: Owner of ``classes``, for messages.

    Raises:
        DataError: A file cannot be read, or has other classes.
    """
    files = [_open(Path(path)) for path in paths]
    if not files:
        return []
    known = classes or tuple(dict.fromkeys(name for file in files for name in file.class_names()))
    tables = [file.to_predictions(known) if isinstance(file, _CsvFile) else file.table for file in files]
    reference, owner = (tables[0].predictions.classes, tables[0].name) if classes is None else (classes, whose)
    tables = [table.with_classes(reference, owner) for table in tables]
    patient_of: dict[str, str] = {}
    for table in tables:
        if table.has_patients:
            patient_of |= dict(zip(table.predictions.ids, table.predictions.patients, strict=True))
    return [replace(table, predictions=_with_patients(table.predictions, patient_of)) for table in tables]


@dataclass(frozen=True, eq=False)
class _NpzFile:
    """A file of this program."""

    table: PredictionTable

    def class_names(self) -> Iterable[str]:
        return self.table.predictions.classes


@dataclass(frozen=True, eq=False)
class _CsvFile:
    """A CSV table whose classes are not known yet.

    Attributes:
        path: The file.
        columns: The fields of each column by name, without index columns.
        unnamed: Names of the columns that are never used: without a name, or an index of pandas.
        image: Name of the image column.
    """

    path: Path
    columns: dict[str, list[str]]
    unnamed: tuple[str, ...]
    image: str

    def class_names(self) -> Iterable[str]:
        """Return the labels of the table and the classes of its columns with the prefix."""
        labels = [name for name in self.columns.get(_LABEL_COLUMN, ()) if name]
        return [*labels, *(name.removeprefix(_PREFIX) for name in self.columns if name.startswith(_PREFIX))]

    def to_predictions(self, known: Sequence[str]) -> PredictionTable:
        """Return the predictions, with the columns of the known classes as scores.

        Raises:
            DataError: There are fewer than two such columns, a score is not a number, or a label has no column.
        """
        path = self.path
        column_of = self._score_columns(known)
        named = [name for name in (self.image, _LABEL_COLUMN, _PATIENT_COLUMN) if name in self.columns]
        used = [*named, *column_of.values()]
        others = [name for name in self.columns if name not in used]
        classes = tuple(column_of)
        given = self.columns.get(_LABEL_COLUMN, [""] * len(self.columns[self.image]))
        unknown = next((name for name in given if name and name not in classes), None)
        if unknown is not None:
            if unknown in others:
                raise _unreadable(path, f"the label '{unknown}' is not one of the classes {', '.join(known)}")
            raise _unreadable(path, f"the label '{unknown}' has no column among {', '.join(classes or others) or 'none'}")
        if len(classes) < 2:
            raise _unreadable(
                path,
                f"fewer than two columns have the name of a class: {', '.join(classes) or 'none'} of "
                f"{', '.join([*column_of.values(), *others]) or 'none'}; a class is a label of an image or has a column "
                f"{_PREFIX}CLASS",
            )
        try:
            scores = np.array([list(map(float, self.columns[name])) for name in column_of.values()], dtype=np.float64).T
        except ValueError as error:
            raise _unreadable(path, f"a score is not a number: {error}") from error
        probabilities, conversion = _normalize_scores(scores, path)
        labels = np.array([classes.index(name) if name else UNKNOWN_LABEL for name in given], dtype=np.int64)
        has_patients = _PATIENT_COLUMN in self.columns
        patients = tuple(self.columns.get(_PATIENT_COLUMN, ()))
        try:
            predictions = Predictions(tuple(self.columns[self.image]), labels, probabilities, classes, patients)
        except DataError as error:
            raise _unreadable(path, str(error)) from error
        left_out = ", ".join([*self.unnamed, *others]) or "none"
        note = f"columns used: {', '.join(used)}; not used: {left_out}"
        return PredictionTable(path.name, predictions, has_patients, f"{note}; {conversion}" if conversion else note, path)

    def _score_columns(self, known: Sequence[str]) -> dict[str, str]:
        """Find the columns of scores by class: those with the prefix, else those with the name of a known class."""
        prefixed = {name.removeprefix(_PREFIX): name for name in self.columns if name.startswith(_PREFIX)}
        others = {self.image, _LABEL_COLUMN, _PATIENT_COLUMN}
        return prefixed or {name: name for name in self.columns if name in known and name not in others}


def _open(path: Path) -> _CsvFile | _NpzFile:
    if path.suffix.lower() == ".npz":
        predictions = Predictions.from_npz(path)
        return _NpzFile(PredictionTable(path.name, predictions, predictions.patients != predictions.ids, "", path))
    spaced, rows = read_rows(path)
    header = [name.strip() for name in spaced]
    if not rows:
        raise _unreadable(path, "no rows")
    repeated = next((name for name in header if name and header.count(name) > 1), None)
    if repeated is not None:
        raise _unreadable(path, f"two columns with the name '{repeated}'")
    fields = zip(*rows, strict=True)
    columns = {name: list(column) for name, column in zip(header, fields, strict=True) if not _is_index_name(name)}
    unnamed = tuple(name or "a column without a name" for name in header if _is_index_name(name))
    image = next((name for name in _IMAGE_COLUMNS if name in columns), None)
    if image is None:
        raise _unreadable(path, f"no column image, but {', '.join(header)}")
    return _CsvFile(path, columns | _stripped(columns, (_LABEL_COLUMN, _PATIENT_COLUMN)), unnamed, image)


def _stripped(columns: dict[str, list[str]], names: Sequence[str]) -> dict[str, list[str]]:
    """Return columns without outer spaces, as in other tables. Names of files may have them."""
    return {name: [text.strip() for text in columns[name]] for name in names if name in columns}


def _is_index_name(name: str) -> bool:
    """Return whether a name is empty, or one that pandas gives to a column without a name when it reads a table."""
    return not name or name.startswith("Unnamed: ")


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
