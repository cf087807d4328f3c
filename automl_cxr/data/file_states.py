"""Hashes of the status of files, which show that a file has not changed without reading it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from automl_cxr.data.arrays import split_row
from automl_cxr.data.image_store import STATE_BYTES


def hash_states(root: Path, image_ids: Sequence[str]) -> list[bytes]:
    """Hash the path and the status of each file, 16 bytes; the hash changes whenever the content of the file changes.

    The change time is included, because copying and unpacking tools set the modification time arbitrarily.

    Args:
        root: Folder that the ids are relative to.
        image_ids: Paths of the images or rows of arrays.
    """
    folder = os.path.abspath(root)
    statuses: dict[str, str] = {}  # of an array, whose rows are images, once
    states = []
    for image_id in image_ids:
        file = split_row(os.path.join(folder, image_id))[0]
        if file not in statuses:
            statuses[file] = _describe_status(file)
        identity = os.fsencode(f"{folder}\0{image_id}\0{statuses[file]}")
        states.append(hashlib.blake2b(identity, digest_size=STATE_BYTES).digest())
    return states


def _describe_status(file: str) -> str:
    try:
        status = os.stat(file)
    except OSError as error:
        return f"error {error.errno}"
    return f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"
