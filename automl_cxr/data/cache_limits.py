"""Limits of the sizes of caches."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from automl_cxr.errors import UsageError
from automl_cxr.hardware import parse_bytes


def cache_limit(folder: Path, *, variable: str, share: float, used: int) -> int:
    """Return the largest size of a cache in bytes.

    Args:
        folder: Folder of the cache, which may not exist yet.
        variable: Environment variable with a size, such as "20GB".
        share: Share of the space that is free on the disk or used by the cache, if the variable is not set.
        used: Size of the cache in bytes.

    Raises:
        UsageError: The value of the variable is not a size.
    """
    limit = limit_from_environment(variable)
    if limit is not None:
        return limit
    existing = next(parent for parent in (folder, *folder.parents) if parent.is_dir())
    return int(share * (shutil.disk_usage(existing).free + used))


def limit_from_environment(variable: str) -> int | None:
    """Return the size in an environment variable in bytes; None if it is not set.

    Raises:
        UsageError: The value is not a size.
    """
    text = os.environ.get(variable)
    if text is None:
        return None
    try:
        return parse_bytes(text)
    except ValueError as error:
        raise UsageError(f"{variable}: {error}") from error
