"""A decoded array at a smaller image size: averaged once, beside the array, for all trials and processes that want it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

import numpy as np
from filelock import FileLock

from automl_cxr.data.decode import fit_square


def downscaled_images(path: Path, image_size: int) -> Path:
    """Give the images of a decoded array at another size; of their own size, the array itself.

    A smaller image is averaged over the pixels of the larger one. Whoever asks first writes the file, others wait for it.

    Args:
        path: A .npy file, uint8 (n, size, size).
        image_size: Height and width wanted, in pixels, at most those of the array.

    Returns:
        A .npy file, uint8 (n, image_size, image_size), in the same folder.

    Raises:
        OSError: It cannot be written.
    """
    images = np.load(path, mmap_mode="r", allow_pickle=False)
    if images.shape[1] == image_size:
        return path
    target = path.with_name(f"{path.stem}-at-{image_size}.npy")
    with FileLock(target.with_suffix(".lock")):
        if not target.exists():
            partial = target.with_suffix(".partial")
            with partial.open("wb") as file:
                _write(images, image_size, file)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(target)
    return target


def _write(images: np.ndarray, image_size: int, file: BinaryIO) -> None:
    """Append row by row: on a full disk a write raises, whereas a memory map kills the process."""
    header = {"descr": "|u1", "fortran_order": False, "shape": (len(images), image_size, image_size)}
    np.lib.format.write_array_header_1_0(file, header)
    for image in images:
        file.write(fit_square(np.asarray(image), image_size).tobytes())
