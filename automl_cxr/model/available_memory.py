"""How much memory there is to train in."""

from __future__ import annotations

import functools
import os
import subprocess
from pathlib import Path

from automl_cxr.hardware import MEMORY_LIMIT
from automl_cxr.model.devices import gpus_given, has_gpu


def available_memory_bytes() -> int | None:
    """Give the bytes that this process may train in: its share of the GPU where there is one, else of the machine.

    Returns:
        Bytes; None where the system does not tell.
    """
    if has_gpu():
        total = _gpu_memory()
        return None if total is None else int(total * min(1.0, gpus_given()))
    limit = os.environ.get(MEMORY_LIMIT)
    return int(limit) if limit else _host_memory()


@functools.cache
def _gpu_memory() -> int | None:
    """Ask the driver for the memory of the first visible GPU; of NVIDIA's, as Keras' backends tell it in three ways."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0] or "0"
    command = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits", f"--id={visible}"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout  # noqa: S603
        return int(told.split()[0]) * 2**20
    except (OSError, ValueError, IndexError, subprocess.SubprocessError):
        return None


def _host_memory() -> int | None:
    """Give the machine's memory, or what the control groups of this process leave of it."""
    try:
        physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
    return min([physical, *_control_group_limits(Path("/sys/fs/cgroup"), Path("/proc/self/cgroup"))])


def _control_group_limits(root: Path, membership: Path) -> list[int]:
    """Read the limits of a process's control groups and of those around them, of both versions of the kernel's interface."""
    files = [root / "memory.max", root / "memory" / "memory.limit_in_bytes"]
    try:
        groups = [line.split(":", 2)[1:] for line in membership.read_text(encoding="utf-8").splitlines()]
    except OSError:
        groups = []
    for controllers, path in groups:
        place = Path(path.lstrip("/"))
        if controllers == "":
            files += [root / group / "memory.max" for group in (place, *place.parents)]
        elif "memory" in controllers.split(","):
            files += [root / "memory" / group / "memory.limit_in_bytes" for group in (place, *place.parents)]
    return [limit for file in files if (limit := _read_limit(file)) is not None]


def _read_limit(file: Path) -> int | None:
    try:
        return int(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # no such group, or "max"
        return None
