"""Ray Tune places and runs trials, on every core and GPU that there is, in worker processes that stay warm.

A Ray actor holds a core or a GPU and a worker (``engine/worker.py``), which does
the work and may die of it while the actor lives on.

What Ray Tune takes for a trial is a batch here, of one trial or of several that gather (``engine/protocol.py``). Ray Tune asks
its scheduler about the whole of it only. So a batch's result carries the actor's own handle, by which the driver tells it which
of its trials to leave. Ray runs the calls of one caller in their order: this one comes before the next step.
"""

from __future__ import annotations

import logging
import math
import os
import shutil
import signal
import socket
import tempfile
import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

# Ray reads these once, at import. Loggers: a file for each trial and result that nobody reads, since the record holds them.
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # the other output ignores verbose=0
os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")  # Ctrl-C is the command line's to handle
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

import ray
from ray import tune
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from automl_cxr.engine.file_transfer import Parcels, pack, unpack
from automl_cxr.engine.protocol import Ending, Objective, Outcome, Pause, Proposer, Report, Verdict
from automl_cxr.engine.trial_batches import Event, TrialBatcher, observe_round
from automl_cxr.engine.worker import Worker, WorkerLimits
from automl_cxr.errors import UsageError, WorkerDiedError
from automl_cxr.hardware import GPUS, MEMORY_LIMIT

_PROPOSALS, _EVENTS, _ACTOR = "automl_cxr_proposals", "automl_cxr_events", "automl_cxr_actor"
_BYTES_PER_TRIAL = 2 * 2**30  # of host memory that a Keras process takes with a network of ordinary size
_WATERMARK = 0.5  # of a worker's memory: one that keeps more of it after a trial is replaced


@dataclass(frozen=True, kw_only=True)
class RayResources:
    """What trials may use. None means that the cluster decides.

    Attributes:
        concurrency: Trials at once.
        cpus_per_trial: CPU cores of each.
        gpus_per_trial: GPUs of each; a fraction shares one, with as large a part of its memory.
        memory_per_trial: Bytes of host memory that a trial may take before it is ended. None shares out what a machine has.
        address: Address of a running Ray cluster; None takes $RAY_ADDRESS, and without it starts Ray on this machine.
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
class Placement:
    """What every trial gets, and how many run at once.

    Attributes:
        concurrency: Trials at once.
        cpus: CPU cores of each.
        gpus: GPUs of each.
        memory: Bytes of host memory of each; None where it is not known.
    """

    concurrency: int
    cpus: float
    gpus: float
    memory: int | None = None


def place(resources: RayResources, cluster: Mapping[str, float]) -> Placement:
    """Decide how trials share a cluster: a GPU each where there are GPUs, otherwise one trial a core within memory.

    Args:
        resources: What the user asked for.
        cluster: "CPU", "GPU" and "memory" (bytes) that Ray found in all, "largest_node_CPU", and "node_memory" (bytes of the
            smallest node); "nodes" and "GPU_nodes" count them.

    Raises:
        UsageError: A trial asks for more than the whole cluster has.
    """
    n_cpus, n_gpus = cluster.get("CPU", 1.0), cluster.get("GPU", 0.0)
    gpus = resources.gpus_per_trial if resources.gpus_per_trial is not None else min(1.0, n_gpus)
    if gpus > n_gpus or (resources.cpus_per_trial or 0) > n_cpus:
        raise UsageError(
            f"A trial asks for {resources.cpus_per_trial or 1:g} CPUs and {gpus:g} GPUs, "
            f"but Ray has {n_cpus:g} CPUs and {n_gpus:g} GPUs. Ask for less, or name a larger cluster with --address."
        )
    by_cpu = int(n_cpus / (resources.cpus_per_trial or 1))
    by_memory = int(cluster.get("memory", float("inf")) / _BYTES_PER_TRIAL) if "memory" in cluster else by_cpu
    room = int(n_gpus / gpus) if gpus > 0 else max(1, by_memory)
    concurrency = resources.concurrency or max(1, min(by_cpu, room))
    largest_node = cluster.get("largest_node_CPU", n_cpus)  # a trial cannot span two
    cpus = resources.cpus_per_trial or max(1.0, min(n_cpus // concurrency, largest_node))
    return Placement(
        concurrency=concurrency, cpus=cpus, gpus=gpus, memory=_share_of_memory(resources, cluster, concurrency, gpus)
    )


def _share_of_memory(resources: RayResources, cluster: Mapping[str, float], concurrency: int, gpus: float) -> int | None:
    """Divide a node's memory by the trials that may meet on it, so that none starves its neighbours."""
    if resources.memory_per_trial is not None or "node_memory" not in cluster:
        return resources.memory_per_trial
    n_nodes = cluster.get("GPU_nodes" if gpus > 0 else "nodes", 1)  # where trials can run
    on_a_node = math.ceil(concurrency / max(1, n_nodes))
    return int(cluster["node_memory"] / on_a_node)


