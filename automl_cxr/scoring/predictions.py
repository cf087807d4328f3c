"""A model's predictions for some images: ids, labels and probabilities; saved as npz without pickle."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from automl_cxr.errors import DataError, UsageError
from automl_cxr.io import atomic_write
from automl_cxr.scoring.prediction_files import Members, contents_of, read_arrays, unreadable
from automl_cxr.tasks import LABEL_CODES, MULTICLASS, MULTILABEL, UNKNOWN

UNKNOWN_LABEL = UNKNOWN
_TEXT_ARRAYS = ("ids", "classes", "patients")
_NUMBER_ARRAYS = ("labels", "probabilities")
_ROW_SUM_TOLERANCE = 1e-3  # largest deviation from 1 with float16 inference and quantised exports
_RANGE_TOLERANCE = 1e-6
_N_CACHED_IMAGE_SETS = 2


@dataclass(frozen=True, eq=False)
class Predictions:
    """Probabilities of one model for some images, with the labels and patients for scoring.

    Attributes:
        ids: Name of each image, unique, (n,).
        labels: Index of the true class of each image, int64 (n,); -1 where it is unknown. For several findings, a label code of
            each finding of each image, int64 (n, n_classes); negative where it is not known whether the finding is present.
        probabilities: float32 (n, n_classes), from 0 to 1. Of classes, rows sum to 1; of findings, each is independent.
        classes: Name of each class or finding, unique, (n_classes,); two classes or more, or one finding or more.
        patients: Patient of each image, the group for resampling, (n,); by default the ids.
        thresholds: For findings, the probability from which each counts as present, float64 (n_classes,), above 0 and at most
            1. They were chosen on images on which the model was not scored afterwards, or None if no thresholds are known.

    Raises:
        DataError: An attribute violates one of these conditions.
    """

    ids: tuple[str, ...]
    labels: np.ndarray
    probabilities: np.ndarray
    classes: tuple[str, ...]
    patients: tuple[str, ...] = ()
    thresholds: np.ndarray | None = None

    def __post_init__(self) -> None:
        _check_texts(self)
        _check_labels(self)
        _check_model(self)
        # Lists, arrays and other integer types are accepted and converted.
        ids = tuple(map(str, self.ids))
        for name, value in {
            "ids": ids,
            "labels": np.asarray(self.labels, dtype=np.int64),
            "classes": tuple(map(str, self.classes)),
            "patients": tuple(map(str, self.patients)) or ids,
        }.items():
            object.__setattr__(self, name, value)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def task(self) -> str:
        """The task, a name in ``tasks.TASKS``."""
        return MULTILABEL if self.is_multilabel else MULTICLASS

    @property
    def is_multilabel(self) -> bool:
        """Whether these are predictions of findings, of which an image may have several."""
        return self.labels.ndim == 2

    @property
    def kind(self) -> str:
        """What the columns are, "class" or "finding", for the headers of tables."""
        return "finding" if self.is_multilabel else "class"

    @property
    def predicted(self) -> np.ndarray:
        """The most probable class of each image, int64 (n,); in a tie the first one, as in ``numpy.argmax``."""
        return self.probabilities.argmax(axis=1)

    @property
    def decided(self) -> np.ndarray:
        """Whether each finding counts as present, bool (n, n_classes), by ``thresholds``.

        Raises:
            DataError: No thresholds are known.
        """
        if self.thresholds is None:
            raise DataError("Decisions on findings need a threshold for each finding. Received none. Choose them first.")
        return self.probabilities >= self.thresholds

    def with_probabilities(self, probabilities: np.ndarray, thresholds: np.ndarray | None = None) -> Predictions:
        """Return the predictions of another model for the same images, without checking or copying the names again.

        Raises:
            DataError: See ``Predictions``.
        """
        other = object.__new__(Predictions)
        values = {**vars(self), "probabilities": probabilities, "thresholds": thresholds}
        for name, value in values.items():
            object.__setattr__(other, name, value)
        _check_model(other)
        return other

    def take(self, rows: Any) -> Predictions:
        """Return the predictions at ``rows`` (indices, a slice or a boolean mask), in that order."""
        chosen = np.arange(len(self))[rows]
        return Predictions(
            ids=tuple(self.ids[row] for row in chosen),
            labels=self.labels[chosen],
            probabilities=self.probabilities[chosen],
            classes=self.classes,
            patients=tuple(self.patients[row] for row in chosen),
            thresholds=self.thresholds,
        )

    def require_labels(self) -> None:
        """Refuse predictions that cannot be scored.

        Raises:
            DataError: There is no image; or the class of an image is unknown; or of findings, all labels are unknown.
        """
        if not self.ids:
            raise DataError("Scores need at least one image. Received predictions for none.")
        if self.is_multilabel:
            if not (self.labels >= 0).any():
                raise DataError("Scores need a known label of a finding. Received none. Name a table of labels with --labels.")
            return
        unknown = int((self.labels == UNKNOWN_LABEL).sum())
        if unknown:
            raise DataError(
                f"Scores need the true class of every image. Received {unknown} of {len(self)} images without one. "
                "Leave them out with take(labels != -1)."
            )

    def to_npz(self, path: str | os.PathLike[str]) -> None:
        """Save as npz, atomically."""
        path = Path(path)
        arrays: dict[str, Any] = {name: np.array(getattr(self, name), dtype=np.str_) for name in _TEXT_ARRAYS}
        arrays |= {name: getattr(self, name) for name in _NUMBER_ARRAYS}
        arrays |= {} if self.thresholds is None else {"thresholds": self.thresholds}
        with atomic_write(path) as file:
            np.savez_compressed(file, **arrays)

    @classmethod
    def from_npz(cls, path: str | os.PathLike[str]) -> Predictions:
        """Load a file from ``to_npz``. No code from the file is executed.

        Raises:
            DataError: The file is missing or damaged, was not written by ``to_npz``, or contains Python objects.
        """
        path = Path(path)
        contents = contents_of(path)
        arrays = read_arrays(path, [name for name, _, _ in contents.of_model])
        try:
            return _images_of(_ImageSet(path, contents.of_images)).with_probabilities(**arrays)
        except DataError as error:
            raise unreadable(path, error) from error


def align(members: Sequence[Predictions], *, names: Sequence[str] = ()) -> tuple[np.ndarray, Predictions]:
    """Stack the predictions of several models for the same images, rows matched by id.

    Args:
        members: Predictions of the same images, in any order of images.
        names: Names of the members for messages; by default their numbers.

    Returns:
        Probabilities, float32 (n_members, n, n_classes), and the first member. The rows have the order of its ids.

    Raises:
        UsageError: There is no member.
        DataError: A member has other classes, images or labels than the first.
    """
    if not members:
        raise UsageError("An ensemble needs at least one member. Received none.")
    first = members[0]
    stacked = np.empty((len(members), len(first), len(first.classes)), dtype=np.float32)
    names = names or [f"member {number}" for number in range(len(members))]
    for number, member in enumerate(members):
        stacked[number] = member.probabilities[_rows_like(first, member, f"{names[number]}, against {names[0]}")]
    return stacked, first


def _rows_like(first: Predictions, member: Predictions, which: str) -> np.ndarray:
    """Return the rows of ``member`` in the order of ``first``'s ids, int64 (n,)."""
    if member.task != first.task:
        raise _mismatch(which, "task", f"{member.task} instead of {first.task}")
    if member.classes != first.classes:
        raise _mismatch(which, "classes", f"{', '.join(member.classes)} instead of {', '.join(first.classes)}")
    rows = np.arange(len(first)) if member.ids == first.ids else _matching_rows(first, member, which)
    # For scoring, uncertain labels are unknown ones.
    differs = np.maximum(member.labels[rows], UNKNOWN) != np.maximum(first.labels, UNKNOWN)
    other = np.flatnonzero(differs.reshape(len(rows), -1).any(axis=1))
    if other.size:
        raise _mismatch(which, "labels", f"different labels for {other.size} images, such as '{first.ids[other[0]]}'")
    return rows


