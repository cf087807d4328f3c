"""The memory that is available for training."""

from __future__ import annotations

import functools
import os
from pathlib import Path

from automl_cxr.hardware import MEMORY_LIMIT, nvidia_memory_bytes
from automl_cxr.model.devices import has_gpu, n_assigned_gpus


def available_memory_bytes() -> int | None:
    """Return the bytes that this process may use for training: its share of the GPU if there is one, else of the machine.

    Returns:
        Number of bytes; None if it cannot be determined.
    """
    if has_gpu():
        total = _gpu_memory()
        return None if total is None else int(total * min(1.0, n_assigned_gpus()))
    limit = os.environ.get(MEMORY_LIMIT)
    return int(limit) if limit else _host_memory()


@functools.cache
def _gpu_memory() -> int | None:
    """Return the memory of the first visible NVIDIA GPU."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0] or "0"
    return next(iter(nvidia_memory_bytes(visible)), None)


def _host_memory() -> int | None:
    """Return the memory of the machine, or the limit of this process's control groups if that is lower."""
    try:
        physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
    return min([physical, *_control_group_limits(Path("/sys/fs/cgroup"), Path("/proc/self/cgroup"))])


def _control_group_limits(root: Path, membership: Path) -> list[int]:
    """Read the memory limits of a process's control groups and of their parents, of cgroup versions 1 and 2."""
    files = [root / "memory.max", root / "memory" / "memory.limit_in_bytes"]
    try:
        groups = [line.split(":", 2)[1:] for line in membership.read_text(encoding="utf-8").splitlines()]
    except OSError:
        groups = []
    for controllers, path in groups:
        relative = Path(path.lstrip("/"))
        if controllers == "":
            files += [root / group / "memory.max" for group in (relative, *relative.parents)]
        elif "memory" in controllers.split(","):
            files += [root / "memory" / group / "memory.limit_in_bytes" for group in (relative, *relative.parents)]
    return [limit for file in files if (limit := _read_limit(file)) is not None]


def _read_limit(file: Path) -> int | None:
    try:
        return int(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # the group does not exist, or its limit is "max"
        return None
