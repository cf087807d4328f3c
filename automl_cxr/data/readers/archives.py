"""Labels in NumPy arrays, and archives (.npz) of images and labels, as MedMNIST publishes them.

No code from a file is executed: arrays of Python objects are refused.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import zipfile
import zlib
from pathlib import Path

import numpy as np

from automl_cxr.cache_folder import cache_folder
from automl_cxr.errors import UnreadableImageError

ARCHIVE_SUFFIX = ".npz"
_MAX_COLUMNS = 1000  # of an array of labels
_KINDS = "buif"


def read_label_array(path: Path) -> list[list[str]] | None:
    """Read an array of labels as the lines of a table with a header; None if it is not one.

    Labels are (n,), (n, 1), or (n, k) with a column of 0 and 1 for each finding.
    """
    try:
        labels = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception:  # noqa: BLE001 - NumPy raises many types of exceptions for a broken header
        return None
    return label_lines(labels)


def label_lines(labels: np.ndarray) -> list[list[str]] | None:
    """Return the lines of ``read_label_array`` for an array."""
    if labels.ndim not in (1, 2) or not labels.size or labels.dtype.kind not in f"{_KINDS}U":
        return None
    columns = labels.reshape(len(labels), -1)
    if columns.shape[1] > 1 and (columns.shape[1] > _MAX_COLUMNS or columns.dtype.kind == "U" or not _is_binary(columns)):
        return None
    if columns.dtype.kind == "f" and not np.isnan(columns).any() and (columns == np.round(columns)).all():
        columns = columns.astype(np.int64)
    if columns.dtype.kind == "b":
        columns = columns.astype(np.uint8)
    header = ["label"] if columns.shape[1] == 1 else [f"class {number}" for number in range(columns.shape[1])]
    return [header, *([str(value) for value in row] for row in columns.tolist())]


def _is_binary(columns: np.ndarray) -> bool:
    return bool(np.isin(columns, (-1, 0, 1)).all() and columns.any())


def unpack_archive(archive: Path) -> tuple[Path, dict[str, list[list[str]]]]:
    """Unpack the arrays of images in an archive into the cache, unless they are there.

    Returns:
        The folder of the arrays; and the lines of each array of labels by the name that it would have as a file.

    Raises:
        UnreadableImageError: The file is not an archive of numbers.
        OSError: The archive cannot be read, or the cache cannot be written.
    """
    status = archive.stat()
    key = hashlib.sha256(f"{archive.absolute()}\n{status.st_size}\n{status.st_mtime_ns}".encode()).hexdigest()[:32]
    folder = cache_folder() / "archives" / key
    labels: dict[str, list[list[str]]] = {}
    unpacked: Path | None = None
    try:
        with np.load(archive, allow_pickle=False) as arrays:
            if not folder.exists():
                folder.parent.mkdir(parents=True, exist_ok=True)
                unpacked = Path(tempfile.mkdtemp(dir=folder.parent))
            for name in arrays.files:
                is_label = _n_dimensions(arrays, name) < 3
                if not is_label and unpacked is None:
                    continue
                array = arrays[name]
                lines = label_lines(array) if is_label else None
                if lines is not None:
                    labels[f"{Path(name).name}.npy"] = lines
                elif unpacked is not None and array.dtype.kind in _KINDS and array.ndim in (3, 4):
                    np.save(unpacked / f"{Path(name).name}.npy", array, allow_pickle=False)
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error, AttributeError) as error:
        if unpacked is not None:
            shutil.rmtree(unpacked, ignore_errors=True)
        raise UnreadableImageError(f"not an archive of numbers ({' '.join(str(error).split())})") from error
    if unpacked is not None:
        try:
            unpacked.rename(folder)
        except OSError:  # another process has unpacked it
            shutil.rmtree(unpacked, ignore_errors=True)
            if not folder.is_dir():
                raise
    return folder, labels


def _n_dimensions(arrays: np.lib.npyio.NpzFile, name: str) -> int:
    """Return the number of dimensions of an array from its header, without unpacking it."""
    archive = arrays.zip
    if archive is None:
        raise ValueError("closed")
    with archive.open(f"{name}.npy") as file:
        version = np.lib.format.read_magic(file)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, _ = read_header(file)
    return len(shape)
