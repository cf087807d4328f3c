"""The folder for data that can be computed or transferred again."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

CACHE_VARIABLE = "AUTOML_CXR_CACHE"


def cache_folder() -> Path:
    """Return the folder for data that can be recomputed: ``AUTOML_CXR_CACHE``, else the platform's cache folder."""
    chosen = os.environ.get(CACHE_VARIABLE)
    return Path(chosen).expanduser() if chosen else platformdirs.user_cache_path("automl_cxr")


def compiled_folder() -> Path:
    """Return the folder, in the cache folder, for functions that the backends have compiled."""
    return cache_folder().absolute() / "compiled"
