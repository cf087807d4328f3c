"""Measure the cost of the driver as a study grows: simulated trials, and real trials that only sleep.

    python benchmarks/scale.py simulate --trials 10000 --at-once 500          # in virtual time: no Ray, no Keras, no training
    python benchmarks/scale.py simulate --storage sqlite --sampler tpe --trials 1000
    python benchmarks/scale.py sleep --trials 200 --seconds 1                 # with Ray, on two workers
    python benchmarks/scale.py sleep --trials 1000 --seconds 0 --epochs 10 --batch-trials 16   # empty trials in batches

``simulate`` calls the proposer and writes the study as an executor does, with each storage, and prints the driver's time
per trial and its memory at about 100, 1,000 and 10,000 trials. The storage "memory" is Optuna's in-memory storage, for
reference. PostgreSQL must be installed (Debian package postgresql); the script starts and removes a server. ``sleep``
compares the wall time with the time that the workers sleep.
"""

from __future__ import annotations

import argparse
import contextlib
import heapq
import os
import resource
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from optuna.storages import RDBStorage
from sqlalchemy import event

from automl_cxr.engine.inline_execution import run_inline
from automl_cxr.engine.protocol import Decision, Outcome, Proposal, Proposer, Report, TrialEnd
from automl_cxr.optuna_private import storage_of, uncached_storage
from automl_cxr.records import PartRecord, SplitRecord, TrialRecord
from automl_cxr.storage.urls import default_storage
from automl_cxr.study.budget import Budget
from automl_cxr.study.objective import staging_folder
from automl_cxr.study.runner import run_search
from automl_cxr.study.spaces import read_space
from automl_cxr.study.spec import StudySpec
from automl_cxr.study.store import StudyStore

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.sleeping import Sleep, score_of
from tests.storage.postgres import postgres_server

EPOCHS = 9
MARKS = (100, 1_000, 10_000)
STORAGES = ("memory", "sqlite", "journal", "postgresql")
SPACE = "scratch"


class SilentListener:
    """A listener that prints errors of the storage and of the lock only."""

    def on_begin(self, number: int, *, resumed: bool) -> None: ...
    def on_epoch(self, number: int, report: Report) -> None: ...
    def on_failure(self, number: int, reason: str) -> None: ...
    def on_lost(self, number: int) -> None: ...
    def on_end(self, record: TrialRecord) -> None: ...

    def on_storage_away(self, reason: str) -> None:
        print(f"the storage does not respond: {reason}", file=sys.stderr)

    def on_lock_timeout(self, message: str) -> None:
        print(message, file=sys.stderr)


def create_study(runs: Path, storage: str, *, sampler: str, pruner: str) -> StudyStore:
    """Create a study without data."""
    part = PartRecord(images=("a.png",), labels=(0,), patients=("a",))
    split = SplitRecord(
        classes=("a", "b"), train=part, valid=part, test=(), seed=0, grouped=False, origin="made", unreadable={}
    )
    spec = StudySpec(
        name="scale",
        space_name=SPACE,
        space_toml=read_space(SPACE),
        data="unused",
        layout="folders",
        classes=("a", "b"),
        patients=None,
        data_digest="",
        pixels_digest="",
        fixed={},
        weights_folder=None,
        image_size=32,
        fit="stretch",
        batch_size=8,
        epochs=EPOCHS,
        objectives=("macro_f1",),
        normal_class=None,
        sampler=sampler,
        pruner=pruner,
        valid_fraction=0.15,
        test_fraction=0.15,
        seed=0,
        versions={},
        command="",
    )
    return StudyStore.create(spec, split, runs=runs, storage=storage, directions=["maximize"])