def run_with_ray(
    objective: Objective,
    proposer: Proposer,
    *,
    resources: RayResources,
    seconds_per_trial: float | None = None,
    batch_trials: int = 1,
) -> None:
    """Run proposals on Ray until the proposer is OVER and the last trial has ended.

    Args:
        objective: What runs a trial; pickled, so its modules must be importable.
        proposer: Who is asked and told.
        resources: What trials may use.
        seconds_per_trial: Wall seconds that a trial may take; its process is ended then. None for no limit.
        batch_trials: The most trials that gather into one batch, which takes the resources of one.

    Raises:
        UsageError: A trial asks for more than the cluster has.
        Exception: Whatever the proposer raised.
    """
    started_here = not ray.is_initialized()
    if started_here:
        _start_ray(resources.address or os.environ.get("RAY_ADDRESS"))
    # Ray insists on a folder for its own record of the run; ours is the study, so this one is thrown away.
    scratch = tempfile.mkdtemp(prefix="automl-cxr-ray-")
    try:
        placement = place(resources, _survey())
        bridge = _ProposerBridge(proposer, TrialBatcher(objective, proposer, limit=batch_trials))
        _tune(objective, bridge, placement, seconds_per_trial=seconds_per_trial, scratch=scratch)
    finally:
        if started_here:
            ray.shutdown()
        shutil.rmtree(scratch, ignore_errors=True)


def _survey() -> dict[str, float]:
    """Tell what the cluster has, as ``place`` asks for it."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return {
        **ray.cluster_resources(),
        "nodes": len(nodes),
        "GPU_nodes": sum(node.get("GPU", 0.0) > 0 for node in nodes),
        "largest_node_CPU": max(node.get("CPU", 1.0) for node in nodes),
        # Ray keeps part of the memory for its object store, which fills it only with what is in use.
        "node_memory": min(node.get("memory", 0.0) + node.get("object_store_memory", 0.0) for node in nodes),
    }


def _start_ray(address: str | None) -> None:
    # What goes wrong is recorded on its trial, in a sentence; Ray would print its own stack traces as well.
    logging.getLogger("ray").setLevel(logging.CRITICAL)
    if address is not None:
        _check_answers(address)
    # Without "local", Ray would join whatever cluster somebody has started on this machine, and end with it.
    settings: dict[str, Any] = {"address": address} if address else {"address": "local", "include_dashboard": False}
    on_sigterm = signal.getsignal(signal.SIGTERM)
    ray.init(logging_level=logging.CRITICAL, log_to_driver=False, configure_logging=False, **settings)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, on_sigterm)  # Ray's own handler prints a stack as if it had crashed


def _check_answers(address: str) -> None:
    """Refuse an address where nothing listens; Ray itself would try for a minute and fill the screen."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        return  # "auto" and other words are Ray's to understand
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except (OSError, OverflowError) as error:
        raise UsageError(f"No Ray cluster answers at {address} ({error}). Check --address, or leave it out.") from error


def _tune(
    objective: Objective, bridge: _ProposerBridge, placement: Placement, *, seconds_per_trial: float | None, scratch: str
) -> None:
    limits = WorkerLimits(
        seconds=seconds_per_trial,
        memory=placement.memory,
        watermark=None if placement.memory is None else int(_WATERMARK * placement.memory),
    )
    trainable = tune.with_resources(
        tune.with_parameters(
            _TrialActor,
            objective=objective,
            parcels=pack(objective),
            limits=limits,
            environment=worker_environment(placement),
        ),
        {"cpu": placement.cpus, "gpu": placement.gpus},
    )
    tuner = tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            search_alg=bridge.searcher,
            scheduler=bridge.scheduler,
            num_samples=-1,  # the searcher decides when it is over
            max_concurrent_trials=placement.concurrency,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name="search",
            storage_path=scratch,
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=0),  # who runs a trial again is the proposer
        ),
    )
    tuner.fit()
    if bridge.error is not None:
        raise bridge.error


def worker_environment(placement: Placement) -> dict[str, str]:
    """Name the variables that keep a worker within its share; they are read when TensorFlow, JAX or NumPy load."""
    n_threads = str(max(1, int(placement.cpus)))
    environment = {"TF_NUM_INTRAOP_THREADS": n_threads, "OMP_NUM_THREADS": n_threads, "TF_FORCE_GPU_ALLOW_GROWTH": "true"}
    if placement.memory is not None:
        environment[MEMORY_LIMIT] = str(placement.memory)
    if placement.gpus > 0:
        environment[GPUS] = str(placement.gpus)  # model/devices.py keeps within a share and spreads over several
    else:
        environment["CUDA_VISIBLE_DEVICES"] = ""  # Ray hides GPUs only from those that it gives some
    return environment


