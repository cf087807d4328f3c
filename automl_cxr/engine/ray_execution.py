"""Runs trials with Ray Tune on all cores and GPUs, in worker processes that are reused.

A Ray actor reserves a core or a GPU and has a worker process (``engine/worker.py``), which runs the trials. If the worker dies,
the actor continues with a new one.

One trial of Ray Tune is a batch of this package: one trial, or several cheap ones (``engine/protocol.py``). The scheduler of
Ray Tune decides only on a whole batch. The results of a batch therefore contain the actor's handle, through which the driver
stops single trials of the batch. Ray executes the calls of one caller in order, so this call is executed before the next step.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import tempfile
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial
from typing import Any

# Ray waits this long for its first server to start. On a busy machine its default of 30 seconds is too short.
os.environ.setdefault("RAY_gcs_server_port_wait_time_s", "120")
# Ray reads these variables at import. Its loggers would write files with results that the study contains already.
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # the other output ignores verbose=0
os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")  # the command line handles Ctrl-C
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

import ray
from ray import tune
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from automl_cxr.engine.file_transfer import FileBlocks, pack, unpack
from automl_cxr.engine.placement import Node, Placement, RayResources, place
from automl_cxr.engine.protocol import Decision, Objective, Outcome, Pause, Proposer, Report, TrialEnd
from automl_cxr.engine.trial_batches import Event, TrialBatcher, observe_round
from automl_cxr.engine.worker import Worker, WorkerLimits
from automl_cxr.errors import UsageError, WorkerDiedError
from automl_cxr.hardware import GPUS, MEMORY_LIMIT

_PROPOSALS, _EVENTS, _ACTOR = "automl_cxr_proposals", "automl_cxr_events", "automl_cxr_actor"
_LOCAL = "local"  # Ray's address for an instance that it starts on this machine
_WATERMARK = 0.5  # share of a worker's memory: a worker that uses more after a trial is replaced


def run_with_ray(
    objective: Objective,
    proposer: Proposer,
    *,
    resources: RayResources,
    seconds_per_trial: float | None = None,
    batch_trials: int = 1,
) -> None:
    """Run proposals on Ray until the proposer returns OVER and the last trial has ended.

    Args:
        objective: Runs the trials; it is pickled, so its modules must be importable.
        proposer: Proposes the trials and receives their results.
        resources: Resources of the trials.
        seconds_per_trial: Maximum wall seconds of a trial, after which its process is killed. None for no limit.
        batch_trials: Maximum number of trials in a batch. A batch has the resources of one trial.

    Raises:
        UsageError: A trial requires more than any machine of the cluster has, or Ray cannot be started or reached.
        Exception: An error of the proposer.
    """
    started_here = not ray.is_initialized()
    address = resources.address or os.environ.get("RAY_ADDRESS") or _LOCAL
    try:
        if started_here:
            _start_ray(address, "--address" if resources.address else "the environment variable RAY_ADDRESS")
        placement = place(resources, _nodes(), may_grow=not started_here or address != _LOCAL)
        bridge = _ProposerBridge(proposer, TrialBatcher(objective, proposer, limit=batch_trials))
        # Ray needs a folder for its own record of the run, which is deleted: the study contains all results.
        with tempfile.TemporaryDirectory(prefix="automl-cxr-ray-", ignore_cleanup_errors=True) as scratch:
            _tune(objective, bridge, placement, seconds_per_trial=seconds_per_trial, scratch=scratch)
    finally:
        if started_here:
            ray.shutdown()


def _nodes() -> list[Node]:
    """Return the machines of the cluster."""
    return [Node.from_ray(node["Resources"]) for node in ray.nodes() if node["Alive"]]


def _this_node() -> Node:
    """Return the machine of this process."""
    node_id = ray.get_runtime_context().get_node_id()
    return next(Node.from_ray(node["Resources"]) for node in ray.nodes() if node["NodeID"] == node_id)


def _start_ray(address: str, source: str) -> None:
    """Connect to a cluster, or start Ray on this machine.

    Args:
        address: Address of the cluster; "local" starts Ray here.
        source: Where the address is from, for messages.

    Raises:
        UsageError: No cluster responds, or Ray cannot be started.
    """
    # Errors are recorded on their trials; Ray would print its stack traces in addition.
    logging.getLogger("ray").setLevel(logging.CRITICAL)
    if address != _LOCAL:
        _check_reachable(address, source)
    try:
        with _own_sigterm_handler():
            _initialise_ray(address)
    except Exception as error:
        raise (_cannot_start(error) if address == _LOCAL else _no_cluster(address, source, error)) from error


def _initialise_ray(address: str) -> None:
    """Call ``ray.init``. On this machine, a start that fails is repeated once: Ray's processes may be slow to start."""
    settings: dict[str, Any] = {"logging_level": logging.CRITICAL, "log_to_driver": False, "configure_logging": False}
    if address != _LOCAL:
        ray.init(address=address, **settings)
        return
    # Without "local", Ray would connect to a cluster that runs here, and the search would fail when it ends.
    start = partial(ray.init, address=_LOCAL, include_dashboard=False, **settings)
    try:
        start()
    except Exception as error:  # Ray raises Exception itself if one of its processes does not start in time
        if _is_path_too_long(error):
            raise
        ray.shutdown()
        start()