def _matching_rows(first: Predictions, member: Predictions, which: str) -> np.ndarray:
    """Return the row of ``member`` for each id of ``first``, int64 (n,)."""
    row_of = {name: row for row, name in enumerate(member.ids)}
    missing = [name for name in first.ids if name not in row_of]
    if missing or len(row_of) != len(first):
        extra = sorted(row_of.keys() - set(first.ids))
        examples = [f"{kind} '{names[0]}'" for kind, names in (("without", missing), ("with", extra)) if names]
        raise _mismatch(which, "images", f"{len(missing)} missing, {len(extra)} more ({', '.join(examples)})")
    return np.array([row_of[name] for name in first.ids], dtype=np.int64)


def _mismatch(which: str, what: str, received: str) -> DataError:
    return DataError(
        f"Members must have the same {what}. Received in {which}: {received}. Combine predictions of the same images."
    )


@dataclass(frozen=True)
class _ImageSet:
    """The images of a file with predictions. Two are equal if ids, labels, classes and patients are the same bytes."""

    path: Path = field(compare=False)
    members: Members


@functools.lru_cache(maxsize=_N_CACHED_IMAGE_SETS)
def _images_of(images: _ImageSet) -> Predictions:
    """Read ids, labels, classes and patients once for all models of the same images; the model is that of the first file."""
    loaded = Predictions(**read_arrays(images.path))
    loaded.labels.setflags(write=False)  # they are shared
    return loaded


