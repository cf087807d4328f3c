"""The persistent cache of compiled functions: XLA reuses what an earlier process has compiled."""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import keras

from automl_cxr.cache_folder import compiled_folder
from automl_cxr.hardware import cpu_model, nvidia_gpus

_LARGEST_BYTES = 2**30  # of each backend; a compiled training step has up to some megabytes


def use_compilation_cache() -> None:
    """Let Keras' backend store compiled functions in the cache folder and load them from there.

    With PyTorch nothing is done, because networks are not compiled. Call it before anything is compiled. Functions are shared
    by processes with the same processor, GPUs and version of the backend only, because TensorFlow does not check whether it can
    run what it loads. Files that were not used for the longest time are removed first if the cache has more than a gigabyte. If
    the folder cannot be written, there is no cache.
    """
    backend = keras.backend.backend()
    if backend not in _CONFIGURE:
        return
    suitable = (cpu_model(), *nvidia_gpus(), sys.modules[backend].__version__)
    folder = compiled_folder() / f"{backend}-{hashlib.sha256(repr(suitable).encode()).hexdigest()[:16]}"
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        _remove_oldest(folder, _LARGEST_BYTES)
        _CONFIGURE[backend](folder)


def _configure_tensorflow(folder: Path) -> None:
    flag = f"--tf_xla_persistent_cache_directory='{folder}'"
    flags = os.environ.get("TF_XLA_FLAGS", "")
    if "--tf_xla_persistent_cache_directory" not in flags:
        os.environ["TF_XLA_FLAGS"] = f"{flags} {flag}".strip()


def _configure_jax(folder: Path) -> None:
    import jax

    if jax.config.jax_compilation_cache_dir is None:
        jax.config.update("jax_compilation_cache_dir", str(folder))


_CONFIGURE: Mapping[str, Callable[[Path], None]] = {
    "jax": _configure_jax,
    "tensorflow": _configure_tensorflow,
}


def _remove_oldest(folder: Path, largest_bytes: int) -> None:
    """Remove the files that were accessed first until the others have at most ``largest_bytes`` together."""
    files = {path: path.stat() for path in folder.rglob("*") if path.is_file()}
    excess = sum(status.st_size for status in files.values()) - largest_bytes
    for path, status in sorted(files.items(), key=lambda item: max(item[1].st_atime, item[1].st_mtime)):
        if excess <= 0:
            break
        path.unlink(missing_ok=True)
        excess -= status.st_size
