"""What a trial may run short of, memory or disk, told as an error of ours whichever library noticed it."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator

from automl_cxr.errors import DiskFullError, OutOfMemoryError, TrialError

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
# Classes and words by which TensorFlow, JAX and PyTorch tell it; neither has a class that another one knows.
_MEMORY_CLASSES = ("ResourceExhaustedError", "OutOfMemoryError")
_MEMORY_WORDS = ("RESOURCE_EXHAUSTED", "out of memory", "OOM when allocating", "can't allocate memory")


@contextlib.contextmanager
def explained_resource_errors() -> Iterator[None]:
    """Convert the errors of a library that ran out of memory, and of a full disk, into OutOfMemoryError and DiskFullError."""
    try:
        yield
    except TrialError:
        raise
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        where = f" at {error.filename}" if error.filename else ""
        raise DiskFullError(f"The disk is full{where}. Make room there; the trial is run again.") from error
    except Exception as error:
        if not _is_memory_error(error):
            raise
        raise OutOfMemoryError(f"There is too little memory for this network and batch ({_first_line(error)}).") from error


def _is_memory_error(error: Exception) -> bool:
    if isinstance(error, MemoryError):
        return True
    is_of_a_library = isinstance(error, RuntimeError) or type(error).__module__.split(".")[0] in ("tensorflow", "jaxlib", "jax")
    named = type(error).__name__ in _MEMORY_CLASSES
    return named or (is_of_a_library and any(words in str(error) for words in _MEMORY_WORDS))


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
