"""Messages for errors of the operating system and of storages that no function has converted into an error of this package."""

from __future__ import annotations

import errno
import sys

from automl_cxr.io import DISK_FULL


def describe_unexpected(error: Exception) -> str:
    """Return the message of an unexpected error in one line, with a remedy if the disk is full or a storage has failed."""
    if isinstance(error, OSError) and error.errno is not None:
        where = "" if error.filename is None else f" {error.filename}"
        if error.errno in DISK_FULL:
            return f"There is no space to write{where} ({error.strerror}). Free disk space, then run the same command again."
        if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
            return f"Cannot access{where} ({error.strerror}). Change the permissions, or choose another location."
    urls = sys.modules.get("automl_cxr.storage.urls")  # an error of a storage cannot occur before this module is imported
    if urls is not None and urls.is_storage_error(error):
        return str(urls.failed_storage(error))
    return " ".join(f"{type(error).__name__}: {error}".split())
