"""Reading of other programs' predictions: tables of image, label and a score for each class or finding."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from automl_cxr.csv_io import read_rows
from automl_cxr.errors import DataError
from automl_cxr.scoring.finding_calibration import sigmoid
from automl_cxr.scoring.predictions import UNKNOWN_LABEL, Predictions
from automl_cxr.tasks import ABSENT, MULTICLASS, MULTILABEL, PRESENT, UNKNOWN

_IMAGE_COLUMNS = ("image", "image_id", "id")
_LABEL_COLUMN = "label"
_PATIENT_COLUMN = "patient_id"
_PREFIX = "probability_"  # column prefix in the tables of `automl-cxr predict`
_DECISION_PREFIX = "decision_"  # the same; the thresholds of the decisions are not known
_LABEL_PREFIX = "label_"  # of the label of a finding
_LABEL_CODES = {"": UNKNOWN, "nan": UNKNOWN}  # of texts that are not numbers
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
        if given.is_multilabel:
            thresholds = None if given.thresholds is None else given.thresholds[columns]
            labels, probabilities = given.labels[:, columns], given.probabilities[:, columns]
            ordered = replace(given, labels=labels, probabilities=probabilities, classes=classes, thresholds=thresholds)
            return replace(self, predictions=ordered)
        new_label = np.append(np.argsort(columns), UNKNOWN_LABEL)  # index -1, the unknown label, selects the last entry
        labels = new_label[given.labels]
        ordered = replace(given, labels=labels, probabilities=given.probabilities[:, columns], classes=classes)
        return replace(self, predictions=ordered)


def read_prediction_tables(
    paths: Sequence[str | os.PathLike[str]],
    *,
    classes: tuple[str, ...] | None = None,
    whose: str = "the requested classes",
    task: str | None = None,
) -> list[PredictionTable]:
    """Read npz files of this program and CSV tables of any program.

    Columns are matched by name. Images may be in any order: ``scoring.predictions.align`` matches them by id. Patients in one
    table are used for all tables.

    Args:
        paths: Files. ``.npz`` is the format of this program, any other file is a CSV table with a header: ``image`` (or
            ``image_id``, ``id``), ``label`` (a class name; may be missing or empty), optionally ``patient_id``, and a column of
            scores for each class: ``probability_<class>``, or the name of a class. A name of a class is one of ``classes``, or
            a label in one of the tables; other columns, such as an index or a fold, are not used. A table of several findings
            has instead of ``label`` a column ``label_<finding>`` for each finding, or ``<finding>`` if the scores have the
            prefix: 1 (present), 0 (absent), or negative or empty if it is not known; the columns may be missing. Its rows of
            scores have any sum.
        classes: The classes or findings in order; by default those of the first table.
        whose: Owner of ``classes``, for messages.
        task: A name in ``tasks.TASKS``; by default several findings if a table has a column ``label_<finding>`` or
            ``decision_<finding>``, or is an npz file of findings.

    Raises:
        DataError: A file cannot be read, or has other classes or another task.
    """
    files = [_open(Path(path)) for path in paths]
    if not files:
        return []
    if task is None:
        task = MULTILABEL if any(file.has_findings() for file in files) else MULTICLASS
    known = classes or tuple(dict.fromkeys(name for file in files for name in file.class_names(task)))
    tables = [file.to_predictions(known, task) for file in files]
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

    def has_findings(self) -> bool:
        return self.table.predictions.is_multilabel

    def class_names(self, _task: str) -> Iterable[str]:
        return self.table.predictions.classes

    def to_predictions(self, _known: Sequence[str], task: str) -> PredictionTable:
        """Return the table.

        Raises:
            DataError: It has another task.
        """
        if self.table.predictions.task != task:
            raise DataError(
                f"Prediction tables must be {task}; received {self.table.name}, which is {self.table.predictions.task}. Leave "
                "it out."
            )
        return self.table


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

    def has_findings(self) -> bool:
        """Whether the table is one of several findings by the names of its columns."""
        return any(name.startswith((_LABEL_PREFIX, _DECISION_PREFIX)) for name in self.columns)

    def class_names(self, task: str) -> Iterable[str]:
        """Return the labels of the table and the classes of its columns with the prefix."""
        if task == MULTILABEL:
            prefixes = (_PREFIX, _LABEL_PREFIX)
            return [name.removeprefix(one) for one in prefixes for name in self.columns if name.startswith(one)]
        labels = [name for name in self.columns.get(_LABEL_COLUMN, ()) if name]
        return [*labels, *(name.removeprefix(_PREFIX) for name in self.columns if name.startswith(_PREFIX))]

    def to_predictions(self, known: Sequence[str], task: str) -> PredictionTable:
        """Return the predictions, with the columns of the known classes as scores.

        Raises:
            DataError: There are fewer than two such columns (or of findings, none), a score is not a number, or a label has no
                column or is not a label of a finding.
        """
        return self._to_findings(known) if task == MULTILABEL else self._to_classes(known)

    def _to_classes(self, known: Sequence[str]) -> PredictionTable:
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
        probabilities, conversion = _normalize_scores(self._scores(column_of), path)
        labels = np.array([classes.index(name) if name else UNKNOWN_LABEL for name in given], dtype=np.int64)
        return self._table(labels, probabilities, classes, used, conversion)

    def _to_findings(self, known: Sequence[str]) -> PredictionTable:
        column_of = self._score_columns(known)
        if not column_of:
            raise _unreadable(
                self.path, f"no column has the name of a finding: {', '.join(known) or 'none'} of {', '.join(self.columns)}"
            )
        findings = tuple(column_of)
        label_of = {
            finding: name
            for finding in findings
            for name in (f"{_LABEL_PREFIX}{finding}", finding)
            if name in self.columns and name != column_of[finding]
        }
        labels = np.full((len(self.columns[self.image]), len(findings)), UNKNOWN, dtype=np.int64)
        for finding, name in label_of.items():
            labels[:, findings.index(finding)] = [self._label_code(name, text.strip()) for text in self.columns[name]]
        probabilities, conversion = _probabilities_of_findings(self._scores(column_of), self.path)
        named = [name for name in (self.image, _PATIENT_COLUMN) if name in self.columns]
        used = [*named, *label_of.values(), *column_of.values()]
        return self._table(labels, probabilities, findings, used, conversion)

    def _label_code(self, column: str, text: str) -> int:
        """Return the code of a label of a finding; each negative number is unknown."""
        if text.lower() in _LABEL_CODES:
            return _LABEL_CODES[text.lower()]
        try:
            number = float(text)
        except ValueError:
            number = float("inf")
        if number not in (ABSENT, PRESENT) and not -np.inf < number < 0:
            raise _unreadable(
                self.path,
                f"the label '{text}' in column {column}; labels of findings are 1, 0, or negative or empty if unknown",
            )
        return int(number) if number >= 0 else UNKNOWN

    def _scores(self, column_of: Mapping[str, str]) -> np.ndarray:
        """Return the scores, float64 (n, n_classes)."""
        try:
            return np.array([list(map(float, self.columns[name])) for name in column_of.values()], dtype=np.float64).T
        except ValueError as error:
            raise _unreadable(self.path, f"a score is not a number: {error}") from error

    def _table(
        self,
        labels: np.ndarray,
        probabilities: np.ndarray,
        classes: tuple[str, ...],
        used: Sequence[str],
        conversion: str,
    ) -> PredictionTable:
        has_patients = _PATIENT_COLUMN in self.columns
        patients = tuple(self.columns.get(_PATIENT_COLUMN, ()))
        try:
            predictions = Predictions(tuple(self.columns[self.image]), labels, probabilities, classes, patients)
        except DataError as error:
            raise _unreadable(self.path, str(error)) from error
        left_out = ", ".join([*self.unnamed, *(name for name in self.columns if name not in used)]) or "none"
        note = f"columns used: {', '.join(used)}; not used: {left_out}"
        full_note = f"{note}; {conversion}" if conversion else note
        return PredictionTable(self.path.name, predictions, has_patients, full_note, self.path)

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


def _probabilities_of_findings(scores: np.ndarray, path: Path) -> tuple[np.ndarray, str]:
    """Convert scores to probabilities: those outside of 0 to 1 are logits, converted by a sigmoid. Also return a note."""
    if not np.isfinite(scores).all():
        raise _unreadable(path, "a score that is not finite")
    if ((scores < 0) | (scores > 1)).any():
        return sigmoid(scores).astype(np.float32), "scores outside of 0 to 1: used as logits (sigmoid)"
    return scores.astype(np.float32), ""


def _with_patients(predictions: Predictions, patient_of: dict[str, str]) -> Predictions:
    return replace(predictions, patients=tuple(patient_of.get(name, name) for name in predictions.ids))


def _unreadable(path: Path, reason: str) -> DataError:
    return DataError(
        f"A prediction table needs a header with columns image, label, and a score for each class. Received {path} ({reason}). "
        "Write it as image,label,CLASS,CLASS,..."
    )
