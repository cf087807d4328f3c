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


_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}


def parse_bytes(text: str) -> int:
    """Read a size such as "500MB", "6GB", "1.5GiB" or a bare number, in bytes.

    Raises:
        ValueError: It is none, or 0.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?i?)b?", text.strip().lower())
    if match is None or match[2] not in _UNITS:
        raise ValueError(f"a size is written like 500MB, 6GB or 1.5GiB; received {text!r}.")
    n_bytes = int(float(match[1]) * _UNITS[match[2]])
    if n_bytes <= 0:
        raise ValueError(f"a size must be above 0; received {text!r}.")
    return n_bytes


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
