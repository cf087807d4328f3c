"""Images and labels that a scikit-learn estimator receives, written as a data set that a search reads.

An array of images becomes ``images.npy`` with a table of labels beside it (layout ``arrays``). Paths become a table (layout
``csv``); their files stay where they are.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd

from automl_cxr.data.arrays import name_rows, split_row, to_grey_levels
from automl_cxr.data.files import explain_unusable
from automl_cxr.data.grayscale import finite_range
from automl_cxr.data.table_columns import COLUMN_NAMES, find_columns, list_names
from automl_cxr.errors import DataError

_ARRAY, _TABLE = "images.npy", "labels.csv"


@dataclass(frozen=True, eq=False)
class EstimatorImages:
    """The images of one call of an estimator: an array, or paths.

    Attributes:
        pixels: Numbers (n, h, w), (n, h, w, 1) or (n, h, w, 3); None for paths.
        paths: Absolute paths of the files; empty for an array.
    """

    pixels: np.ndarray | None
    paths: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.paths) if self.pixels is None else len(self.pixels)

    @property
    def scale(self) -> tuple[float, float] | None:
        """Smallest and largest pixel value of an array that has to be converted to grey levels; None for uint8 and paths."""
        return None if self.pixels is None or self.pixels.dtype == np.uint8 else finite_range(self.pixels)


def read_images(images: Any, image_column: str | None = None) -> EstimatorImages:
    """Read the argument X of an estimator.

    Args:
        images: A table with a column of paths, a sequence of paths, or an array of images.
        image_column: Name of the column of a table. [default: path, image or filename, or the only column]

    Raises:
        DataError: It is none of these, is empty, or a file does not exist.
    """
    if hasattr(images, "toarray"):
        raise DataError("Images must be a dense array or paths; received a sparse matrix. Convert it with toarray().")
    if isinstance(images, pd.DataFrame):
        images = images[_image_column(list(map(str, images.columns)), image_column)]
    values = images if isinstance(images, np.ndarray) else np.asarray(images)
    if values.ndim in (3, 4) and values.dtype.kind in "buif":
        if len(values) == 0 or 0 in values.shape or values.shape[3:] not in ((), (1,), (3,)):
            raise DataError(f"{_RULE}; received an array of shape {values.shape}. {_REMEDY}")
        return EstimatorImages(values)
    if values.ndim == 2 and values.shape[1] == 1 and values.dtype.kind in "OU":  # one column of a table, as an array
        values = values[:, 0]
    if values.ndim != 1 or not len(values) or not all(isinstance(path, (str, os.PathLike)) for path in values.tolist()):
        raise DataError(f"{_RULE}; received {values.dtype} of shape {values.shape}. {_REMEDY}")
    paths = tuple(str(Path(path).expanduser().absolute()) for path in values.tolist())
    unusable = {path: reason for path in paths if (reason := explain_unusable(Path(split_row(path)[0])))}
    if unusable:
        path, reason = next(iter(unusable.items()))
        raise DataError(
            f"Each path must be that of an image file; {len(unusable)} of {len(paths)} are not, such as {path} ({reason})."
        )
    return EstimatorImages(None, paths)


_RULE = "Images must be a table or a sequence of paths, or an array (n, h, w), (n, h, w, 1) or (n, h, w, 3)"
_REMEDY = "Reshape the array, or pass paths."


def _image_column(names: Sequence[str], chosen: str | None) -> str:
    if chosen is not None:
        if chosen not in names:
            raise DataError(f"The column of the images must exist; the table has no column '{chosen}': {list_names(names)}.")
        return chosen
    found = find_columns(names, {"image": COLUMN_NAMES["image"]})
    if not found and len(names) != 1:
        raise DataError(
            f"A table of images needs a column {'|'.join(COLUMN_NAMES['image'])}; received {list_names(names)}. Rename one, or "
            "pass image_column."
        )
    return found.get("image", names[0])


def write_dataset(
    folder: Path,
    images: EstimatorImages,
    labels: pd.DataFrame,
    patients: Sequence[str] | None,
    scale: tuple[float, float] | None,
) -> tuple[Path, str]:
    """Write images and labels as a data set.

    Args:
        folder: An empty folder.
        images: The images.
        labels: Labels of the images, with the columns of a table of labels: ``label``, the class names, or one column for each
            finding.
        patients: Patient of each image, or None.
        scale: ``images.scale``.

    Returns:
        The folder or the table to search, and the name of its layout.
    """
    ids: Sequence[Any] = images.paths
    if images.pixels is not None:
        ids = range(len(images))
        _save(folder / _ARRAY, images, scale)
    table = labels.copy()
    table.insert(0, "index" if images.pixels is not None else "path", list(ids))
    if patients is not None:
        table["patient_id"] = list(patients)
    table.to_csv(folder / _TABLE, index=False, lineterminator="\r\n")
    return (folder, "arrays") if images.pixels is not None else (folder / _TABLE, "csv")


@contextmanager
def as_files(images: EstimatorImages, scale: tuple[float, float] | None) -> Iterator[list[Path]]:
    """Return the file of each image; an array is written to a temporary file.

    Args:
        images: The images.
        scale: The scale of the images on which the estimator was fitted, so that equal pixels give equal predictions; None if
            these were files or uint8.

    Raises:
        DataError: The pixels have another scale.
    """
    if images.pixels is None:
        yield list(map(Path, images.paths))
        return
    own = images.scale
    if own is not None and scale is not None and scale[1] <= 1.05 and own[1] > 2:
        raise DataError(
            "Pixels must have the scale of the images that the estimator was fitted on, whose largest value was "
            f"{scale[1]:.4g}; received values up to {own[1]:.4g}. Divide them, or pass uint8."
        )
    with TemporaryDirectory() as folder:
        file = Path(folder) / _ARRAY
        _save(file, images, own if scale is None else scale)
        yield [Path(name) for name in name_rows(str(file), len(images))]


def _save(file: Path, images: EstimatorImages, scale: tuple[float, float] | None) -> None:
    low, high = scale or (0.0, 255.0)  # not used for uint8
    pixels = np.ascontiguousarray(images.pixels)
    np.save(file, to_grey_levels(pixels, low, high), allow_pickle=False)
