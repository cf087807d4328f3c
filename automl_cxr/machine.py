"""The machine that this process runs on, as records tell it: what is cheap to know without a library."""

from __future__ import annotations

import contextlib
import os
import platform
import re
from pathlib import Path
from typing import Any

# What a search tells its workers that they may take: GPUs, of which a part is a share of one, and bytes of host memory.
GPUS, MEMORY_LIMIT = "AUTOML_CXR_GPUS", "AUTOML_CXR_MEMORY_LIMIT"

_NVIDIA = Path("/proc/driver/nvidia/gpus")


def describe_machine() -> dict[str, Any]:
    """Name the host, its processor, the cores that this process may use, its memory in bytes and its NVIDIA GPUs."""
    return {
        "host": platform.node(),
        "system": platform.platform(),
        "cpu": cpu_model(),
        "cores": n_usable_cores(),
        "memory_bytes": _memory_bytes(),
        "gpus": _nvidia_gpus(),
    }


def cpu_model() -> str:
    """Name the processor; which instructions it has decides the last digits of a training."""
    with contextlib.suppress(OSError):
        told = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
        if told:
            return told[1].strip()
    return platform.processor() or platform.machine()


def n_usable_cores() -> int:
    """Count the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # a system that does not tell
        return None


def _nvidia_gpus() -> list[str]:
    """List the models that the NVIDIA driver knows, whether or not a library can use them."""
    models = []
    with contextlib.suppress(OSError):
        for told in sorted(_NVIDIA.glob("*/information")):
            found = re.search(r"^Model:\s*(.+)$", told.read_text(encoding="utf-8"), re.MULTILINE)
            models.append(found[1].strip() if found else "unknown")
    return models
