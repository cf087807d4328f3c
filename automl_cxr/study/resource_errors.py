"""Conversion of memory and disk errors of all libraries into the errors of this package."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from automl_cxr.errors import DiskFullError, OutOfMemoryError, TrialError
from automl_cxr.io import is_disk_full

# TensorFlow, JAX and PyTorch have no common exception class for insufficient memory.
_MEMORY_CLASSES = ("ResourceExhaustedError", "OutOfMemoryError")
_MEMORY_MESSAGES = ("RESOURCE_EXHAUSTED", "out of memory", "OOM when allocating", "can't allocate memory")


@contextlib.contextmanager
def explained_resource_errors() -> Iterator[None]:
    """Convert a library's memory error into OutOfMemoryError, and the error of a full disk into DiskFullError."""
    try:
        yield
    except TrialError:
        raise
    except Exception as error:
        if is_disk_full(error):
            where = f" at {error.filename}" if isinstance(error, OSError) and error.filename else ""
            raise DiskFullError(f"The disk is full{where}. Free disk space there; the trial is run again.") from error
        if not _is_memory_error(error):
            raise
        raise OutOfMemoryError(f"The memory is insufficient for this network and batch size ({_first_line(error)}).") from error


def _is_memory_error(error: Exception) -> bool:
    if isinstance(error, MemoryError):
        return True
    package = type(error).__module__.partition(".")[0]
    is_from_a_backend = isinstance(error, RuntimeError) or package in ("tensorflow", "jaxlib", "jax")
    has_memory_class = type(error).__name__ in _MEMORY_CLASSES
    return has_memory_class or (is_from_a_backend and any(text in str(error) for text in _MEMORY_MESSAGES))


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
