"""Arrays in .npy files that are written row by row and mapped into memory."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import DTypeLike


def is_whole_array(path: Path, shape: Sequence[int], dtype: DTypeLike) -> bool:
    """Tell whether a .npy file has this shape and type and every byte of it, without reading the array."""
    try:
        with path.open("rb") as file:
            if np.lib.format.read_magic(file) != (1, 0):
                return False
            header = np.lib.format.read_array_header_1_0(file)
            n_bytes = file.tell() + math.prod(shape) * np.dtype(dtype).itemsize
            return header == (tuple(shape), False, np.dtype(dtype)) and os.fstat(file.fileno()).st_size == n_bytes
    except (OSError, ValueError):
        return False


def sync(file: BinaryIO) -> None:
    """Flush a file to disk."""
    file.flush()
    os.fsync(file.fileno())
