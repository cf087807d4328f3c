"""The arrays of a file with predictions, an npz archive without pickle, and the checksums of its images and its model."""

from __future__ import annotations

import contextlib
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from automl_cxr.errors import DataError

_TEXT_ARRAYS = ("ids", "classes", "patients")
_IMAGE_ARRAYS = (*_TEXT_ARRAYS, "labels")
_OPTIONAL_ARRAYS = ("thresholds",)
_MODEL_ARRAYS = ("probabilities", *_OPTIONAL_ARRAYS)
PREDICTIONS_FILE = "valid.npz"
"""Name of the predictions of a trial or an ensemble in its folder."""
_MAX_REASON = 200  # characters; zipfile quotes names of a damaged file

Members = tuple[tuple[str, int, int], ...]
"""Name, CRC-32 and size in bytes of arrays in an archive."""


@dataclass(frozen=True)
class Contents:
    """Checksums of the arrays in a file with predictions, from the directory of the archive.

    Attributes:
        of_images: Of ids, classes, patients and labels. All trials of a study have the same.
        of_model: Of probabilities, and thresholds if there are any.
    """

    of_images: Members
    of_model: Members


def contents_of(path: Path) -> Contents:
    """Read the checksums of a file with predictions, without reading the arrays.

    Raises:
        DataError: The file is missing, damaged, or contains no predictions.
    """
    with _explained_errors(path), _opened(path) as file, zipfile.ZipFile(file) as archive:
        members = {info.filename: (info.CRC, info.file_size) for info in archive.infolist()}
        missing = [name for name in (*_IMAGE_ARRAYS, "probabilities") if f"{name}.npy" not in members]
        if missing:
            raise ValueError(f"{missing[0]} is not a file in the archive")
        return Contents(
            *(
                tuple((name, *members[f"{name}.npy"]) for name in names if f"{name}.npy" in members)
                for names in (_IMAGE_ARRAYS, _MODEL_ARRAYS)
            )
        )


def read_arrays(path: Path, names: Sequence[str] = ()) -> dict[str, Any]:
    """Read arrays of a file with predictions. No code from the file is executed.

    Args:
        path: The file.
        names: Names of the arrays; by default all.

    Returns:
        The arrays by name; ids, classes and patients as tuples of strings.

    Raises:
        DataError: The file is missing or damaged, an array is missing, or the file contains Python objects.
    """
    with _explained_errors(path), _opened(path) as file, np.load(file, allow_pickle=False) as archive:
        optional = [name for name in _OPTIONAL_ARRAYS if name in archive]
        arrays: dict[str, Any] = {name: archive[name] for name in names or (*_IMAGE_ARRAYS, "probabilities", *optional)}
        for name in arrays.keys() & set(_TEXT_ARRAYS):
            if arrays[name].dtype.kind != "U" or arrays[name].ndim != 1:
                raise ValueError(f"{name} is not a list of strings")
            arrays[name] = tuple(arrays[name].tolist())
    return arrays


def unreadable(path: Path, error: Exception) -> DataError:
    """Return the error for a file that has no valid predictions."""
    reason = getattr(error, "strerror", None) or str(error).partition("\n")[0][:_MAX_REASON] or type(error).__name__
    return DataError(
        f"Predictions must be an npz file written by this program. Received '{path}' ({reason}). Evaluate the trial again."
    )


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Open an archive. NumPy does not close a file that it cannot read, and would advise to load another file as a pickle."""
    with path.open("rb") as file:
        if not zipfile.is_zipfile(file):
            raise ValueError("it is not a complete npz archive")
        file.seek(0)
        yield file


@contextlib.contextmanager
def _explained_errors(path: Path) -> Iterator[None]:
    """Convert an exception into a DataError: NumPy and zipfile raise many types for a damaged file."""
    try:
        yield
    except Exception as error:
        raise unreadable(path, error) from error
