"""Run many drivers on one study while a dashboard reads it, and check that all trials are recorded once and without errors.

    python benchmarks/writers.py --writers 16 --trials 20                   # SQLite, journal and PostgreSQL
    python benchmarks/writers.py --writers 16 --trials 20 --storage sqlite

Each writer is a process with one driver. Its trials take no time, so only the storage limits the speed. PostgreSQL must be
installed (Debian package postgresql); the script starts and removes a server. The exit code is 1 if a check fails.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import tempfile
import time
from pathlib import Path

from automl_cxr.engine.inline_execution import run_inline
from automl_cxr.engine.protocol import Objective, Proposer
from automl_cxr.records import TrialState
from automl_cxr.storage.urls import open_existing_storage
from automl_cxr.study.budget import Budget
from automl_cxr.study.runner import run_search
from automl_cxr.study.store import StudyStore

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.scale import EPOCHS, SilentListener, create_study, temporary_storage
from benchmarks.sleeping import Sleep

KINDS = ("sqlite", "journal", "postgresql")
PAGES = ("/api/studies", "/api/studies/{study}")


class StrictListener(SilentListener):
    """A listener that raises an error if the storage does not respond, because nothing interrupts it here."""

    def on_storage_away(self, reason: str) -> None:
        raise RuntimeError(f"the storage does not respond: {reason}")


def run_writer(runs: Path, url: str, n_trials: int, outcomes: multiprocessing.Queue) -> None:
    """Run one driver until the study has all its trials. Puts an error message, or an empty string, into the queue."""
    try:
        store = StudyStore.open("scale", runs=runs, storage=url)

        def execute(objective: Objective, proposer: Proposer) -> None:
            run_inline(Sleep(objective.trials, objective.driver, seconds=0.0, epochs=EPOCHS), proposer)

        budget = Budget(n_trials=n_trials, seconds=None, keep_models=10)
        run_search(
            store,
            Path("unused"),
            weights_folder=None,
            sampler="random",
            budget=budget,
            execute=execute,
            listener=StrictListener(),
        )
        outcomes.put("")
    except Exception as error:  # noqa: BLE001 - any error is reported
        outcomes.put(f"{type(error).__name__}: {error}")


def run_reader(url: str, stop: multiprocessing.Event, outcomes: multiprocessing.Queue) -> None:
    """Request the pages of the dashboard repeatedly. Puts the number of pages and an error message, or "", into the queue."""
    from optuna_dashboard import wsgi

    storage = open_existing_storage(url)
    app, n_pages, problem = wsgi(storage), 0, ""
    study = storage.get_study_id_from_name("scale")
    while not stop.is_set() and not problem:
        for page in PAGES:
            statuses: list[str] = []
            request = {"REQUEST_METHOD": "GET", "PATH_INFO": page.format(study=study), "wsgi.url_scheme": "http"}
            request |= {"SERVER_NAME": "x", "SERVER_PORT": "1", "QUERY_STRING": "after=0", "wsgi.errors": sys.stderr}
            body = b"".join(app(request, lambda status, *_, statuses=statuses: statuses.append(status)))
            if statuses != ["200 OK"] or not json.loads(body):
                problem = f"{page}: {statuses} {body[:200]!r}"
            n_pages += 1
    outcomes.put((n_pages, problem))


def compete(url: str, runs: Path, *, n_writers: int, trials_each: int) -> tuple[float, int, list[str]]:
    """Run the writers and the reader; return the seconds, the number of pages read and the problems."""
    n_trials = n_writers * trials_each
    create_study(runs, url, sampler="random", pruner="asha")
    processes = multiprocessing.get_context("spawn")
    written, pages, stop = processes.Queue(), processes.Queue(), processes.Event()
    reader = processes.Process(target=run_reader, args=(url, stop, pages))
    writers = [processes.Process(target=run_writer, args=(runs, url, n_trials, written)) for _ in range(n_writers)]
    reader.start()
    started = time.perf_counter()
    for writer in writers:
        writer.start()
    problems = [problem for problem in (written.get() for _ in writers) if problem]
    seconds = time.perf_counter() - started
    stop.set()
    n_pages, problem = pages.get()
    for process in (*writers, reader):
        process.join()
    return seconds, n_pages, [*problems, *([problem] if problem else []), *check(runs, url, n_trials)]


def check(runs: Path, url: str, n_trials: int) -> list[str]:
    """Return the problems in the record of a study that must have a given number of trials."""
    store = StudyStore.open("scale", runs=runs, storage=url)
    records, problems = store.records(), []
    if [record.number for record in records] != list(range(n_trials)):
        problems.append(f"{len(records)} trials instead of {n_trials}")
    if not {record.state for record in records} <= {TrialState.COMPLETE, TrialState.PRUNED}:
        problems.append(f"states {[str(record.state) for record in records]}")
    if len({json.dumps(dict(record.params), sort_keys=True) for record in records}) != len(records):
        problems.append("a configuration was run twice")
    if any(record.attempts != 1 for record in records):
        problems.append("a trial was started twice")
    incomplete = [
        record.number for record in store.records(TrialState.COMPLETE) if not store.trial_folder(record.number).is_dir()
    ]
    return [*problems, *([f"COMPLETE without files: {incomplete}"] if incomplete else [])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--writers", type=int, default=16, help="number of writers")
    parser.add_argument("--trials", type=int, default=20, help="mean number of trials of a writer")
    parser.add_argument("--storage", action="append", choices=KINDS, help="storage; can be repeated; by default all")
    parser.add_argument("--at", metavar="URL", help="an existing storage, instead of --storage")
    parser.add_argument("--runs", type=Path, help="folder of the studies' files, with --at")
    arguments = parser.parse_args()
    print("| storage | writers | trials | seconds | trials per second | pages read | problems |\n" + "| --- " * 7 + "|")
    has_problems = False
    for kind in arguments.storage or KINDS if arguments.at is None else [arguments.at.partition(":")[0]]:
        with tempfile.TemporaryDirectory() as folder:
            if arguments.at is not None:
                result = compete(arguments.at, arguments.runs, n_writers=arguments.writers, trials_each=arguments.trials)
            else:
                with temporary_storage(kind, Path(folder)) as url:
                    result = compete(url, Path(folder), n_writers=arguments.writers, trials_each=arguments.trials)
        seconds, n_pages, problems = result
        n_trials = arguments.writers * arguments.trials
        row = (
            kind,
            arguments.writers,
            n_trials,
            f"{seconds:.1f}",
            f"{n_trials / seconds:.1f}",
            n_pages,
            "; ".join(problems) or "none",
        )
        print("| " + " | ".join(map(str, row)) + " |", flush=True)
        has_problems = has_problems or bool(problems)
    sys.exit(has_problems)


if __name__ == "__main__":
    main()
