"""The worker processes that a search is expected to have on this machine, before the executor starts them."""

from __future__ import annotations

from dataclasses import dataclass

from automl_cxr.hardware import n_usable_cores, nvidia_gpus
from automl_cxr.study.options import SearchOptions


@dataclass(frozen=True)
class ExpectedWorkers:
    """The expected worker processes.

    Attributes:
        number: Number of trials at once.
        threads: Number of threads of each.
    """

    number: int
    threads: int


def expected_workers(options: SearchOptions) -> ExpectedWorkers:
    """Return the workers of a search on this machine. The other machines of a cluster are not counted."""
    if options.executor == "inline":
        return ExpectedWorkers(1, n_usable_cores())
    threads = max(1, int(options.cpus_per_trial or 1))
    on_cores = max(1, n_usable_cores() // threads)
    return ExpectedWorkers(options.concurrency or len(nvidia_gpus()) or on_cores, threads)
