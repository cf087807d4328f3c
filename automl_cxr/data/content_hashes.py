"""SHA-256 hashes of the contents of image files. They identify an image under any name and in any folder.

The content of a row of an array is that which ``decode.read_image_file`` returns. Decoding hashes each file too (``cache.py``),
so these functions are for images that are not decoded.

A hash of the decoded pixels would also identify a picture in another file format. It is not used, because it changes with the
decoder and its libraries, and because the sealed test images would have to be decoded for it.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from automl_cxr.data.decode import read_image_file
from automl_cxr.errors import UnreadableImageError
from automl_cxr.hardware import n_usable_cores

HASH_BYTES = 32
_NO_HASH = bytes(HASH_BYTES)
_BATCH = 1024  # files that are submitted to the threads at once


def hash_files(root: Path, image_ids: Sequence[str]) -> np.ndarray:
    """Hash the contents of images without decoding them.

    Args:
        root: Folder that the ids are relative to.
        image_ids: Paths of the images or rows of arrays.

    Returns:
        uint8 (n, 32); zeros for an image whose content cannot be read.
    """
    paths = [root / image_id for image_id in image_ids]
    with ThreadPoolExecutor(n_usable_cores(), thread_name_prefix="hash") as pool:
        batches = (paths[start : start + _BATCH] for start in range(0, len(paths), _BATCH))
        hashes = [digest for batch in batches for digest in pool.map(_hash_file, batch)]
    return np.frombuffer(b"".join(hashes), np.uint8).reshape(-1, HASH_BYTES)


def _hash_file(path: Path) -> bytes:
    try:
        return hashlib.sha256(read_image_file(path)).digest()
    except (OSError, UnreadableImageError):
        return _NO_HASH


def digest_of_files(file_hashes: Mapping[str, str]) -> str:
    """Return the SHA-256 of the ids and contents of images, in their order, as hexadecimal digits.

    Args:
        file_hashes: Hash of each image, as hexadecimal digits, by its id.
    """
    return hashlib.sha256(os.fsencode("\0".join(part for pair in file_hashes.items() for part in pair))).hexdigest()
