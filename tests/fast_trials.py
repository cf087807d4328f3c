"""Fixtures for searches without Keras: trials take milliseconds and write the same files as real trials."""

from __future__ import annotations

import dataclasses
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from automl_cxr.engine.inline_execution import run_inline
from automl_cxr.engine.protocol import Facts, Objective, Proposal, Proposer, Report, Run
from automl_cxr.errors import InfeasibleError
from automl_cxr.records import SplitRecord
from automl_cxr.scoring.predictions import Predictions
from automl_cxr.study.budget import Budget
from automl_cxr.study.heartbeat import HeartbeatSettings
from automl_cxr.study.objective import TrialObjective, staging_folder
from automl_cxr.study.options import SearchOptions
from automl_cxr.study.prepare import PreparedStudy, prepare_study
from automl_cxr.study.runner import run_search
from tests.storage.postgres import INSTALLATION_HINT, PostgresServer, find_binaries, postgres_server


@dataclasses.dataclass(frozen=True)
class QuickObjective:
    """An objective that writes the files of a trial without training. The score is a function of the dropout."""

    real: TrialObjective
    epochs: int = 3
    cut_short: bool = False
    between_epochs: Callable[[Proposal, int], None] = lambda _proposal, _epoch: None

    def can_batch(self, _proposal: Proposal) -> bool:
        return True

    def run_batch(self, proposals: Sequence[Proposal]) -> list[Run]:
        return [self(proposal) for proposal in proposals]

    def __call__(self, proposal: Proposal) -> Generator[Report, None, Facts]:
        folder = staging_folder(self.real.trials, proposal.number, self.real.driver)
        folder.mkdir(exist_ok=True)
        config = self.real.config_of(proposal)
        (folder / "config.json").write_text(config.to_json())
        n_parameters = 100 + config.filters
        known_before_training = [bound for bound in self.real.requirements if bound.is_known_before_training]
        violations = {str(bound): bound.violation(n_parameters) for bound in known_before_training}
        if any(violation > 0 for violation in violations.values()):
            shutil.rmtree(folder)
            raise InfeasibleError(
                f"parameters {n_parameters}",
                stopped_by="constraint",
                violations=violations,
                facts={"n_parameters": n_parameters},
            )
        score = 0.0
        for epoch in range(1, self.epochs + 1):
            self.between_epochs(proposal, epoch)
            score = (0.9 - config.dropout) * epoch / self.epochs
            yield Report(epoch, score, facts={"n_parameters": n_parameters}, values=self._values(score, n_parameters))
        self._write_predictions(folder, score, config.seed)
        (folder / "model.keras").write_bytes(b"weights")
        return {
            "score": score,
            "best_epoch": self.epochs,
            "epochs": self.epochs,
            "cut_short": self.cut_short,
            "n_parameters": n_parameters,
            "seconds": 0.01,
            "values": self._values(score, n_parameters),
            "violations": violations
            | {str(bound): bound.violation(score) for bound in self.real.requirements if bound not in known_before_training},
        }

    def _values(self, score: float, n_parameters: int) -> tuple[float, ...]:
        value_by_objective = {"macro_f1": score, "parameters": float(n_parameters)}
        return tuple(value_by_objective[name] for name in self.real.objectives) if len(self.real.objectives) > 1 else ()

    def _write_predictions(self, folder: Path, score: float, seed: int) -> None:
        split = SplitRecord.from_json(self.real.split.read_text(encoding="utf-8"))
        rng = np.random.default_rng(seed)
        logits = rng.normal(size=(len(split.judged.images), len(split.classes)))
        logits[np.arange(len(logits)), split.judged.labels] += 3 * score
        probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        Predictions(
            split.judged.images, np.array(split.judged.labels), probabilities, split.classes, split.judged.patients
        ).to_npz(folder / "valid.npz")


class RecordingListener:
    """A listener that records the events of a search."""

    def __init__(self) -> None:
        self.resumed: list[int] = []
        self.failures: list[tuple[int, str]] = []
        self.lost: list[int] = []
        self.ended: list[int] = []
        self.storage_errors: list[str] = []
        self.lock_timeouts: list[str] = []

    def on_begin(self, number, *, resumed):
        if resumed:
            self.resumed.append(number)

    def on_epoch(self, number, report):
        pass

    def on_failure(self, number, reason):
        self.failures.append((number, reason))

    def on_lost(self, number):
        self.lost.append(number)

    def on_end(self, record):
        self.ended.append(record.number)

    def on_storage_away(self, reason):
        self.storage_errors.append(reason)

    def on_lock_timeout(self, message):
        self.lock_timeouts.append(message)