@dataclass
class Meter:
    """Measures the driver's time, and prints the mean of the last tenth of the trials before each mark.

    Attributes:
        storage: Name of the storage, for the table.
        sampler: Name of the sampler, for the table.
        n_ended: Number of trials that have ended.
        seconds: Wall time of the driver in seconds.
        cpu_seconds: CPU time of the driver in seconds.
        since: The three values above at the beginning of the current interval.
    """

    storage: str
    sampler: str
    n_ended: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    since: tuple[int, float, float] = (0, 0.0, 0.0)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Add the time of the block."""
        started, cpu_started = time.perf_counter(), time.process_time()
        yield
        self.seconds += time.perf_counter() - started
        self.cpu_seconds += time.process_time() - cpu_started

    def end(self) -> None:
        """Count a trial that has ended; print a row at a mark."""
        self.n_ended += 1
        mark = next((mark for mark in MARKS if mark >= self.n_ended), None)
        if mark is None:
            return
        if self.n_ended == mark - max(20, mark // 10):
            self.since = self.n_ended, self.seconds, self.cpu_seconds
        elif self.n_ended == mark:
            cost, cpu_cost = (
                1000 * (now - since) / (mark - self.since[0])
                for now, since in zip((self.seconds, self.cpu_seconds), self.since[1:], strict=True)
            )
            memory = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20
            print(f"| {self.storage} | {self.sampler} | {mark:,} | {cost:.1f} | {cpu_cost:.1f} | {memory:.0f} |", flush=True)


def run_in_virtual_time(proposer: Proposer, *, store: StudyStore, objective: object, at_once: int, meter: Meter) -> None:
    """Run trials as an executor does, with a virtual clock: an epoch takes between 1 and 1.6 units, without waiting.

    Args:
        proposer: Proposes the trials and receives their results.
        store: The study.
        objective: The study's objective.
        at_once: Number of concurrent trials.
        meter: Measures the calls of the proposer.
    """
    clock = 0.0
    events: list[tuple[float, int, int, Proposal]] = []
    is_over = False
    while events or not is_over:
        while not is_over and len(events) < at_once:
            with meter.running():
                proposal = proposer.propose()
            if isinstance(proposal, Proposal):
                heapq.heappush(events, (clock + 1 + 0.1 * (proposal.number % 7), proposal.number, 1, proposal))
            else:
                is_over = True
        if not events:
            return
        clock, number, epoch, proposal = heapq.heappop(events)
        if epoch > EPOCHS:
            stage_files(store, objective, number)
        with meter.running():
            has_ended = advance(proposer, proposal, epoch)
        if has_ended:
            meter.end()
        else:
            heapq.heappush(events, (clock + 1 + 0.1 * (number % 7), number, epoch + 1, proposal))


def advance(proposer: Proposer, proposal: Proposal, epoch: int) -> bool:
    """Report an epoch, or the end after the last epoch. Return whether the trial has ended."""
    if epoch > EPOCHS:
        facts = {"score": score_of(proposal, EPOCHS), "best_epoch": EPOCHS, "epochs": EPOCHS, "cut_short": False}
        proposer.finish(proposal.number, TrialEnd(Outcome.FINISHED, facts={**facts, "n_parameters": 100, "seconds": 1.0}))
        return True
    report = Report(epoch, score_of(proposal, epoch), facts={"n_parameters": 100})
    if proposer.observe(proposal.number, report) is Decision.CONTINUE:
        return False
    proposer.finish(proposal.number, TrialEnd(Outcome.STOPPED))
    return True


def stage_files(store: StudyStore, objective: object, number: int) -> None:
    """Write the files of a finished trial to its staging folder."""
    folder = staging_folder(store.folder / "trials", number, objective.driver)
    folder.mkdir()
    (folder / "model.keras").touch()


@contextlib.contextmanager
def temporary_storage(kind: str, folder: Path) -> Iterator[str]:
    """Yield the URL of a new storage."""
    if kind == "postgresql":
        with postgres_server(folder / "postgresql") as server:
            yield server.url
    else:
        yield f"journal:///{folder / 'studies.log'}" if kind == "journal" else default_storage(folder)


def simulate(kind: str, sampler: str, *, n_trials: int, at_once: int, profile: str | None) -> None:
    """Run one simulation and print its rows of the table."""
    with tempfile.TemporaryDirectory() as folder, temporary_storage(kind, Path(folder)) as url:
        store = create_study(Path(folder), url, sampler=sampler, pruner="asha")
        if kind == "memory":
            import optuna

            store.study = optuna.create_study(direction="maximize", study_name=store.name)
        meter = Meter(kind, sampler)
        n_statements = count_statements(store)

        def execute(objective: object, proposer: Proposer) -> None:
            run_in_virtual_time(proposer, store=store, objective=objective, at_once=at_once, meter=meter)

        search = lambda: run_search(  # noqa: E731
            store,
            Path("unused.npy"),
            weights_folder=None,
            sampler=sampler,
            budget=Budget(n_trials=n_trials, seconds=None, keep_models=10),
            execute=execute,
            listener=SilentListener(),
        )
        with profiled(profile):
            search()
        if n_statements is not None:
            each = ", ".join(f"{name} {count / n_trials:.1f}" for name, count in n_statements.most_common())
            print(
                f"statements per trial, {kind}, {sampler}: {sum(n_statements.values()) / n_trials:.1f} ({each})",
                file=sys.stderr,
            )


@contextlib.contextmanager
def profiled(file: str | None) -> Iterator[None]:
    """Write the statistics of cProfile to a file; None does not profile."""
    if file is None:
        yield
        return
    import cProfile

    with cProfile.Profile() as profiler:
        yield
    profiler.dump_stats(file)


def count_statements(store: StudyStore) -> Counter[str] | None:
    """Return a counter of the SQL statements by their first word, which is updated later; None for other storages."""
    database = uncached_storage(storage_of(store.study))
    if not isinstance(database, RDBStorage):
        return None
    n_statements: Counter[str] = Counter()

    @event.listens_for(database.engine, "before_cursor_execute")
    def count(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        n_statements[statement.split()[0]] += 1

    return n_statements


# --------------------------------------------------------------------------------------------------------- trials that sleep


def sleep(*, n_trials: int, seconds: float, workers: int, epochs: int, batch_trials: int, profile: str | None) -> None:
    """Run trials that sleep, and print the time beyond the sleep.

    Args:
        n_trials: Number of trials.
        seconds: Time that a trial or a batch sleeps, in seconds.
        workers: Number of Ray workers; 0 runs the trials in this process.
        epochs: Number of epochs of a trial.
        batch_trials: Number of trials in a batch.
        profile: File for the statistics of cProfile, or None.
    """
    from automl_cxr.engine.placement import RayResources
    from automl_cxr.engine.ray_execution import run_with_ray

    with tempfile.TemporaryDirectory() as folder:
        store = create_study(Path(folder), default_storage(Path(folder)), sampler="random", pruner="none")
        spent = [0.0, 0.0]  # wall and CPU seconds

        def execute(objective: object, proposer: Proposer) -> None:
            sleeping = Sleep(objective.trials, objective.driver, seconds, epochs)
            resources = RayResources(concurrency=workers or None, cpus_per_trial=1)
            run = partial(run_with_ray, resources=resources) if workers else run_inline
            started, cpu_started = time.perf_counter(), time.process_time()
            with profiled(profile):
                run(sleeping, proposer, batch_trials=batch_trials)
            spent[:] = time.perf_counter() - started, time.process_time() - cpu_started

        run_search(
            store,
            Path("unused.npy"),
            weights_folder=None,
            sampler="random",
            budget=Budget(n_trials=n_trials, seconds=None, keep_models=10),
            execute=execute,
            listener=SilentListener(),
        )
    ideal = n_trials * seconds / max(1, workers) / batch_trials
    wall, cpu = spent
    extra, cpu = 1000 * (wall - ideal) / n_trials, 1000 * cpu / n_trials
    print(
        f"| {n_trials:,} | {seconds:g} | {workers} | {batch_trials} | {wall:.1f} | {ideal:.1f} | {extra:.1f} | {cpu:.1f} |",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    simulate_parser = commands.add_parser("simulate", help="simulate trials in virtual time")
    simulate_parser.add_argument("--trials", type=int, default=MARKS[-1], help="number of trials")
    simulate_parser.add_argument("--at-once", type=int, default=500, help="number of concurrent trials")
    simulate_parser.add_argument(
        "--storage", action="append", choices=STORAGES, help="storage; can be repeated; by default all"
    )
    simulate_parser.add_argument("--sampler", action="append", help="sampler; can be repeated; by default random")
    sleep_parser = commands.add_parser("sleep", help="run trials that sleep, with Ray or in this process")
    for command in (simulate_parser, sleep_parser):
        command.add_argument("--profile", help="file for the statistics of cProfile")
    sleep_parser.add_argument("--trials", type=int, default=2_000, help="number of trials")
    sleep_parser.add_argument("--seconds", type=float, default=1.0, help="time that a trial sleeps, in seconds")
    sleep_parser.add_argument("--workers", type=int, default=2, help="number of Ray workers; 0 runs the trials in this process")
    sleep_parser.add_argument("--epochs", type=int, default=1, help="number of epochs of a trial")
    sleep_parser.add_argument(
        "--batch-trials", type=int, default=1, help="number of trials in a batch, which sleeps as long as one trial"
    )
    arguments = parser.parse_args()
    os.environ.setdefault("AUTOML_CXR_CACHE", tempfile.gettempdir())
    if arguments.command == "sleep":
        print("| trials | seconds | workers | batch trials | wall s | ideal s | extra ms per trial | driver CPU ms per trial |")
        print("| --- | --- | --- | --- | --- | --- | --- | --- |")
        sleep(
            n_trials=arguments.trials,
            seconds=arguments.seconds,
            workers=arguments.workers,
            epochs=arguments.epochs,
            batch_trials=arguments.batch_trials,
            profile=arguments.profile,
        )
        return
    print("| storage | sampler | trials | driver ms per trial | driver CPU ms per trial | MB |\n" + "| --- " * 6 + "|")
    for kind in arguments.storage or STORAGES:
        for sampler in arguments.sampler or ["random"]:
            if os.fork() == 0:  # a separate process, so that the memory of one simulation is not counted for the next
                simulate(kind, sampler, n_trials=arguments.trials, at_once=arguments.at_once, profile=arguments.profile)
                os._exit(0)
            os.wait()


if __name__ == "__main__":
    main()
