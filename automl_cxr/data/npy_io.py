"""Reading and writing of .npy files row by row."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import DTypeLike


def write_header(file: BinaryIO, shape: Sequence[int], dtype: DTypeLike) -> None:
    """Write the header of a .npy file, after which the rows are appended in C order.

    Rows are appended to plain files instead of writable memory maps, because on a full disk a write raises, whereas a memory
    map kills the process with SIGBUS. NumPy pads the header for growth of the first axis, so that it can be written again for
    fewer rows.
    """
    header = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": tuple(shape)}
    np.lib.format.write_array_header_1_0(file, header)


def is_complete_array(path: Path, shape: Sequence[int], dtype: DTypeLike) -> bool:
    """Return whether a .npy file has this shape, type and length, without reading the array."""
    try:
        with path.open("rb") as file:
            if np.lib.format.read_magic(file) != (1, 0):
                return False
            header = np.lib.format.read_array_header_1_0(file)
            n_bytes = file.tell() + math.prod(shape) * np.dtype(dtype).itemsize
            return header == (tuple(shape), False, np.dtype(dtype)) and os.fstat(file.fileno()).st_size == n_bytes
    except Exception:  # noqa: BLE001 - NumPy raises many types of exceptions for a damaged header
        return False


def map_array(path: Path) -> np.ndarray:
    """Map a .npy file into memory, read-only.

    Raises:
        OSError: The file cannot be opened.
        ValueError: The file is damaged.
    """
    try:
        array: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError:
        raise
    except Exception as error:  # NumPy raises many types of exceptions for a damaged header
        raise ValueError(f"'{path}' is damaged ({error})") from error
    return array


def sync(file: BinaryIO) -> None:
    """Flush a file to disk."""
    file.flush()
    os.fsync(file.fileno())
