"""A table of features from another program: one vector for each image, in an npz file.

The file contains ``ids``, text (n,), and ``features``, numbers (n, d). An id is the path of an image, the end of its path, such
as its id in the data set or its file name, or its file name without the suffix.
"""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from automl_cxr.cache_folder import cache_folder
from automl_cxr.errors import DataError
from automl_cxr.io import atomic_write, sha256_of_file

_HOW = "Write it with numpy.savez(FILE, ids=ids, features=features): ids, text (n,), and features, numbers (n, d)."
TABLES_NAME = "feature_tables"
"""Folder of the selected rows in the cache folder."""
_N_NAMED = 3  # images in a message


@dataclass(frozen=True, eq=False)
class FeatureTable:
    """Features of images.

    Attributes:
        file: The file.
        ids: The id of each row.
        values: float32 (n, d), finite.
        digest: SHA-256 digest of the file, as hexadecimal digits.
    """

    file: Path
    ids: tuple[str, ...]
    values: np.ndarray
    digest: str

    @property
    def n_features(self) -> int:
        """Number of columns."""
        return int(self.values.shape[1])

    def select(self, images: Sequence[str], root: Path) -> np.ndarray:
        """Return the features of images, float32 (len(images), d).

        Args:
            images: Ids of images: paths relative to ``root``, or absolute paths.
            root: Folder that the ids are relative to.

        Raises:
            DataError: The table has no row for some images. The message names them.
        """
        rows = {name: row for row, name in enumerate(self.ids)}
        found = [_find_row(os.path.join(root, image), rows) for image in images]  # noqa: PTH118 - names that are not UTF-8
        missing = [image for image, row in zip(images, found, strict=True) if row is None]
        if missing:
            raise DataError(
                f"A table of features needs a row for each image; '{self.file}' has none for {len(missing)} of {len(images)}, "
                f"such as {_name(missing)}. Its ids, such as {_name(self.ids)}, must be paths of images, the ends of their "
                "paths, or their file names without the suffix. Add the rows, or leave the images out of the data."
            )
        chosen = [row for row in found if row is not None]
        shared = {row for row, n in Counter(chosen).items() if n > 1}
        if shared:
            named = [image for image, row in zip(images, chosen, strict=True) if row in shared]
            raise DataError(
                f"Each id of a table of features must name one image; in '{self.file}' the same id names {_name(named)}. Use "
                "longer ends of the paths as ids."
            )
        return self.values[chosen]


def _find_row(path: str, rows: Mapping[str, int]) -> int | None:
    """Return the row of the longest end of a path that is an id, else that of the file name without the suffix."""
    name = path.replace(os.sep, "/")
    while name not in rows and "/" in name:
        name = name.partition("/")[2]
    return rows.get(name, rows.get(os.path.splitext(name)[0]))  # noqa: PTH122 - names that are not UTF-8


def read_feature_table(path: str | os.PathLike[str]) -> FeatureTable:
    """Read a table of features.

    Raises:
        DataError: The file is missing or damaged, or its ids are repeated, or its features are not finite.
    """
    file = Path(path).expanduser()
    try:
        with np.load(file, allow_pickle=False) as arrays:
            ids, values = arrays["ids"], arrays["features"]
        digest = sha256_of_file(file)
    except FileNotFoundError as error:
        raise DataError(f"A table of features must exist; received '{file}'. Correct the path.") from error
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, TypeError) as error:
        reason = str(error) or type(error).__name__
        raise DataError(f"A table of features must be an npz file; '{file}' cannot be read ({reason}). {_HOW}") from error
    if ids.ndim != 1 or ids.dtype.kind != "U" or values.ndim != 2 or len(ids) != len(values) or 0 in values.shape:
        raise DataError(
            f"A table of features must contain one id and one vector for each image; '{file}' contains ids {ids.dtype} "
            f"{ids.shape} and features {values.dtype} {values.shape}. {_HOW}"
        )
    if values.dtype.kind not in "fiu":
        raise DataError(f"Features must be numbers; those in '{file}' are {values.dtype}. {_HOW}")
    with np.errstate(over="ignore"):
        values = values.astype(np.float32)
    names = tuple(map(str, ids.tolist()))
    repeated = [name for name, n in Counter(names).items() if n > 1]
    if repeated:
        raise DataError(
            f"The ids of a table of features must be unique; '{file}' repeats {len(repeated)}, such as {_name(repeated)}. "
            "Remove the repeated rows."
        )
    bad = [name for name, is_finite in zip(names, np.isfinite(values).all(axis=1), strict=True) if not is_finite]
    if bad:
        raise DataError(
            f"Features must be finite numbers of float32; those of {len(bad)} images in '{file}' are not, such as "
            f"{_name(bad)}. Compute them again, or leave the images out."
        )
    return FeatureTable(file, names, values, digest)


def open_recorded_table(path: str | os.PathLike[str], digest: str) -> FeatureTable:
    """Read the table of a study, and check that it has not changed.

    Raises:
        DataError: The table is missing, unusable or another one.
    """
    table = read_feature_table(path)
    if table.digest != digest:
        raise DataError(
            f"The table of features of a study must not change; '{path}' is another file (SHA-256 {table.digest[:12]} "
            f"instead of {digest[:12]}). Restore it, name its place with --features, or create another study."
        )
    return table


def save_rows(values: np.ndarray) -> Path:
    """Write the features of a study's images, float32 (n, d), to a .npy file in the cache, named by its content."""
    content = hashlib.sha256(f"{values.shape}".encode() + np.ascontiguousarray(values).tobytes()).hexdigest()
    path = cache_folder().absolute() / TABLES_NAME / f"{content}.npy"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as file:
            np.save(file, values, allow_pickle=False)
    return path


def _name(images: Iterable[str]) -> str:
    return ", ".join(list(images)[:_N_NAMED])