def _is_path_too_long(error: Exception) -> bool:
    return "AF_UNIX path length" in str(error)


@contextlib.contextmanager
def _own_sigterm_handler() -> Iterator[None]:
    """Keep the handler of SIGTERM while Ray starts.

    Ray installs a handler that exits without the messages of the command line, and the exit may be lost in Ray's own code. A
    signal that arrives meanwhile is therefore delivered to the handler of this process after the block.
    """
    if threading.current_thread() is not threading.main_thread():  # Ray cannot install a handler
        yield
        return
    handler = signal.getsignal(signal.SIGTERM)
    reader, writer = socket.socketpair()
    with reader, writer:
        reader.setblocking(False)
        writer.setblocking(False)
        previous = signal.set_wakeup_fd(writer.fileno())
        is_interrupted = False
        try:
            yield
        except SystemExit as end:
            is_interrupted = True
            if end.code != signal.SIGTERM:
                raise
        finally:
            signal.set_wakeup_fd(previous)
            signal.signal(signal.SIGTERM, handler)
        with contextlib.suppress(BlockingIOError):  # nothing was received
            is_interrupted |= signal.SIGTERM in reader.recv(4096)
    if is_interrupted:
        signal.alarm(0)  # Ray's handler has set an alarm that aborts the process after three seconds
        signal.raise_signal(signal.SIGTERM)


