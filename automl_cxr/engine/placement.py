"""Division of a Ray cluster among trials: their number at once, and the cores, GPUs and memory of each."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from automl_cxr.errors import UsageError

_BYTES_PER_TRIAL = 2 * 2**30  # of host memory that a Keras process needs for a network of ordinary size
_ROUNDING = 1e-6  # 1 / 0.1 may be less than 10; Ray counts resources in steps of 1e-4


@dataclass(frozen=True, kw_only=True)
class RayResources:
    """Resources of the trials. None means that the value is derived from the cluster.

    Attributes:
        concurrency: Number of trials at once.
        cpus_per_trial: CPU cores per trial.
        gpus_per_trial: GPUs per trial; a fraction shares one GPU and its memory.
        memory_per_trial: Bytes of host memory above which a trial is stopped. None divides the memory of a machine.
        address: Address of a running Ray cluster. None means $RAY_ADDRESS; if it is not set, Ray is started on this machine.
    """

    concurrency: int | None = None
    cpus_per_trial: float | None = None
    gpus_per_trial: float | None = None
    memory_per_trial: int | None = None
    address: str | None = None

    def __post_init__(self) -> None:
        lowest = {"concurrency": 1, "cpus_per_trial": 0.1, "gpus_per_trial": 0, "memory_per_trial": 1}
        for name, bound in lowest.items():
            value = getattr(self, name)
            if value is not None and value < bound:
                raise UsageError(f"{name.replace('_', '-')} must be at least {bound}; received {value}.")
        gpus = self.gpus_per_trial or 0
        if gpus > 1 and gpus != int(gpus):
            raise UsageError(f"gpus-per-trial must be a whole number above 1, or a fraction below; received {gpus:g}.")


@dataclass(frozen=True, kw_only=True)
class Node:
    """The resources of a machine of a Ray cluster.

    Attributes:
        cpus: Number of CPU cores.
        gpus: Number of GPUs.
        memory: Bytes of host memory that Ray may reserve for trials; infinite if unknown.
        store: Bytes of host memory of Ray's object store, which uses only what its objects need.
    """

    cpus: float
    gpus: float = 0.0
    memory: float = math.inf
    store: float = 0.0

    @classmethod
    def from_ray(cls, resources: Mapping[str, float]) -> Node:
        """Create a node from the "Resources" of an element of ``ray.nodes()``."""
        return cls(
            cpus=resources.get("CPU", 0.0),
            gpus=resources.get("GPU", 0.0),
            memory=resources.get("memory", math.inf),
            store=resources.get("object_store_memory", 0.0),
        )


@dataclass(frozen=True, kw_only=True)
class Placement:
    """The resources of each trial, and the number of trials at once.

    Attributes:
        concurrency: Maximum number of trials at once in the whole cluster; None if only the resources of its machines limit
            it, including those that join later.
        cpus: CPU cores per trial.
        gpus: GPUs per trial.
        memory: Bytes of host memory above which a trial is stopped; None divides the memory of a node, see ``memory_on``.
        reserved_memory: Bytes of host memory that Ray reserves for each trial. They limit the number of trials on a node.
    """

    concurrency: int | None
    cpus: float
    gpus: float
    memory: int | None = None
    reserved_memory: int = 0

    def n_trials_on(self, node: Node) -> int:
        """Return the number of trials that Ray runs on a node at once. A trial with a fraction of a GPU is on one GPU."""
        counts: list[float] = [node.cpus / self.cpus]
        if self.reserved_memory:
            counts.append(node.memory / self.reserved_memory)
        if 0 < self.gpus < 1:
            counts.append(math.floor(node.gpus) * math.floor(1 / self.gpus + _ROUNDING))
        elif self.gpus:
            counts.append(node.gpus / self.gpus)
        return math.floor(min(counts) + _ROUNDING)

    def memory_on(self, node: Node) -> int | None:
        """Return the bytes of host memory of a trial on a node: its memory divided by the trials that it may run at once.

        The machines of a cluster differ, so this is computed on the machine that runs the trial. None if it is unknown.
        """
        if self.memory is not None or math.isinf(node.memory):
            return self.memory
        n_trials = min(self.n_trials_on(node), self.concurrency or math.inf)
        return int((node.memory + node.store) / max(1, n_trials))


def place(resources: RayResources, nodes: Sequence[Node], *, may_grow: bool = False) -> Placement:
    """Divide a cluster among trials: one GPU per trial if there are GPUs, otherwise one core per trial, within the memory.

    A trial runs on one node. Nodes that cannot run a trial, such as a head without a GPU, have no effect.

    Args:
        resources: The user's settings.
        nodes: The machines of the cluster.
        may_grow: Whether machines may join the cluster. Then the number of trials at once has a limit only if
            ``resources.concurrency`` sets one.

    Raises:
        UsageError: A trial needs more than any machine has.
    """
    gpus = resources.gpus_per_trial
    if gpus is None:
        gpus = 1.0 if any(node.gpus >= 1 for node in nodes) else 0.0
    cpus = resources.cpus_per_trial or 1.0
    smallest = Placement(concurrency=1, cpus=cpus, gpus=gpus, memory=resources.memory_per_trial)
    usable = [node for node in nodes if smallest.n_trials_on(node)]
    if not usable:
        machines = "; ".join(f"{node.cpus:g} CPUs, {node.gpus:g} GPUs" for node in nodes)
        raise UsageError(
            f"A trial needs {cpus:g} CPUs and {gpus:g} GPUs on one machine; received a Ray cluster with "
            f"{machines}. Reduce --cpus-per-trial or --gpus-per-trial, or set a larger cluster with --address."
        )
    if gpus == 0 and resources.concurrency is None:
        reserved = min(_BYTES_PER_TRIAL, max(node.memory for node in usable))
        smallest = dataclasses.replace(smallest, reserved_memory=int(reserved))
    capacity = sum(map(smallest.n_trials_on, usable))
    limit = resources.concurrency or (None if may_grow else capacity)
    placement = dataclasses.replace(smallest, concurrency=limit)
    return placement if resources.cpus_per_trial else _with_all_cpus(placement, usable, min(limit or capacity, capacity))


def _with_all_cpus(placement: Placement, nodes: Sequence[Node], n_trials: int) -> Placement:
    """Return the placement with the largest whole number of cores with which a number of trials still runs at once."""
    largest = int(max(node.cpus for node in nodes))
    larger = (dataclasses.replace(placement, cpus=float(cpus)) for cpus in range(largest, 1, -1))
    return next((one for one in larger if sum(map(one.n_trials_on, nodes)) >= n_trials), placement)
