"""Kill a search and its workers at random moments, and compare the study with one that was not interrupted.

    python benchmarks/crash.py --driver-kills 20 --worker-kills 20
    python benchmarks/crash.py --executor inline --driver-kills 20

The script trains tiny networks on phantom radiographs, with Ray or in the process of the search. The searches that are
killed have a budget of trials that they cannot reach. After the last kill, one more search completes the study. With one
worker the seed determines all decisions, so a second study, which is not interrupted, must have the same trials:
hyperparameters, states and scores of every epoch. With several workers the order of events differs, and the script only
checks that the record is complete.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import optuna
import psutil

SPACE = """
family = "scratch"
batch_norm = false
[n_blocks]
type = "int"
low = 1
high = 2
default = 1
[dense_units]
type = "int"
low = 2
high = 16
default = 8
[learning_rate]
type = "float"
low = 1e-4
high = 1e-1
log = true
default = 1e-2
"""
MORE_TRIALS_THAN_REACHED = 10_000
FILES = ("config.json", "history.csv", "valid.npz")


def command(runs: Path, space: Path, *, name: str, trials: int, executor: str, workers: int, pruner: str) -> list[str]:
    """Return the command line of a search."""
    arguments = (
        f"search --space {space} --name {name} --runs {runs} --trials {trials} --epochs 9 --image-size 32 --batch-size 16"
    )
    arguments += f" --sampler tpe --pruner {pruner} --executor {executor} --seed 7"
    if executor == "ray":
        arguments += f" --concurrency {workers} --cpus-per-trial 1"
    return [sys.executable, "-c", "from automl_cxr.cli import main; main()", *arguments.split()]


def workers_of(driver: psutil.Process) -> list[psutil.Process]:
    """Return the worker processes of a search."""
    return [process for process in driver.children(recursive=True) if "automl_cxr.engine.worker" in process.cmdline()]


def sleep_unless_ended(driver: subprocess.Popen[bytes], seconds: float, log: Path) -> None:
    """Sleep; end the benchmark with the end of the log if the search ends by itself."""
    try:
        code = driver.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        return
    end_of_log = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
    raise SystemExit(f"The search must run until it is killed; it ended with code {code}. End of its log:\n{end_of_log}")


def kill_a_worker(driver: subprocess.Popen[bytes], rng: random.Random) -> bool:
    """Kill a random worker of a search; return whether it has one."""
    try:
        workers = workers_of(psutil.Process(driver.pid))
        if workers:
            rng.choice(workers).kill()
        return bool(workers)
    except psutil.NoSuchProcess:
        return False


def search_and_kill(
    command_line: list[str], log: Path, rng: random.Random, *, driver_kills: int, worker_kills: int
) -> Counter[str]:
    """Start searches and kill them. The kills of workers are distributed evenly over the searches.

    Args:
        command_line: Command line of the search.
        log: File that receives the output of the searches.
        rng: Source of the random moments.
        driver_kills: Number of searches to kill.
        worker_kills: Number of workers to kill.

    Returns:
        The number of kills, by "driver" and "worker".
    """
    kills: Counter[str] = Counter()
    while kills["driver"] < driver_kills:
        with log.open("ab") as file:
            driver = subprocess.Popen(command_line, stdout=file, stderr=file)
        searches_left = driver_kills - kills["driver"]
        n_workers_to_kill = -(-(worker_kills - kills["worker"]) // searches_left)
        # Early moments are included: the search reads data and starts Ray during the first seconds.
        sleep_unless_ended(driver, rng.uniform(0.5, 40), log)
        while n_workers_to_kill > 0:
            sleep_unless_ended(driver, rng.uniform(0.1, 8), log)
            if kill_a_worker(driver, rng):
                kills["worker"] += 1
                n_workers_to_kill -= 1
        driver.send_signal(signal.SIGKILL)
        driver.wait()
        kills["driver"] += 1
        print(f"kills: {dict(kills)}", file=sys.stderr, flush=True)
    return kills


def trials_of(runs: Path, name: str) -> list[optuna.trial.FrozenTrial]:
    """Return the trials of a study."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.load_study(study_name=name, storage=f"sqlite:///{runs / 'studies.db'}").get_trials()


