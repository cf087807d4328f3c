"""Decoded images at a smaller image size, computed once for all trials and stored beside their selection."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from filelock import FileLock

from automl_cxr.data.decode import fit_square
from automl_cxr.data.image_rows import open_images
from automl_cxr.data.npy_io import write_header
from automl_cxr.io import atomic_write


def downscaled_images(path: Path, image_size: int) -> Path:
    """Return the file of decoded images at another size, and write it if it does not exist.

    Each pixel of a smaller image is the average over the pixels of the larger one. If several processes call this function at
    once, one writes the file and the others wait for it.

    Args:
        path: File of decoded images, as ``image_rows.open_images`` opens it, uint8 (n, size, size).
        image_size: New height and width in pixels, at most those of the images.

    Returns:
        A .npy file, uint8 (n, image_size, image_size), in the same folder; ``path`` itself if the size is equal.

    Raises:
        OSError: The file cannot be written.
    """
    images = open_images(path)
    if images.shape[1] == image_size:
        return path
    target = path.with_name(f"{path.stem}-at-{image_size}.npy")
    with FileLock(target.with_suffix(".lock")):
        if not target.exists():
            with atomic_write(target) as file:
                write_header(file, (len(images), image_size, image_size), np.uint8)
                for image in images:
                    file.write(fit_square(np.asarray(image), image_size).tobytes())
    return target