class _ProposerBridge:
    """Translates between a proposer and the two things that Ray Tune asks: a searcher, and a scheduler that may stop.

    Ray swallows or wraps what these raise; the first error of the proposer is kept and ends the search in order.
    """

    def __init__(self, proposer: Proposer, gatherer: TrialBatcher) -> None:
        self._proposer = proposer
        self._gatherer = gatherer
        self._running: dict[str, set[int]] = {}  # numbers of the trials that have not ended, by Ray's name of their batch
        self.searcher = _Searcher(self)
        self.scheduler = _Scheduler(self)
        self.error: Exception | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Ray writes the searcher and the scheduler to its own record of the run. Ours is the study: give it nothing."""
        return {}

    def propose(self, trial_id: str) -> dict[str, Any] | str | None:
        if self.error is not None:
            return Searcher.FINISHED
        proposals = self._guarded(self._gatherer.propose, Pause.OVER)
        if proposals is Pause.OVER:
            return Searcher.FINISHED
        if proposals is Pause.IDLE:
            return None
        self._running[trial_id] = {proposal.number for proposal in proposals}
        return {_PROPOSALS: proposals}

    def observe(self, trial_id: str, events: Collection[Event], actor: Any) -> Verdict:
        """Tell the proposer of an epoch of a batch; STOP where no trial of it goes on."""
        for number, event in events:
            if isinstance(event, Ending):
                self._end(trial_id, number, event)
        reports = [(number, event) for number, event in events if isinstance(event, Report)]
        verdicts = self._guarded(lambda: observe_round(self._proposer, reports), [Verdict.STOP] * len(reports))
        left = [number for (number, _), verdict in zip(reports, verdicts, strict=True) if verdict is Verdict.STOP]
        for number in left:
            self._end(trial_id, number, Ending(Outcome.STOPPED))
        if not self._running[trial_id]:
            return Verdict.STOP
        if left:
            actor.leave.remote(left)
        return Verdict.CONTINUE

    def finish(self, trial_id: str, events: Collection[Event], otherwise: Ending) -> None:
        """Tell the proposer of the end of a batch: of each trial that has not ended its event, or else another ending."""
        endings = {number: event for number, event in events if isinstance(event, Ending)}
        for number in sorted(self._running.get(trial_id, ())):
            self._end(trial_id, number, endings.get(number, otherwise))
        self._running.pop(trial_id, None)

    def _end(self, trial_id: str, number: int, ending: Ending) -> None:
        self._running[trial_id].discard(number)
        self._guarded(lambda: self._proposer.finish(number, ending), None)

    def _guarded(self, ask: Callable[[], Any], otherwise: Any) -> Any:
        """Ask the proposer unless it has failed before; a trial that it cannot be told of stays RUNNING and is run again."""
        if self.error is not None:
            return otherwise
        try:
            return ask()
        except Exception as error:  # noqa: BLE001 - kept whole and raised by run_with_ray
            self.error = error
            return otherwise


class _Searcher(Searcher):
    """Ray's side of ``propose`` and ``finish``."""

    def __init__(self, bridge: _ProposerBridge) -> None:
        super().__init__()
        self._bridge = bridge

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        return self._bridge.propose(trial_id)

    def on_trial_complete(self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False) -> None:
        if error:
            lost = WorkerDiedError("The machine or the process that ran the trial is gone.")
            self._bridge.finish(trial_id, (), Ending.of_error(lost))
        else:
            self._bridge.finish(trial_id, (result or {}).get(_EVENTS, ()), Ending(Outcome.STOPPED))

    def save(self, checkpoint_path: str) -> None:
        """Keep nothing: the study's record is the only truth."""

    def restore(self, checkpoint_path: str) -> None:
        """Restore nothing: the study's record is the only truth."""


class _Scheduler(FIFOScheduler):
    """Ray's side of ``observe``: stops what the proposer stops, whose rungs stand in the study's record."""

    def __init__(self, bridge: _ProposerBridge) -> None:
        super().__init__()
        self._bridge = bridge

    def on_trial_result(self, tune_controller: Any, trial: Any, result: Mapping[str, Any]) -> str:
        if self._bridge.observe(trial.trial_id, result[_EVENTS], result.get(_ACTOR)) is Verdict.CONTINUE:
            return TrialScheduler.CONTINUE
        return TrialScheduler.STOP


class _TrialActor(tune.Trainable):
    """Holds the resources of a batch and the worker that runs it, an epoch a step."""

    def setup(
        self,
        config: Mapping[str, Any],
        *,
        objective: Objective,
        parcels: Parcels,
        limits: WorkerLimits,
        environment: Mapping[str, str],
    ) -> None:
        self._worker = Worker(unpack(objective, parcels), limits=limits, environment=environment)
        self._begin(config)

    def _begin(self, config: Mapping[str, Any]) -> None:
        self._worker.begin(config[_PROPOSALS])
        self._leaving: list[int] = []
        # A trial alone ends with what Ray takes for its trial, and nobody has to be reached.
        self._address = {_ACTOR: ray.get_runtime_context().current_actor} if len(config[_PROPOSALS]) > 1 else {}

    def leave(self, numbers: Collection[int]) -> None:
        """Leave some trials of the batch at the next step. Called by the driver."""
        self._leaving += numbers

    def step(self) -> dict[str, Any]:
        events = self._worker.advance(self._leaving)
        self._leaving = []
        return {_EVENTS: events, **self._address, "done": not self._worker.is_running}

    def reset_config(self, new_config: Mapping[str, Any]) -> bool:
        self._begin(new_config)
        return True

    def cleanup(self) -> None:
        self._worker.close()

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Keep nothing: a trial's files are the study's."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Load nothing: a trial finds its own checkpoint."""