def count_faults(runs: Path, name: str, trials: list[optuna.trial.FrozenTrial], n_requested: int) -> dict[str, int]:
    """Count faults of a record, by their descriptions. All counts must be 0."""
    folder = runs / name / "trials"
    complete = [trial for trial in trials if trial.state is optuna.trial.TrialState.COMPLETE]
    points = Counter(str(sorted(trial.params.items())) for trial in trials)
    return {
        "difference between requested and recorded trials": abs(len(trials) - n_requested),
        "unfinished trials": sum(not trial.state.is_finished() for trial in trials),
        "repeated configurations": sum(count - 1 for count in points.values()),
        "COMPLETE trials with missing files": sum(
            not all((folder / f"{trial.number:05d}" / file).is_file() for file in FILES) for trial in complete
        ),
        "leftover temporary folders": sum(path.name.startswith(".") for path in folder.iterdir()),
        "leftover checkpoints": len(list((runs / name / "checkpoints").glob("*.npz"))),
    }


def count_differences(trials: list[optuna.trial.FrozenTrial], others: list[optuna.trial.FrozenTrial]) -> int:
    """Count the trials that differ in hyperparameters, state or scores."""
    return sum(
        (one.params, one.state, one.value, one.intermediate_values)
        != (other.params, other.state, other.value, other.intermediate_values)
        for one, other in zip(trials, others, strict=True)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--driver-kills", type=int, default=20, help="number of times to kill the search")
    parser.add_argument(
        "--worker-kills", type=int, help="number of workers to kill, with Ray only (default: 20 with Ray, 0 inline)"
    )
    parser.add_argument("--executor", choices=("ray", "inline"), default="ray", help="where the trials run")
    parser.add_argument(
        "--workers",
        type=int,
        default=1,
        help="number of concurrent trials; trials are compared with those of an uninterrupted study for 1 only",
    )
    parser.add_argument("--pruner", default="asha", help="pruner of the searches")
    parser.add_argument("--folder", type=Path, help="new folder that keeps the studies and the log (default: a temporary one)")
    parser.add_argument("--seed", type=int, default=0, help="random seed of the moments")
    arguments = parser.parse_args()
    is_inline = arguments.executor == "inline"
    if is_inline and (arguments.worker_kills or arguments.workers != 1):
        parser.error("An inline search has no workers: omit --worker-kills and --workers.")
    worker_kills = 0 if is_inline else 20 if arguments.worker_kills is None else arguments.worker_kills
    started = time.monotonic()
    with contextlib.nullcontext(arguments.folder) if arguments.folder else tempfile.TemporaryDirectory() as folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
        runs, space = Path(folder) / "runs", Path(folder) / "tiny.toml"
        space.write_text(SPACE)
        settings = {"executor": arguments.executor, "workers": arguments.workers, "pruner": arguments.pruner}
        log = Path(folder) / "log"
        kills = search_and_kill(
            command(runs, space, name="killed", trials=MORE_TRIALS_THAN_REACHED, **settings),
            log,
            random.Random(arguments.seed),
            driver_kills=arguments.driver_kills,
            worker_kills=worker_kills,
        )
        n_trials = len(trials_of(runs, "killed")) + 4
        subprocess.run(command(runs, space, name="killed", trials=n_trials, **settings), check=True, capture_output=True)
        killed = trials_of(runs, "killed")
        rows = {"trials": n_trials, "drivers killed": kills["driver"], "workers killed": kills["worker"]}
        rows["trials started more than once"] = sum(trial.user_attrs.get("attempts", 1) > 1 for trial in killed)
        rows |= {str(state.name): count for state, count in Counter(trial.state for trial in killed).items()}
        rows |= count_faults(runs, "killed", killed, n_trials)
        if arguments.workers == 1:
            command_line = command(runs, space, name="uninterrupted", trials=n_trials, **settings)
            subprocess.run(command_line, check=True, capture_output=True)
            rows["trials that differ from the uninterrupted study"] = count_differences(
                killed, trials_of(runs, "uninterrupted")
            )
        rows["minutes"] = round((time.monotonic() - started) / 60)
    print("| | |\n| --- | --- |")
    for quantity, count in rows.items():
        print(f"| {quantity} | {count} |")


if __name__ == "__main__":
    main()