@pytest.fixture
def prepare(tmp_path, phantoms) -> Callable[..., PreparedStudy]:
    """Return a function that prepares a study of phantoms in the test's folder."""

    def prepare_phantoms(storage=f"sqlite:///{tmp_path / 'studies.db'}", command="", **settings) -> PreparedStudy:
        request = SearchOptions(
            **{"space": "scratch", "data": str(phantoms), "name": "s", "image_size": 32, "pruner": "none", **settings}
        )
        return prepare_study(request, runs=tmp_path, storage=storage, command=command)

    return prepare_phantoms


@pytest.fixture(scope="session")
def postgres(tmp_path_factory) -> Iterator[PostgresServer]:
    """Run a PostgreSQL server for the tests."""
    if find_binaries() is None:
        pytest.skip(INSTALLATION_HINT)
    with postgres_server(tmp_path_factory.mktemp("postgres") / "server") as server:
        yield server


@pytest.fixture
def proxy(tmp_path) -> Iterator[GrpcProxy]:
    """Serve an SQLite file with `automl-cxr storage serve` in another process."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        server = GrpcProxy(f"sqlite:///{tmp_path / 'served.db'}", probe.getsockname()[1])
    server.start()
    yield server
    server.stop()


@dataclasses.dataclass
class GrpcProxy:
    """A process of `automl-cxr storage serve` that can be stopped and restarted."""

    storage: str
    port: int
    process: subprocess.Popen | None = None

    @property
    def url(self) -> str:
        return f"grpc://127.0.0.1:{self.port}"

    def start(self) -> None:
        arguments = ["storage", "serve", "--storage", self.storage, "--port", str(self.port)]
        code = "from automl_cxr.cli import main; main()"
        self.process = subprocess.Popen([sys.executable, "-c", code, *arguments], stderr=subprocess.PIPE, text=True)
        assert self.url in self.process.stderr.readline()

    def stop(self) -> None:
        self.process.terminate()  # SIGTERM, because SIGINT is ignored under nohup
        assert self.process.wait(timeout=30) == 0
        self.process.stderr.close()


@pytest.fixture
def quick_objective() -> type[QuickObjective]:
    return QuickObjective


@pytest.fixture(scope="session")
def quick_search() -> Callable[..., RecordingListener]:
    """Return a function that searches a prepared study; each trial takes milliseconds."""

    def search(
        prepared: PreparedStudy,
        *,
        trials=None,
        seconds=None,
        keep_models=3,
        limits=None,
        listener=None,
        batch_trials=1,
        **objective_settings,
    ) -> RecordingListener:
        def execute(objective: Objective, proposer: Proposer) -> None:
            run_inline(QuickObjective(objective, **objective_settings), proposer, batch_trials=batch_trials)

        listener = listener or RecordingListener()
        budget = Budget(n_trials=trials, seconds=seconds, keep_models=keep_models, **(limits or {}))
        run_search(
            prepared.store,
            prepared.images,
            weights_folder=None,
            sampler="random",
            budget=budget,
            execute=execute,
            listener=listener,
            heartbeat_settings=HeartbeatSettings(interval_seconds=0.05, timeout_seconds=1.5),
        )
        return listener

    return search


@pytest.fixture
def hyperband_search() -> Callable[..., None]:
    """Return a function that searches a prepared study to the end of its brackets, with real training."""

    def search(prepared: PreparedStudy, execute: Callable[[Objective, Proposer], None] = run_inline) -> None:
        listener = RecordingListener()
        run_search(
            prepared.store,
            prepared.images,
            weights_folder=None,
            sampler="kt-hyperband",
            budget=Budget(n_trials=None, seconds=None, keep_models=2),
            execute=execute,
            listener=listener,
        )
        assert listener.storage_errors == []

    return search


def write_images(folder: Path) -> Path:
    """Write a file of decoded images for a search whose trials read no images."""
    path = folder / "images.npy"
    if not path.exists():
        np.save(path, np.zeros((1, 16, 16), np.uint8))
    return path
