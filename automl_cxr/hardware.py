"""The hardware of the machine that runs this process, read without importing large libraries."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

# Environment variables for workers: the number of GPUs (0.5 is half of one GPU) and the limit of host memory in bytes.
GPUS, MEMORY_LIMIT = "AUTOML_CXR_GPUS", "AUTOML_CXR_MEMORY_LIMIT"

_NVIDIA = Path("/proc/driver/nvidia/gpus")


def describe_machine() -> dict[str, Any]:
    """Return the host name, operating system, processor, usable cores, memory in bytes and NVIDIA GPUs."""
    return {
        "host": platform.node(),
        "system": platform.platform(),
        "cpu": cpu_model(),
        "cores": n_usable_cores(),
        "memory_bytes": _memory_bytes(),
        "gpus": nvidia_gpus(),
    }


def cpu_model() -> str:
    """Return the name of the processor. Its instruction set affects the last digits of training results."""
    with contextlib.suppress(OSError):
        match = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
        if match:
            return match[1].strip()
    return platform.processor() or platform.machine()


def n_usable_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}


def parse_bytes(text: str) -> int:
    """Return the number of bytes of a size such as "500MB", "6GB", "1.5GiB" or "1000000".

    Raises:
        ValueError: The text is not a size, or the size is 0.
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
    except (AttributeError, ValueError, OSError):  # not available on this operating system
        return None


def nvidia_gpus() -> list[str]:
    """Return the models of the GPUs that the NVIDIA driver lists, whether or not a library can use them."""
    models = []
    with contextlib.suppress(OSError):
        for file in sorted(_NVIDIA.glob("*/information")):
            found = re.search(r"^Model:\s*(.+)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            models.append(found[1].strip() if found else "unknown")
    return models


def nvidia_memory_bytes(number: str | None = None) -> list[int]:
    """Return the memory of each NVIDIA GPU in bytes, from its driver; an empty list if there is none or it is unknown.

    Keras has no function for it, and each of its backends has a different one.

    Args:
        number: Number or identifier of one GPU. [default: all GPUs]
    """
    command = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        output = subprocess.run(  # noqa: S603 - a fixed program
            command if number is None else [*command, f"--id={number}"], capture_output=True, text=True, timeout=30, check=True
        ).stdout
        return [int(line) * 2**20 for line in output.split()]
    except (OSError, ValueError, subprocess.SubprocessError):
        return []