def _check_reachable(address: str, source: str) -> None:
    """Raise UsageError if no server listens at an address; Ray itself would retry and print errors for a minute."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        return  # such as "auto", which Ray resolves
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except (OSError, OverflowError) as error:
        raise _no_cluster(address, source, error) from error


def _no_cluster(address: str, source: str, error: Exception) -> UsageError:
    """Return the error for a cluster that does not respond. The user may not know of an address in the environment."""
    return UsageError(
        f"No Ray cluster responds at {address}, the value of {source} ({_first_line(error)}). Correct the address; if the "
        "cluster requires a token (`ray start --head` does if its machine has one), set RAY_AUTH_MODE=token and copy the file "
        "~/.ray/auth_token of the cluster; or use --address local, which starts Ray on this machine."
    )


def _cannot_start(error: Exception) -> UsageError:
    """Return the error for Ray that does not start on this machine."""
    if _is_path_too_long(error):
        return UsageError(
            "Ray needs a short path for its sockets (at most 107 bytes on Linux, 103 on macOS, with about 60 of Ray's own); "
            f"received the folder for temporary files {_temporary_folder()}. Set the environment variable RAY_TMPDIR to a "
            "shorter one, such as /tmp."
        )
    return UsageError(
        f"Ray cannot be started on this machine ({_first_line(error)}). Repeat the command when the machine is less busy, "
        "or use --executor inline, or the --address of a cluster."
    )


def _temporary_folder() -> str:
    return os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or tempfile.gettempdir()


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _tune(
    objective: Objective, bridge: _ProposerBridge, placement: Placement, *, seconds_per_trial: float | None, scratch: str
) -> None:
    trainable = tune.with_resources(
        tune.with_parameters(
            _TrialActor,
            objective=objective,
            file_blocks=pack(objective),
            placement=placement,
            seconds_per_trial=seconds_per_trial,
        ),
        {"cpu": placement.cpus, "gpu": placement.gpus, "memory": placement.reserved_memory},
    )
    tuner = tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            search_alg=bridge.searcher,
            scheduler=bridge.scheduler,
            num_samples=-1,  # the searcher ends the run
            # Without a limit, one trial waits for resources, which requests machines from an autoscaler. An actor that becomes
            # free runs it before a new one is started.
            max_concurrent_trials=placement.concurrency,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name="search",
            storage_path=scratch,
            verbose=0,
            progress_reporter=tune.CLIReporter(),  # prints nothing; that of notebooks clears the cell at its start
            failure_config=tune.FailureConfig(max_failures=0),  # the proposer repeats failed trials
        ),
    )
    tuner.fit()
    if bridge.error is not None:
        raise bridge.error


def worker_environment(placement: Placement, memory: int | None) -> dict[str, str]:
    """Return the environment variables that limit a worker to its resources. TensorFlow, JAX and NumPy read them at import.

    Args:
        placement: The resources of a trial.
        memory: Bytes of host memory of a trial on this machine; None if unknown.
    """
    n_threads = str(max(1, int(placement.cpus)))
    environment = {"TF_NUM_INTRAOP_THREADS": n_threads, "OMP_NUM_THREADS": n_threads, "TF_FORCE_GPU_ALLOW_GROWTH": "true"}
    if memory is not None:
        environment[MEMORY_LIMIT] = str(memory)
    if placement.gpus > 0:
        environment[GPUS] = str(placement.gpus)  # model/devices.py limits the memory of a shared GPU and uses several GPUs
    else:
        environment["CUDA_VISIBLE_DEVICES"] = ""  # Ray sets this only for trials with GPUs
    return environment


class _ProposerBridge:
    """An adapter between a proposer and the searcher and scheduler of Ray Tune.

    Ray suppresses or wraps the errors of these two. The first error of the proposer is therefore stored, and ends the search.
    """

    def __init__(self, proposer: Proposer, batcher: TrialBatcher) -> None:
        self._proposer = proposer
        self._batcher = batcher
        self._running: dict[str, set[int]] = {}  # numbers of the unfinished trials, by Ray's id of their batch
        self.searcher = _Searcher(self)
        self.scheduler = _Scheduler(self)
        self.error: Exception | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Return an empty state: Ray pickles the searcher and the scheduler to its own record of the run, which is not used."""
        return {}

    def propose(self, trial_id: str) -> dict[str, Any] | str | None:
        if self.error is not None:
            return Searcher.FINISHED
        proposals = self._call_proposer(self._batcher.propose, Pause.OVER)
        if proposals is Pause.OVER:
            return Searcher.FINISHED
        if proposals is Pause.IDLE:
            return None
        self._running[trial_id] = {proposal.number for proposal in proposals}
        return {_PROPOSALS: proposals}

    def observe(self, trial_id: str, events: Collection[Event], actor: Any) -> Decision:
        """Pass an epoch of a batch to the proposer; return STOP if no trial of the batch continues."""
        for number, event in events:
            if isinstance(event, TrialEnd):
                self._end(trial_id, number, event)
        reports = [(number, event) for number, event in events if isinstance(event, Report)]
        decisions = self._call_proposer(lambda: observe_round(self._proposer, reports), [Decision.STOP] * len(reports))
        stopped = [number for (number, _), decision in zip(reports, decisions, strict=True) if decision is Decision.STOP]
        for number in stopped:
            self._end(trial_id, number, TrialEnd(Outcome.STOPPED))
        if not self._running[trial_id]:
            return Decision.STOP
        if stopped:
            actor.stop_trials.remote(stopped)
        return Decision.CONTINUE

    def finish(self, trial_id: str, events: Collection[Event], default: TrialEnd) -> None:
        """Pass the end of a batch to the proposer: for each unfinished trial its event, or the default ending."""
        endings = {number: event for number, event in events if isinstance(event, TrialEnd)}
        for number in sorted(self._running.get(trial_id, ())):
            self._end(trial_id, number, endings.get(number, default))
        self._running.pop(trial_id, None)

    def _end(self, trial_id: str, number: int, ending: TrialEnd) -> None:
        self._running[trial_id].discard(number)
        self._call_proposer(lambda: self._proposer.finish(number, ending), None)

    def _call_proposer(self, call: Callable[[], Any], default: Any) -> Any:
        """Call the proposer unless it has failed before. A trial without a recorded end remains RUNNING and is repeated."""
        if self.error is not None:
            return default
        try:
            return call()
        except Exception as error:  # noqa: BLE001 - raised again by run_with_ray
            self.error = error
            return default


