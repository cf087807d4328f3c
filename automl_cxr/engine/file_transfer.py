"""Files that an objective reads, brought by Ray's object store to machines that do not see them.

On a machine that shares the driver's disk nothing is moved. Elsewhere each file is written once, for all workers there.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import ray
import ray.util.client
from filelock import FileLock

from automl_cxr.engine.protocol import Facts, Objective, Proposal, Report

_BLOCK = 64 * 2**20  # bytes of an object: the store holds some at a time, whatever the file's size


@runtime_checkable
class Portable(Protocol):
    """An objective that says which files it reads, and can be told to read them elsewhere."""

    @property
    def inputs(self) -> tuple[Path, ...]:
        """Files that it reads; a path stands for one content for ever."""

    def __call__(self, proposal: Proposal) -> Generator[Report, None, Facts]:
        """Run a trial."""

    def reading(self, places: Mapping[Path, Path]) -> Objective:
        """Give the same objective that reads some of its inputs elsewhere."""


Parcels = Mapping[Path, tuple[Any, ...]]
"""Blocks of each file, in order, as Ray's references to objects."""


def pack(objective: Objective) -> Parcels:
    """Put the files of an objective into the object store, if the cluster has a machine that may not see them."""
    is_alone = sum(node["Alive"] for node in ray.nodes()) < 2 and not ray.util.client.ray.is_connected()
    if is_alone or not isinstance(objective, Portable):
        return {}
    return {path: tuple(ray.put(block) for block in _blocks(path)) for path in objective.inputs}


def unpack(objective: Objective, parcels: Parcels) -> Objective:
    """Give the objective on this machine: itself where it sees its files, else one that reads the copies that are made here."""
    if not isinstance(objective, Portable):
        return objective
    places = {path: _copy(path, parcels[path]) for path in objective.inputs if path in parcels and not path.exists()}
    return objective.reading(places) if places else objective


def _blocks(path: Path) -> list[np.ndarray]:
    content = np.memmap(path, np.uint8, "r")
    return [content[first : first + _BLOCK] for first in range(0, len(content), _BLOCK)]


def _copy(path: Path, blocks: tuple[Any, ...]) -> Path:
    """Write a file where all workers of this machine find it, this search's and later ones', unless it is there."""
    folder = Path(tempfile.gettempdir()) / "automl-cxr-inputs"
    folder.mkdir(mode=0o700, exist_ok=True)
    target = folder / f"{hashlib.sha256(str(path).encode()).hexdigest()[:32]}{path.suffix}"
    with FileLock(target.with_suffix(".lock")):
        if not target.exists():
            partial = target.with_suffix(".partial")
            with partial.open("wb") as file:
                for block in blocks:
                    file.write(memoryview(ray.get(block)))
            partial.replace(target)
    return target
