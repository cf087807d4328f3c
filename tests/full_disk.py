"""A disk that becomes full: the operating system refuses to write files beyond a size."""

import contextlib
import resource


@contextlib.contextmanager
def files_limited_to(n_bytes):
    """Refuse writes of this process beyond a file size, as a full disk does (EFBIG). Python ignores the signal SIGXFSZ."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def list_files(folder):
    """Return the names and contents of all files below a folder, hidden ones included."""
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
