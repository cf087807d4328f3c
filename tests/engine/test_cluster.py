"""Ray clusters with several nodes on this machine: a node is lost, or has no access to the driver's files."""

import contextlib
import dataclasses
import itertools
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import pytest
import ray
from ray.cluster_utils import Cluster

from automl_cxr.engine.placement import RayResources
from automl_cxr.engine.protocol import Decision, Outcome, Pause, Proposal, Report
from automl_cxr.engine.ray_execution import run_with_ray
from automl_cxr.errors import WorkerDiedError

STORE = 100 * 2**20


@contextlib.contextmanager
def running_cluster(**head):
    """Start the head of a cluster; a start that times out on a busy machine is repeated once."""
    start = partial(
        Cluster, initialize_head=True, head_node_args={"include_dashboard": False, "object_store_memory": STORE, **head}
    )
    try:
        cluster = start()
    except Exception:  # noqa: BLE001 - the class that Ray raises
        cluster = start()
    try:
        yield cluster
    finally:
        cluster.shutdown()


@pytest.fixture
def cluster():
    with running_cluster(num_cpus=0) as cluster:
        yield cluster


def run_on_lost_node(proposal, folder):
    """Run two epochs. At its first attempt, trial 2 then waits until its node is removed."""
    lost = folder / "lost"
    for epoch in (1, 2):
        yield Report(epoch, 0.5, facts={"pid": os.getpid()})
        if proposal.number == 2 and epoch == 2 and not lost.exists():
            lost.touch()
            threading.Event().wait()
    return {"score": 0.5}


@dataclasses.dataclass
class RepeatingProposer:
    """Proposes some trials, and repeats those with temporary errors."""

    n_trials: int
    n_started: int = 0
    running: set = dataclasses.field(default_factory=set)
    to_repeat: list = dataclasses.field(default_factory=list)
    endings: dict = dataclasses.field(default_factory=dict)
    facts: dict = dataclasses.field(default_factory=dict)
    on_report: object = None

    def propose(self):
        if not self.to_repeat and self.n_started == self.n_trials:
            return Pause.IDLE if self.running else Pause.OVER
        number = self.to_repeat.pop() if self.to_repeat else self.n_started
        self.n_started = max(self.n_started, number + 1)
        self.running.add(number)
        return Proposal(number, {})

    def observe(self, number, report):
        self.facts[number] = report.facts
        if self.on_report:
            self.on_report(number, report)
        return Decision.CONTINUE

    def finish(self, number, ending):
        self.running.discard(number)
        self.endings.setdefault(number, []).append(ending)
        if ending.retry.times:
            self.to_repeat.append(number)


@pytest.mark.long
def test_trials_of_a_lost_node_fail_and_can_be_repeated(cluster, tmp_path):
    nodes = [cluster.add_node(num_cpus=1, object_store_memory=STORE) for _ in range(2)]
    lost = []

    def remove_node_of_trial(number, report):
        if number == 2 and report.epoch == 2 and not lost:
            parent_pids = {process.pid for process in psutil.Process(report.facts["pid"]).parents()}
            (node,) = [node for node in nodes if node.all_processes["raylet"][0].process.pid in parent_pids]
            lost.append(node)
            cluster.remove_node(node, allow_graceful=False)

    proposer = RepeatingProposer(5, on_report=remove_node_of_trial)
    run_with_ray(partial(run_on_lost_node, folder=tmp_path), proposer, resources=RayResources(address=cluster.address))
    assert lost
    assert sorted(proposer.endings) == [0, 1, 2, 3, 4]
    first, second = proposer.endings[2]
    assert first.outcome is Outcome.FAILED
    assert first.error == "WorkerDiedError: The machine or the process that ran the trial has ended."
    assert first.retry == WorkerDiedError.retry
    assert second.outcome is Outcome.FINISHED
    assert all(endings[-1].outcome is Outcome.FINISHED for endings in proposer.endings.values())


