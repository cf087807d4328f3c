"""Where figures come from: the versions, the code and the machine of each search on a study."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from automl_cxr.hardware import describe_machine
from automl_cxr.version import __version__

_PACKAGE = Path(__file__).resolve().parents[1]
_DECIDING = (  # packages whose version may change a proposal, a pixel, a weight or a score
    "deap",
    "h5py",
    "jax",
    "jaxlib",
    "keras",
    "keras-tuner",
    "numpy",
    "optuna",
    "pandas",
    "pillow",
    "pydicom",
    "ray",
    "scikit-learn",
    "scipy",
    "tensorflow",
    "torch",
)
_GIT_SECONDS = 10


@dataclass(frozen=True, kw_only=True)
class SearchEntry:
    """What the study keeps of one search on it.

    Attributes:
        driver: Name of the search, which its trials carry.
        when: Local time at which it began, for people; nothing is decided by it.
        position: Number of searches that had begun before it.
        command: What was typed; "" from Python.
        sampler: Who proposed.
        budget: When it was to end, as the fields of ``Budget``.
        full_trials: Trials that the sampler planned to run to the last epoch, None where it plans no number.
        versions: Of Python, the backend's name, and the packages that decide numbers.
        code: ``version`` of this package, ``digest`` of its files, and ``commit`` where it runs from a git checkout, which ends
            in "-dirty" when a file of the checkout was changed.
        machine: Of the driver; a trial's own is its attribute ``worker``.
    """

    driver: str
    when: str
    position: int
    command: str
    sampler: str
    budget: Mapping[str, Any]
    full_trials: int | None
    versions: Mapping[str, str]
    code: Mapping[str, str]
    machine: Mapping[str, Any]

    @classmethod
    def begin(
        cls,
        driver: str,
        *,
        position: int,
        command: str,
        sampler: str,
        budget: Mapping[str, Any],
        full_trials: int | None,
    ) -> SearchEntry:
        """Describe a search that begins now, in this process."""
        return cls(
            driver=driver,
            when=time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            position=position,
            command=command,
            sampler=sampler,
            budget=budget,
            full_trials=full_trials,
            versions=describe_versions(),
            code=describe_code(),
            machine=describe_machine(),
        )


def describe_versions() -> dict[str, str]:
    """Tell the versions of Python and of the installed packages that decide numbers, and Keras' backend by name."""
    versions = {"python": platform.python_version(), "backend": os.environ.get("KERAS_BACKEND", "tensorflow")}
    for package in _DECIDING:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def describe_code() -> dict[str, str]:
    """Tell which code of this package runs: equal digests mean equal files, whatever the version says."""
    commit = _describe_commit(_PACKAGE.parent)
    return {"version": __version__, "digest": _digest_files(_PACKAGE)} | ({} if commit is None else {"commit": commit})


def _digest_files(folder: Path) -> str:
    hasher = hashlib.sha256()
    for file in sorted(folder.rglob("*.py")):
        hasher.update(f"{file.relative_to(folder).as_posix()}\0".encode())
        hasher.update(hashlib.sha256(file.read_bytes()).digest())
    return hasher.hexdigest()


def _describe_commit(checkout: Path) -> str | None:
    """Ask git for the commit of a checkout; None where there is no git or no checkout."""
    git = shutil.which("git")
    if git is None or not (checkout / ".git").exists():
        return None
    words = [git, "-C", str(checkout), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        told = subprocess.run(words, check=True, capture_output=True, text=True, timeout=_GIT_SECONDS)  # noqa: S603 - no words of a user
    except (OSError, subprocess.SubprocessError):
        return None
    return told.stdout.strip() or None
