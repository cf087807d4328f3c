"""Many drivers on one study while a dashboard reads it: every trial stands, none twice, and nobody sees an error.

    python benchmarks/writers.py --writers 16 --trials 20                   # SQLite, journal and PostgreSQL
    python benchmarks/writers.py --writers 16 --trials 20 --storage sqlite

Each writer is a process with a driver of its own; its trials take no time, so that the storage is all that they wait for.
PostgreSQL needs Debian's package; the server is started and removed by the script. Ends with 1 if anything is amiss.
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
from benchmarks.scale import EPOCHS, Silence, begin_study, opened
from benchmarks.sleeping import Sleep

KINDS = ("sqlite", "journal", "postgresql")
PAGES = ("/api/studies", "/api/studies/{study}")


class Strict(Silence):
    """Takes a storage that was away for an error: here nobody touches it."""

    def on_storage_away(self, reason: str) -> None:
        raise RuntimeError(f"the storage was away: {reason}")


def write(runs: Path, url: str, n_trials: int, outcomes: multiprocessing.Queue) -> None:
    """Be one driver, until the study has all its trials."""
    try:
        store = StudyStore.open("scale", runs=runs, storage=url)

        def execute(objective: Objective, proposer: Proposer) -> None:
            run_inline(Sleep(objective.trials, objective.driver, seconds=0.0, epochs=EPOCHS), proposer)

        budget = Budget(n_trials=n_trials, seconds=None, keep_models=10)
        run_search(
            store, Path("unused"), weights_folder=None, sampler="random", budget=budget, execute=execute, listener=Strict()
        )
        outcomes.put("")
    except Exception as error:  # noqa: BLE001 - told, whatever it is
        outcomes.put(f"{type(error).__name__}: {error}")


def read(url: str, stop: multiprocessing.Event, outcomes: multiprocessing.Queue) -> None:
    """Be the dashboard, whose pages are asked for again and again; tell how often, and what went wrong."""
    from optuna_dashboard import wsgi

    storage = open_existing_storage(url)
    app, n_answers, problem = wsgi(storage), 0, ""
    study = storage.get_study_id_from_name("scale")
    while not stop.is_set() and not problem:
        for page in PAGES:
            said: list[str] = []
            asked = {"REQUEST_METHOD": "GET", "PATH_INFO": page.format(study=study), "wsgi.url_scheme": "http"}
            asked |= {"SERVER_NAME": "x", "SERVER_PORT": "1", "QUERY_STRING": "after=0", "wsgi.errors": sys.stderr}
            body = b"".join(app(asked, lambda status, *_, said=said: said.append(status)))
            if said != ["200 OK"] or not json.loads(body):
                problem = f"{page}: {said} {body[:200]!r}"
            n_answers += 1
    outcomes.put((n_answers, problem))


def compete(url: str, runs: Path, *, n_writers: int, trials_each: int) -> tuple[float, int, list[str]]:
    """Run the writers and the reader; give the seconds, the pages read and what was amiss."""
    n_trials = n_writers * trials_each
    begin_study(runs, url, sampler="random", pruner="asha")
    processes = multiprocessing.get_context("spawn")
    written, read_pages, stop = processes.Queue(), processes.Queue(), processes.Event()
    reader = processes.Process(target=read, args=(url, stop, read_pages))
    writers = [processes.Process(target=write, args=(runs, url, n_trials, written)) for _ in range(n_writers)]
    reader.start()
    began = time.perf_counter()
    for writer in writers:
        writer.start()
    problems = [problem for problem in (written.get() for _ in writers) if problem]
    seconds = time.perf_counter() - began
    stop.set()
    n_answers, problem = read_pages.get()
    for process in (*writers, reader):
        process.join()
    return seconds, n_answers, [*problems, *([problem] if problem else []), *check(runs, url, n_trials)]


def check(runs: Path, url: str, n_trials: int) -> list[str]:
    """Say what is amiss in the record of a study that should have so many trials."""
    store = StudyStore.open("scale", runs=runs, storage=url)
    records, amiss = store.records(), []
    if [record.number for record in records] != list(range(n_trials)):
        amiss.append(f"{len(records)} trials instead of {n_trials}")
    if not {record.state for record in records} <= {TrialState.COMPLETE, TrialState.PRUNED}:
        amiss.append(f"states {[str(record.state) for record in records]}")
    if len({json.dumps(dict(record.params), sort_keys=True) for record in records}) != len(records):
        amiss.append("a configuration was run twice")
    if any(record.attempts != 1 for record in records):
        amiss.append("a trial was begun twice")
    without = [record.number for record in store.records(TrialState.COMPLETE) if not store.trial_folder(record.number).is_dir()]
    return [*amiss, *([f"COMPLETE without files: {without}"] if without else [])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--writers", type=int, default=16)
    parser.add_argument("--trials", type=int, default=20, help="trials for each writer, on average")
    parser.add_argument("--storage", action="append", choices=KINDS, help="repeatable; by default all")
    parser.add_argument("--at", metavar="URL", help="a storage that there is, instead")
    parser.add_argument("--runs", type=Path, help="folder of the files, with --at")
    words = parser.parse_args()
    print("| storage | writers | trials | seconds | trials a second | pages read | amiss |\n" + "| --- " * 7 + "|")
    is_amiss = False
    for kind in words.storage or KINDS if words.at is None else [words.at.partition(":")[0]]:
        with tempfile.TemporaryDirectory() as folder:
            if words.at is not None:
                told = compete(words.at, words.runs, n_writers=words.writers, trials_each=words.trials)
            else:
                with opened(kind, Path(folder)) as url:
                    told = compete(url, Path(folder), n_writers=words.writers, trials_each=words.trials)
        seconds, n_answers, amiss = told
        n_trials = words.writers * words.trials
        row = (
            kind,
            words.writers,
            n_trials,
            f"{seconds:.1f}",
            f"{n_trials / seconds:.1f}",
            n_answers,
            "; ".join(amiss) or "nothing",
        )
        print("| " + " | ".join(map(str, row)) + " |", flush=True)
        is_amiss = is_amiss or bool(amiss)
    sys.exit(is_amiss)


if __name__ == "__main__":
    main()