def run_with_others(proposal, folder, n_trials):
    """Report twice, the second time once as many trials as given have begun."""
    yield Report(1, 0.5)
    (folder / f"{proposal.number}.begun").touch()
    deadline = time.monotonic() + 60
    while len(list(folder.glob("*.begun"))) < n_trials and time.monotonic() < deadline:
        time.sleep(0.05)
    facts = {"memory": os.environ["AUTOML_CXR_MEMORY_LIMIT"], "gpu": os.environ["CUDA_VISIBLE_DEVICES"]}
    yield Report(2, 0.5, facts=facts)
    return {"at_once": len(list(folder.glob("*.begun")))}


@pytest.mark.long
def test_trials_on_gpus_share_the_memory_of_the_machines_with_gpus(tmp_path):
    memory = 40 * 2**30
    with running_cluster(num_cpus=1, memory=2**30) as cluster:
        cluster.add_node(num_cpus=8, num_gpus=2, memory=memory, object_store_memory=STORE)
        proposer = RepeatingProposer(5)
        run_with_ray(
            partial(run_with_others, folder=tmp_path, n_trials=4),
            proposer,
            resources=RayResources(address=cluster.address, gpus_per_trial=0.4),
        )
    assert [endings[-1].error for endings in proposer.endings.values()] == [""] * 5
    # The first trial that ends has begun together with three others. The fifth one begins when a GPU has room.
    assert min(endings[-1].facts["at_once"] for endings in proposer.endings.values()) == 4
    assert {facts["memory"] for facts in proposer.facts.values()} == {str((memory + STORE) // 4)}
    assert {facts["gpu"] for facts in proposer.facts.values()} == {"0", "1"}


@pytest.mark.long
def test_a_search_uses_machines_that_join_it(cluster, tmp_path):
    cluster.add_node(num_cpus=1, object_store_memory=STORE)
    joined = []

    def add_node(number, report):
        if not joined:
            joined.append(cluster.add_node(num_cpus=2, object_store_memory=STORE))

    proposer = RepeatingProposer(3, on_report=add_node)
    run_with_ray(
        partial(run_with_others, folder=tmp_path, n_trials=3),
        proposer,
        resources=RayResources(address=cluster.address, cpus_per_trial=1),
    )
    assert {endings[-1].facts["at_once"] for endings in proposer.endings.values()} == {3}


@pytest.mark.long
def test_trials_of_a_cluster_reuse_worker_processes(cluster, tmp_path):
    (tmp_path / "lost").touch()
    cluster.add_node(num_cpus=1, object_store_memory=STORE)
    proposer = RepeatingProposer(4)
    run_with_ray(partial(run_on_lost_node, folder=tmp_path), proposer, resources=RayResources(address=cluster.address))
    assert len({facts["pid"] for facts in proposer.facts.values()}) == 1


@dataclasses.dataclass(frozen=True)
class Summing:
    """An objective that reads a file, as trials read their images. With ``meeting``, two trials wait for each other."""

    images: Path
    meeting: Path | None = None

    @property
    def inputs(self):
        return (self.images,)

    def as_one_file(self, path):
        """Return the file in an input that contains its path."""
        return Path(path.read_text())

    def reading(self, places):
        return dataclasses.replace(self, images=places.get(self.images, self.images))

    def __call__(self, proposal):
        if self.meeting is not None:
            (self.meeting / str(proposal.number)).touch()
            while len(list(self.meeting.iterdir())) < 2:
                time.sleep(0.05)
        yield Report(1, 0.5, facts={"read": str(self.images)})
        images = self.images if self.images.suffix == ".npy" else self.as_one_file(self.images)
        return {"sum": int(np.load(images, mmap_mode="r").sum())}


@pytest.mark.long
@pytest.mark.parametrize("joins_during_the_search", [False, True])
def test_images_are_transferred_to_a_machine_without_them(cluster, tmp_path, monkeypatch, joins_during_the_search):
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    images = np.random.default_rng(0).integers(0, 255, (50, 64, 64), dtype=np.uint8)
    np.save(hidden / "images.npy", images)
    (hidden / "images.txt").write_text(str(hidden / "images.npy"))
    monkeypatch.setattr("automl_cxr.engine.file_transfer._BLOCK", 100_000)  # three blocks
    command = Path(sys.executable).with_name("ray")
    start = f"mount -t tmpfs none {hidden} && exec {command} start --address={cluster.address} --num-cpus=1 --block"
    if not shutil.which("unshare") or subprocess.run(["unshare", "-m", "true"], check=False, capture_output=True).returncode:
        pytest.skip("only root may hide a folder from a process")
    nodes, proposer = [], RepeatingProposer(2)

    def start_node():
        command = ["unshare", "-m", "sh", "-c", start]
        nodes.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))

    objective, timer = Summing(hidden / "images.txt"), threading.Timer(5, start_node)
    try:
        if joins_during_the_search:
            cluster.add_node(num_cpus=1, object_store_memory=STORE)  # for one of two trials that wait for each other
            (tmp_path / "meeting").mkdir()
            objective = dataclasses.replace(objective, meeting=tmp_path / "meeting")
            timer.start()
        else:
            start_node()
            while len(cluster.global_state._live_node_ids()) < 2:
                assert nodes[0].poll() is None
        run_with_ray(objective, proposer, resources=RayResources(address=cluster.address, concurrency=2))
    finally:
        timer.cancel()
        for node in nodes:
            node.terminate()
            node.wait()
    assert [endings[-1].facts for endings in proposer.endings.values()] == [{"sum": int(images.sum())}] * 2
    (copy,) = {facts["read"] for facts in proposer.facts.values()} - {str(objective.images)}
    assert Path(copy).parent == Path(os.environ["AUTOML_CXR_CACHE"]) / "copies"
    assert np.array_equal(np.load(copy), images)