class _Searcher(Searcher):
    """A searcher of Ray Tune that calls ``propose`` and ``finish`` of the bridge."""

    def __init__(self, bridge: _ProposerBridge) -> None:
        super().__init__()
        self._bridge = bridge

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        return self._bridge.propose(trial_id)

    def on_trial_complete(self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False) -> None:
        if error:
            lost = WorkerDiedError("The machine or the process that ran the trial has ended.")
            self._bridge.finish(trial_id, (), TrialEnd.from_error(lost))
        else:
            self._bridge.finish(trial_id, (result or {}).get(_EVENTS, ()), TrialEnd(Outcome.STOPPED))

    def save(self, checkpoint_path: str) -> None:
        """Save nothing: the study contains all results."""

    def restore(self, checkpoint_path: str) -> None:
        """Restore nothing: the study contains all results."""


class _Scheduler(FIFOScheduler):
    """A scheduler of Ray Tune that calls ``observe`` of the bridge and stops a batch if the proposer stops all its trials."""

    def __init__(self, bridge: _ProposerBridge) -> None:
        super().__init__()
        self._bridge = bridge

    def on_trial_result(self, tune_controller: Any, trial: Any, result: Mapping[str, Any]) -> str:
        if self._bridge.observe(trial.trial_id, result[_EVENTS], result.get(_ACTOR)) is Decision.CONTINUE:
            return TrialScheduler.CONTINUE
        return TrialScheduler.STOP


class _TrialActor(tune.Trainable):
    """An actor with the resources of a batch and the worker that runs it. One step is one epoch."""

    def setup(
        self,
        config: Mapping[str, Any],
        *,
        objective: Objective,
        file_blocks: FileBlocks,
        placement: Placement,
        seconds_per_trial: float | None,
    ) -> None:
        memory = placement.memory_on(_this_node())
        self._worker = Worker(
            unpack(objective, file_blocks),
            limits=WorkerLimits(
                seconds=seconds_per_trial, memory=memory, watermark=None if memory is None else int(_WATERMARK * memory)
            ),
            environment=worker_environment(placement, memory),
        )
        self._begin(config)

    def _begin(self, config: Mapping[str, Any]) -> None:
        self._worker.begin(config[_PROPOSALS])
        self._stopped: list[int] = []
        # A single trial is stopped by Ray itself, so its actor need not be called.
        self._address = {_ACTOR: ray.get_runtime_context().current_actor} if len(config[_PROPOSALS]) > 1 else {}

    def stop_trials(self, numbers: Collection[int]) -> None:
        """Stop some trials of the batch at the next step. Called by the driver."""
        self._stopped += numbers

    def step(self) -> dict[str, Any]:
        events = self._worker.advance(self._stopped)
        self._stopped = []
        return {_EVENTS: events, **self._address, "done": not self._worker.is_running}

    def reset_config(self, new_config: Mapping[str, Any]) -> bool:
        self._begin(new_config)
        return True

    def cleanup(self) -> None:
        self._worker.close()

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Save nothing: the objective writes the files of a trial."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Load nothing: the objective reads its own checkpoint."""
