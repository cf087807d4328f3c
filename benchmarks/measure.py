"""What the benchmarks measure by: a command's wall and CPU time, and the machine that it ran on."""

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

_LOOK_SECONDS = 0.2
_PACKAGES = ("keras", "tensorflow", "optuna", "ray", "keras-tuner")


@dataclass(frozen=True)
class Measured:
    """What a command printed and took.

    Attributes:
        last_line: The last line of its standard output.
        errors: The end of its standard error.
        code: Its exit code.
        seconds: Wall seconds from its start to its end.
        cpu_seconds: CPU seconds of it and all its descendants, which other work on the machine hardly changes. A descendant
            counts as last seen, a fifth of a second before its end or less.
    """

    last_line: str
    errors: str
    code: int
    seconds: float
    cpu_seconds: float


def measure(words: list[str]) -> Measured:
    """Run a command to its end."""
    started = time.perf_counter()
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    seen: dict[int, float] = {}
    watch = threading.Thread(target=_watch, args=(process, seen), daemon=True)
    watch.start()
    output, errors = process.communicate()
    seconds = time.perf_counter() - started
    watch.join()
    last_line = output.strip().rpartition("\n")[2]
    return Measured(last_line, errors[-2_000:], process.returncode, seconds, sum(seen.values()))


def _watch(process: subprocess.Popen[str], seen: dict[int, float]) -> None:
    """Note the CPU seconds of a process and its descendants, by their ids, as long as it lives."""
    root = psutil.Process(process.pid)
    while process.poll() is None:
        with contextlib.suppress(psutil.Error):  # it has just ended
            for member in [root, *root.children(recursive=True)]:
                with contextlib.suppress(psutil.Error):
                    times = member.cpu_times()
                    seen[member.pid] = times.user + times.system
        time.sleep(_LOOK_SECONDS)


def machine_facts() -> str:
    """Describe the machine in a line: cores, memory, load by others, versions."""
    memory = psutil.virtual_memory().total / 2**30
    versions = ", ".join(f"{package} {importlib.metadata.version(package)}" for package in _PACKAGES)
    return (
        f"{os.cpu_count()} cores ({platform.machine()}), {memory:.0f} GiB, load {os.getloadavg()[0]:.1f} before the start, "
        f"Python {platform.python_version()}, {versions}."
    )