@pytest.mark.long
def test_a_search_without_an_address_does_not_join_a_running_cluster(cluster, tmp_path):
    cluster.add_node(num_cpus=1, object_store_memory=STORE)
    ray._private.utils.write_ray_address(cluster.address)  # as `ray start` does
    addresses = []
    proposer = RepeatingProposer(1, on_report=lambda *_: addresses.append(ray.get_runtime_context().gcs_address))
    resources = RayResources(concurrency=1, cpus_per_trial=1)
    try:
        run_with_ray(partial(run_on_lost_node, folder=tmp_path), proposer, resources=resources)
    finally:
        Path(ray._private.utils.get_ray_address_file(None)).unlink(missing_ok=True)
    assert addresses
    assert cluster.address not in addresses


CONNECTING = """
import sys
from automl_cxr.engine.placement import RayResources
from automl_cxr.engine.protocol import Pause
from automl_cxr.engine.ray_execution import run_with_ray

class NoTrials:
    def propose(self):
        return Pause.OVER

run_with_ray(len, NoTrials(), resources=RayResources(address=sys.argv[1]))
print("connected")
"""


@pytest.mark.long
def test_a_search_uses_a_cluster_that_requires_a_token(tmp_path):
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("0" * 64)
    environment = {**os.environ, "RAY_AUTH_MODE": "token", "HOME": str(tmp_path)}
    ray_command = str(Path(sys.executable).with_name("ray"))
    start = [ray_command, "start", "--head", "--port=0", "--num-cpus=1", "--include-dashboard=false", "--block"]
    with (
        tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as short,  # sockets need a short path
        subprocess.Popen(
            [*start, f"--object-store-memory={STORE}", f"--temp-dir={short}"],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as head,
    ):
        try:
            (line,) = itertools.islice((line for line in head.stdout if "ray start --address=" in line), 1)
            address = line.split("--address=")[1].strip().strip("'")
            command = [sys.executable, "-c", CONNECTING, address]
            connected = subprocess.run(command, env=environment, check=False, capture_output=True, text=True, timeout=60)
        finally:
            head.terminate()
    assert connected.stdout == "connected\n", connected.stderr