def _check_texts(predictions: Predictions) -> None:
    for name in _TEXT_ARRAYS:
        texts = getattr(predictions, name)
        if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
            raise DataError(f"Predictions need {name} as a list of strings. Received {texts!r:.80}.")
    for name, texts in (("ids", predictions.ids), ("classes", predictions.classes)):
        if len(set(texts)) != len(texts):
            repeated = next(text for text in texts if texts.count(text) > 1)
            raise DataError(f"Predictions need {name} without duplicates. Received '{repeated}' more than once.")
    n_patients = len(predictions.patients)
    if n_patients not in (0, len(predictions.ids)):
        raise DataError(
            f"Predictions need one patient for each image. Received {n_patients} for {len(predictions.ids)} images. "
            "Leave patients empty where they are unknown."
        )


def _check_labels(predictions: Predictions) -> None:
    labels, n_classes = np.asarray(predictions.labels), len(predictions.classes)
    if labels.ndim == 2:
        _check_label_codes(labels, (len(predictions.ids), n_classes))
        return
    if labels.shape != (len(predictions.ids),):
        raise DataError(f"Labels must have shape ({len(predictions.ids)},), one for each id. Received {labels.shape}.")
    is_integer = labels.dtype.kind in "iu"
    if labels.size and not (is_integer and labels.min() >= UNKNOWN_LABEL and labels.max() < n_classes):
        values = f" from {labels.min()} to {labels.max()}" if is_integer else ""
        raise DataError(
            f"Labels must be integers from 0 to {n_classes - 1}, or -1 where unknown. Received {labels.dtype}{values}."
        )


def _check_model(predictions: Predictions) -> None:
    """Check the probabilities and thresholds, and convert their number types."""
    _check_probabilities(predictions)
    _check_thresholds(predictions)
    object.__setattr__(predictions, "probabilities", np.asarray(predictions.probabilities, dtype=np.float32))
    if predictions.thresholds is not None:
        object.__setattr__(predictions, "thresholds", np.asarray(predictions.thresholds, dtype=np.float64))


def _check_label_codes(labels: np.ndarray, shape: tuple[int, int]) -> None:
    if labels.shape != shape:
        raise DataError(f"Labels of findings must have shape {shape}. Received {labels.shape}.")
    if labels.size and not (labels.dtype.kind in "iu" and np.isin(labels, LABEL_CODES).all()):
        raise DataError(
            "Labels of findings must be 1 (present), 0 (absent), -1 (unknown) or -2 (uncertain). Received "
            f"{labels.dtype} from {labels.min()} to {labels.max()}."
        )


def _check_thresholds(predictions: Predictions) -> None:
    if predictions.thresholds is None:
        return
    if np.asarray(predictions.labels).ndim != 2:
        raise DataError("Only predictions of findings have thresholds. Received them for classes. Leave them out.")
    thresholds = np.asarray(predictions.thresholds)
    n_findings = len(predictions.classes)
    if thresholds.shape != (n_findings,) or not ((thresholds > 0) & (thresholds <= 1)).all():
        raise DataError(
            f"Thresholds must be {n_findings} numbers above 0 and at most 1, one for each finding. Received {thresholds}."
        )


def _check_probabilities(predictions: Predictions) -> None:
    probabilities = np.asarray(predictions.probabilities)
    shape = (len(predictions.ids), len(predictions.classes))
    is_multilabel = np.asarray(predictions.labels).ndim == 2
    if shape[1] < (1 if is_multilabel else 2):
        raise DataError(f"Classification needs at least two classes. Received {shape[1]}.")
    if probabilities.shape != shape or probabilities.dtype.kind != "f":
        raise DataError(f"Probabilities must be floats of shape {shape}. Received {probabilities.dtype} {probabilities.shape}.")
    check_rows_are_probabilities(probabilities, sum_to_one=not is_multilabel)


def check_rows_are_probabilities(probabilities: np.ndarray, *, sum_to_one: bool = True) -> None:
    """Refuse rows that are not probabilities.

    Args:
        probabilities: (..., n_classes).
        sum_to_one: Whether each row must sum to 1 (within 0.001): probabilities of classes, not of findings.

    Raises:
        DataError: A value is NaN, infinite or outside 0..1, or a row has another sum.
    """
    if not probabilities.size:
        return
    low, high = float(probabilities.min()), float(probabilities.max())
    # Every comparison with NaN is false, so this condition refuses NaN too.
    if not (low >= -_RANGE_TOLERANCE and high <= 1 + _RANGE_TOLERANCE):
        raise DataError(f"Probabilities must be finite, from 0 to 1. Received values from {low:.4g} to {high:.4g}.")
    if not sum_to_one:
        return
    sums = probabilities.sum(axis=-1, dtype=np.float64)
    worst = sums.flat[np.abs(sums - 1).argmax()]
    if abs(worst - 1) > _ROW_SUM_TOLERANCE:
        raise DataError(f"Probabilities of an image must sum to 1. Received a row that sums to {worst:.4f}.")
