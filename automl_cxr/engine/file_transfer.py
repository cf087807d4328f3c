"""Transfers the files that an objective reads to the other machines of a cluster, through Ray's object store.

A machine that shares the driver's disk reads the original files. On others, each file is written once for all workers.
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
from automl_cxr.io import atomic_write

_BLOCK = 64 * 2**20  # bytes of an object; with blocks, the store does not need space for a whole file


@runtime_checkable
class Portable(Protocol):
    """An objective that declares which files it reads, and can read them from other paths."""

    @property
    def inputs(self) -> tuple[Path, ...]:
        """Files that it reads. The contents of a path must never change."""

    def __call__(self, proposal: Proposal) -> Generator[Report, None, Facts]:
        """Run a trial."""

    def reading(self, places: Mapping[Path, Path]) -> Objective:
        """Return the same objective that reads some of its inputs from other paths."""


FileBlocks = Mapping[Path, tuple[Any, ...]]
"""For each file its blocks in order, as Ray's object references."""


def pack(objective: Objective) -> FileBlocks:
    """Put the files of an objective into the object store, if the cluster has other machines."""
    is_single_machine = sum(node["Alive"] for node in ray.nodes()) < 2 and not ray.util.client.ray.is_connected()
    if is_single_machine or not isinstance(objective, Portable):
        return {}
    return {path: tuple(ray.put(block) for block in _blocks(path)) for path in objective.inputs}


def unpack(objective: Objective, file_blocks: FileBlocks) -> Objective:
    """Return the objective itself if its files exist on this machine, else one that reads copies of them."""
    if not isinstance(objective, Portable):
        return objective
    copies = {path: _copy(path, file_blocks[path]) for path in objective.inputs if path in file_blocks and not path.exists()}
    return objective.reading(copies) if copies else objective


def _blocks(path: Path) -> list[np.ndarray]:
    content = np.memmap(path, np.uint8, "r")
    return [content[first : first + _BLOCK] for first in range(0, len(content), _BLOCK)]


def _copy(path: Path, blocks: tuple[Any, ...]) -> Path:
    """Write a file to a folder that all workers of this machine share, now and in later searches, unless it exists."""
    folder = Path(tempfile.gettempdir()) / "automl-cxr-inputs"
    folder.mkdir(mode=0o700, exist_ok=True)
    target = folder / f"{hashlib.sha256(str(path).encode()).hexdigest()[:32]}{path.suffix}"
    with FileLock(target.with_suffix(".lock")):
        if not target.exists():
            with atomic_write(target) as file:
                for block in blocks:
                    file.write(memoryview(ray.get(block)))
    return target
