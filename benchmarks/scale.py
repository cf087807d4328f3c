"""What the driver costs as a study grows: simulated trials at a large scale, and real ones that only sleep.

    python benchmarks/scale.py simulate --trials 10000 --at-once 500          # in virtual time: no Ray, no Keras, no training
    python benchmarks/scale.py simulate --storage sqlite --sampler tpe --trials 1000
    python benchmarks/scale.py sleep --trials 200 --seconds 1                 # through Ray, on two workers
    python benchmarks/scale.py sleep --trials 1000 --seconds 0 --epochs 10 --batch-trials 16   # in batches that do nothing

The first drives the real proposer and the real record as an executor would, on each storage, and prints driver seconds a trial
and memory around 100, 1,000 and 10,000 trials. "memory" is Optuna's storage in memory, for reference. PostgreSQL needs Debian's
package; the server is started and removed by the script. The second prints wall time against the time that the workers sleep.
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


class Silence:
    """Listens to a search and says nothing."""

    def on_begin(self, number: int, *, resumed: bool) -> None: ...
    def on_epoch(self, number: int, report: Report) -> None: ...
    def on_failure(self, number: int, reason: str) -> None: ...
    def on_lost(self, number: int) -> None: ...
    def on_end(self, record: TrialRecord) -> None: ...

    def on_storage_away(self, reason: str) -> None:
        print(f"the storage is away: {reason}", file=sys.stderr)

    def on_lock_timeout(self, message: str) -> None:
        print(message, file=sys.stderr)


def begin_study(runs: Path, storage: str, *, sampler: str, pruner: str) -> StudyStore:
    """Write the record of a study whose data nobody will read."""
    part = PartRecord(images=("a.png",), labels=(0,), patients=("a",))
    split = SplitRecord(
        classes=("a", "b"), train=part, valid=part, test=(), seed=0, grouped=False, origin="made", unreadable={}
    )
    spec = StudySpec(
        name="scale",
        space_name=SPACE,
        space_toml=read_space(SPACE),
        data="nowhere",
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
    """Sums the driver's seconds, and tells them for the last tenth of the trials before each mark."""

    storage: str
    sampler: str
    n_ended: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    since: tuple[int, float, float] = (0, 0.0, 0.0)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Count what the driver does meanwhile."""
        began, cpu_began = time.perf_counter(), time.process_time()
        yield
        self.seconds += time.perf_counter() - began
        self.cpu_seconds += time.process_time() - cpu_began

    def end(self) -> None:
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
    """Do what an executor does, for so many trials at once, where an epoch takes one unit of a clock that nobody waits for."""
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
    """Report an epoch, or the end after the last one; tell whether the trial has ended."""
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
    folder = staging_folder(store.folder / "trials", number, objective.driver)
    folder.mkdir()
    (folder / "model.keras").touch()


@contextlib.contextmanager
def opened(kind: str, folder: Path) -> Iterator[str]:
    """Give the URL of a storage of its own."""
    if kind == "postgresql":
        with postgres_server(folder / "postgresql") as server:
            yield server.url
    else:
        yield f"journal:///{folder / 'studies.log'}" if kind == "journal" else default_storage(folder)


def simulate(kind: str, sampler: str, *, n_trials: int, at_once: int, profile: str | None) -> None:
    """Run one simulation and print its rows."""
    with tempfile.TemporaryDirectory() as folder, opened(kind, Path(folder)) as url:
        store = begin_study(Path(folder), url, sampler=sampler, pruner="asha")
        if kind == "memory":
            import optuna

            store.study = optuna.create_study(direction="maximize", study_name=store.name)
        meter = Meter(kind, sampler)
        counted = count_statements(store)

        def execute(objective: object, proposer: Proposer) -> None:
            run_in_virtual_time(proposer, store=store, objective=objective, at_once=at_once, meter=meter)

        search = lambda: run_search(  # noqa: E731
            store,
            Path("unused.npy"),
            weights_folder=None,
            sampler=sampler,
            budget=Budget(n_trials=n_trials, seconds=None, keep_models=10),
            execute=execute,
            listener=Silence(),
        )
        with profiled(profile):
            search()
        if counted is not None:
            each = ", ".join(f"{name} {count / n_trials:.1f}" for name, count in counted.most_common())
            print(f"statements a trial on {kind}, {sampler}: {sum(counted.values()) / n_trials:.1f} ({each})", file=sys.stderr)


@contextlib.contextmanager
def profiled(file: str | None) -> Iterator[None]:
    """Write the statistics of cProfile to a file, if one is named."""
    if file is None:
        yield
        return
    import cProfile

    with cProfile.Profile() as profiler:
        yield
    profiler.dump_stats(file)


def count_statements(store: StudyStore) -> Counter[str] | None:
    """Count the statements that reach a database, by their verbs; None where the storage is none."""
    database = uncached_storage(storage_of(store.study))
    if not isinstance(database, RDBStorage):
        return None
    counted: Counter[str] = Counter()

    @event.listens_for(database.engine, "before_cursor_execute")
    def count(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        counted[statement.split()[0]] += 1

    return counted


# --------------------------------------------------------------------------------------------------------- trials that sleep


def sleep(*, n_trials: int, seconds: float, workers: int, epochs: int, batch_trials: int, profile: str | None) -> None:
    """Run trials that sleep through Ray, or without workers in this process, and print what the rest costs."""
    from automl_cxr.engine.ray_execution import RayResources, run_with_ray

    with tempfile.TemporaryDirectory() as folder:
        store = begin_study(Path(folder), default_storage(Path(folder)), sampler="random", pruner="none")
        took = [0.0, 0.0]

        def execute(objective: object, proposer: Proposer) -> None:
            sleeping = Sleep(objective.trials, objective.driver, seconds, epochs)
            resources = RayResources(concurrency=workers or None, cpus_per_trial=1)
            run = partial(run_with_ray, resources=resources) if workers else run_inline
            began, cpu_began = time.perf_counter(), time.process_time()
            with profiled(profile):
                run(sleeping, proposer, batch_trials=batch_trials)
            took[:] = time.perf_counter() - began, time.process_time() - cpu_began

        run_search(
            store,
            Path("unused.npy"),
            weights_folder=None,
            sampler="random",
            budget=Budget(n_trials=n_trials, seconds=None, keep_models=10),
            execute=execute,
            listener=Silence(),
        )
    ideal = n_trials * seconds / max(1, workers) / batch_trials
    more, cpu = (1000 * (spent - least) / n_trials for spent, least in zip(took, (ideal, 0.0), strict=True))
    print(
        f"| {n_trials:,} | {seconds:g} | {workers} | {batch_trials} | {took[0]:.1f} | {ideal:.1f} | {more:.1f} | {cpu:.1f} |",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    simulated = commands.add_parser("simulate", help="trials in virtual time")
    simulated.add_argument("--trials", type=int, default=MARKS[-1])
    simulated.add_argument("--at-once", type=int, default=500)
    simulated.add_argument("--storage", action="append", choices=STORAGES, help="repeatable; by default all")
    simulated.add_argument("--sampler", action="append", help="repeatable; by default random")
    slept = commands.add_parser("sleep", help="real trials that sleep, through Ray or in this process")
    for command in (simulated, slept):
        command.add_argument("--profile", help="file for the statistics of cProfile")
    slept.add_argument("--trials", type=int, default=2_000)
    slept.add_argument("--seconds", type=float, default=1.0)
    slept.add_argument("--workers", type=int, default=2, help="0 for none: the trials run in this process")
    slept.add_argument("--epochs", type=int, default=1)
    slept.add_argument("--batch-trials", type=int, default=1, help="trials of a batch, which sleeps as long as one")
    words = parser.parse_args()
    os.environ.setdefault("AUTOML_CXR_CACHE", tempfile.gettempdir())
    if words.command == "sleep":
        print("| trials | seconds | workers | batch trials | wall s | ideal s | more: ms a trial | of them the driver's CPU |")
        print("| --- | --- | --- | --- | --- | --- | --- | --- |")
        sleep(
            n_trials=words.trials,
            seconds=words.seconds,
            workers=words.workers,
            epochs=words.epochs,
            batch_trials=words.batch_trials,
            profile=words.profile,
        )
        return
    print("| storage | sampler | trials | driver ms a trial | of them on the CPU | MB |\n| --- | --- | --- | --- | --- | --- |")
    for kind in words.storage or STORAGES:
        for sampler in words.sampler or ["random"]:
            if os.fork() == 0:  # the memory of one is not to count for the next
                simulate(kind, sampler, n_trials=words.trials, at_once=words.at_once, profile=words.profile)
                os._exit(0)
            os.wait()


if __name__ == "__main__":
    main()
