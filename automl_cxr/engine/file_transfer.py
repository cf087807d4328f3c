"""Transfers the files that an objective reads to the other machines of a cluster, when they need them.

A machine that shares the driver's disk reads the original files. On others, each file is copied once for all workers
(``file_copies.py``). The blocks of a file are read on the driver's machine when another machine requests them, so a machine may
join during the search. A driver that is connected through a Ray client is on no machine of the cluster; it puts the blocks into
the object store at the start.
"""

from __future__ import annotations

import functools
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import ray
import ray.util.client
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from automl_cxr.engine.protocol import Facts, Objective, Proposal, Report
from automl_cxr.file_copies import FileCopies
from automl_cxr.io import sha256_of_file

_BLOCK = 64 * 2**20  # bytes of an object; with blocks, the store does not need space for a whole file


@runtime_checkable
class Portable(Protocol):
    """An objective that declares which files it reads, and can read them from other paths."""

    @property
    def inputs(self) -> tuple[Path, ...]:
        """Files that it reads. The contents of a path must never change."""

    def __call__(self, proposal: Proposal) -> Generator[Report, None, Facts]:
        """Run a trial."""

    def as_one_file(self, path: Path) -> Path:
        """Return a file with the content of an input that can be copied alone. It is called where the input exists."""

    def reading(self, places: Mapping[Path, Path]) -> Objective:
        """Return the same objective that reads some of its inputs from other paths."""


@dataclass(frozen=True)
class CopiedFile:
    """A file that is copied to another machine.

    Attributes:
        path: The file on the driver's machine.
        n_bytes: Its size in bytes.
        digest: SHA-256 digest of its content.
    """

    path: Path
    n_bytes: int
    digest: str


@dataclass(frozen=True)
class FileSource:
    """Where another machine gets an input from.

    Attributes:
        n_bytes: Size of the input in bytes.
        block: Size of a block in bytes.
        node: Ray's id of the driver's machine; None if ``blocks`` are given.
        copied: The file in ``blocks``; None if a node is given.
        blocks: Ray's references of the blocks, in order.
    """

    n_bytes: int
    block: int
    node: str | None = None
    copied: CopiedFile | None = None
    blocks: tuple[Any, ...] = ()


FileBlocks = Mapping[Path, FileSource]
"""The source of each file."""


def pack(objective: Objective) -> FileBlocks:
    """Return the sources of the files of an objective, for ``unpack`` on any machine of the cluster."""
    if not isinstance(objective, Portable):
        return {}
    if ray.util.client.ray.is_connected():
        return {path: _put(objective, path) for path in objective.inputs}
    node = ray.get_runtime_context().get_node_id()
    return {path: FileSource(path.stat().st_size, _BLOCK, node) for path in objective.inputs}


def unpack(objective: Objective, file_blocks: FileBlocks) -> Objective:
    """Return the objective itself if its files exist on this machine, else one that reads copies of them.

    Raises:
        OSError: A copy cannot be written, or differs from the original.
    """
    if not isinstance(objective, Portable):
        return objective
    sources = {path: file_blocks[path] for path in objective.inputs if path in file_blocks}
    copies = {path: _copy(objective, path, source) for path, source in sources.items() if not _exists(path, source)}
    return objective.reading(copies) if copies else objective


def _exists(path: Path, source: FileSource) -> bool:
    return path.is_file() and path.stat().st_size == source.n_bytes


def _copy(objective: Portable, path: Path, source: FileSource) -> Path:
    if source.copied is not None:
        copied, references = source.copied, iter(source.blocks)
    else:
        at_driver = {"num_cpus": 0, "scheduling_strategy": NodeAffinitySchedulingStrategy(source.node, soft=False)}
        read, prepare = (ray.remote(function).options(**at_driver) for function in (read_block, copied_file))
        copied = ray.get(prepare.remote(objective, path))
        references = (read.remote(copied.path, first, source.block) for first in range(0, copied.n_bytes, source.block))

    def read_blocks() -> Iterator[memoryview]:
        return (memoryview(ray.get(reference)) for reference in references)

    return FileCopies().open(copied.digest, suffix=copied.path.suffix, n_bytes=copied.n_bytes, read=read_blocks)


def _put(objective: Portable, path: Path) -> FileSource:
    copied = copied_file(objective, path)
    blocks = tuple(ray.put(read_block(copied.path, first, _BLOCK)) for first in range(0, copied.n_bytes, _BLOCK))
    return FileSource(path.stat().st_size, _BLOCK, copied=copied, blocks=blocks)


def copied_file(objective: Portable, path: Path) -> CopiedFile:
    """Return the file with the content of an input that is copied. It is called on the driver's machine."""
    file = objective.as_one_file(path)
    return CopiedFile(file, file.stat().st_size, digest_of_file(file))


def read_block(path: Path, first: int, n_bytes: int) -> np.ndarray:
    """Read a block of a file as uint8 (n,), at most ``n_bytes`` from byte ``first``."""
    return np.memmap(path, np.uint8, "r")[first : first + n_bytes]


def digest_of_file(path: Path) -> str:
    """Return the SHA-256 digest of a file, which is read once in each process."""
    status = path.stat()
    return _digest_unchanged(path, status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=64)
def _digest_unchanged(path: Path, _n_bytes: int, _changed: int) -> str:
    return sha256_of_file(path)
