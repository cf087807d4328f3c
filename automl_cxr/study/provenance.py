"""Provenance of results: the package versions, the code and the machine of each search."""

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
from automl_cxr.io import sha256_of_file
from automl_cxr.version import __version__

_PACKAGE_FOLDER = Path(__file__).resolve().parents[1]
_PACKAGES = (  # packages whose versions may affect proposals, pixels, weights or scores
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
    """The provenance of one search on a study.

    Attributes:
        driver: Name of the driver, which is also recorded on its trials.
        when: Local start time, for information only.
        position: Number of earlier searches on the study.
        command: Command line; "" if the search was started from Python.
        sampler: Name of the sampler.
        budget: Fields of the ``Budget``.
        full_trials: Number of trials that the sampler plans to run to the last epoch; None if the number is not fixed.
        versions: Versions of Python and of the packages that affect results, and the name of the Keras backend.
        code: ``version`` of this package, ``digest`` of its files, and, in a git checkout, the ``commit``, which ends in
            "-dirty" if a file of the checkout is modified.
        machine: Hardware of the driver. The hardware of a trial is its attribute ``worker``.
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
        """Return the provenance of a search that starts now in this process."""
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
    """Return the versions of Python and of the installed packages that affect results, and the name of the Keras backend."""
    versions = {"python": platform.python_version(), "backend": os.environ.get("KERAS_BACKEND", "tensorflow")}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def describe_code() -> dict[str, str]:
    """Return the version, digest and commit of this package. Equal digests mean equal files."""
    commit = _describe_commit(_PACKAGE_FOLDER.parent)
    return {"version": __version__, "digest": _digest_files(_PACKAGE_FOLDER)} | ({} if commit is None else {"commit": commit})


def _digest_files(folder: Path) -> str:
    hasher = hashlib.sha256()
    for file in sorted(folder.rglob("*.py")):
        hasher.update(f"{file.relative_to(folder).as_posix()}\0".encode())
        hasher.update(bytes.fromhex(sha256_of_file(file)))
    return hasher.hexdigest()


def _describe_commit(checkout: Path) -> str | None:
    """Return the commit of a git checkout; None without git or a checkout."""
    git = shutil.which("git")
    if git is None or not (checkout / ".git").exists():
        return None
    command = [git, "-C", str(checkout), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        result = subprocess.run(command, check=True, capture_output=True, text=True, timeout=_GIT_SECONDS)  # noqa: S603 - no user input
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip() or None
