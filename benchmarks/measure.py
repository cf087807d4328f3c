"""Measurement of the wall time and CPU time of a command, and a description of the machine."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import subprocess
import threading
import time
from dataclasses import dataclass

import psutil

_SAMPLING_SECONDS = 0.2
_PACKAGES = ("keras", "tensorflow", "optuna", "ray", "keras-tuner")


@dataclass(frozen=True)
class Measured:
    """The output and the cost of a command.

    Attributes:
        last_line: The last line of its standard output.
        errors: The end of its standard error.
        code: Its exit code.
        seconds: Wall time in seconds.
        cpu_seconds: CPU time in seconds of the command and all its descendants. Other load on the machine changes it
            little. Processes are sampled every 0.2 s, so up to 0.2 s of each descendant is missing.
    """

    last_line: str
    errors: str
    code: int
    seconds: float
    cpu_seconds: float


def measure(command_line: list[str]) -> Measured:
    """Run a command and wait for its end."""
    started = time.perf_counter()
    process = subprocess.Popen(command_line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    cpu_seconds: dict[int, float] = {}
    sampler = threading.Thread(target=_sample_cpu_seconds, args=(process, cpu_seconds), daemon=True)
    sampler.start()
    output, errors = process.communicate()
    seconds = time.perf_counter() - started
    sampler.join()
    last_line = output.strip().rpartition("\n")[2]
    return Measured(last_line, errors[-2_000:], process.returncode, seconds, sum(cpu_seconds.values()))


def _sample_cpu_seconds(process: subprocess.Popen[str], cpu_seconds: dict[int, float]) -> None:
    """Record the CPU seconds of a process and its descendants, by process id, until the process ends."""
    root = psutil.Process(process.pid)
    while process.poll() is None:
        with contextlib.suppress(psutil.Error):  # a process has just ended
            for member in [root, *root.children(recursive=True)]:
                with contextlib.suppress(psutil.Error):
                    times = member.cpu_times()
                    cpu_seconds[member.pid] = times.user + times.system
        time.sleep(_SAMPLING_SECONDS)


def machine_facts() -> str:
    """Describe the machine in one line: cores, memory, load, versions."""
    memory = psutil.virtual_memory().total / 2**30
    versions = ", ".join(f"{package} {importlib.metadata.version(package)}" for package in _PACKAGES)
    return (
        f"{os.cpu_count()} cores ({platform.machine()}), {memory:.0f} GiB, load {os.getloadavg()[0]:.1f} before the start, "
        f"Python {platform.python_version()}, {versions}."
    )
