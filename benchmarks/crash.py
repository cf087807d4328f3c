"""Kill a search and its workers at random moments, and compare what becomes of the study with one that was left in peace.

    python benchmarks/crash.py --driver-kills 20 --worker-kills 20

Trains tiny networks on phantom radiographs through Ray. The searches under fire are asked for more trials than they will ever
reach; when all kills are spent, a last one completes the study. With one worker the same seed decides the same, so that
another study, never interrupted, must hold the same trials: values, states, scores of every epoch. With more workers what
runs at the same time differs, and only the record's wholeness is checked.
"""

from __future__ import annotations

import argparse
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
NEVER_REACHED = 10_000
FILES = ("config.json", "history.csv", "valid.npz")


def command(runs: Path, space: Path, *, name: str, trials: int, workers: int, pruner: str) -> list[str]:
    words = f"search --space {space} --name {name} --runs {runs} --trials {trials} --epochs 9 --image-size 32 --batch-size 16"
    words += f" --sampler tpe --pruner {pruner} --concurrency {workers} --cpus-per-trial 1 --seed 7"
    return [sys.executable, "-c", "from automl_cxr.cli import main; main()", *words.split()]


def workers_of(driver: psutil.Process) -> list[psutil.Process]:
    return [process for process in driver.children(recursive=True) if "automl_cxr.engine.worker" in process.cmdline()]


def sleep_unless_ended(driver: subprocess.Popen[bytes], seconds: float, log: Path) -> None:
    try:
        code = driver.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        return
    said = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
    raise SystemExit(f"A search that had nothing to end for ended with code {code}. It said:\n{said}")


def kill_a_worker(driver: subprocess.Popen[bytes], rng: random.Random) -> bool:
    try:
        found = workers_of(psutil.Process(driver.pid))
        if found:
            rng.choice(found).kill()
        return bool(found)
    except psutil.NoSuchProcess:
        return False


def search_under_fire(words: list[str], log: Path, rng: random.Random, *, driver_kills: int, worker_kills: int) -> Counter[str]:
    """Kill until all kills are spent, as many workers before each driver's turn as the rest allows."""
    kills: Counter[str] = Counter()
    while kills["driver"] < driver_kills:
        with log.open("ab") as file:
            driver = subprocess.Popen(words, stdout=file, stderr=file)
        lives_left = driver_kills - kills["driver"]
        quota = -(-(worker_kills - kills["worker"]) // lives_left)
        # From its first breath on, while it reads data and starts Ray too, not only when it is at work.
        sleep_unless_ended(driver, rng.uniform(0.5, 40), log)
        while quota > 0:
            sleep_unless_ended(driver, rng.uniform(0.1, 8), log)
            if kill_a_worker(driver, rng):
                kills["worker"] += 1
                quota -= 1
        driver.send_signal(signal.SIGKILL)
        driver.wait()
        kills["driver"] += 1
        print(f"{dict(kills)} kills so far", file=sys.stderr, flush=True)
    return kills


def trials_of(runs: Path, name: str) -> list[optuna.trial.FrozenTrial]:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.load_study(study_name=name, storage=f"sqlite:///{runs / 'studies.db'}").get_trials()


def faults(runs: Path, name: str, trials: list[optuna.trial.FrozenTrial], n_asked: int) -> dict[str, int]:
    """Count what must not be."""
    folder = runs / name / "trials"
    complete = [trial for trial in trials if trial.state is optuna.trial.TrialState.COMPLETE]
    points = Counter(str(sorted(trial.params.items())) for trial in trials)
    return {
        "trials more or fewer than asked": abs(len(trials) - n_asked),
        "trials without an end": sum(not trial.state.is_finished() for trial in trials),
        "configurations trained twice": sum(count - 1 for count in points.values()),
        "COMPLETE trials without their files": sum(
            not all((folder / f"{trial.number:05d}" / file).is_file() for file in FILES) for trial in complete
        ),
        "files of no trial": sum(path.name.startswith(".") for path in folder.iterdir()),
        "checkpoints left": len(list((runs / name / "checkpoints").glob("*.npz"))),
    }


def difference(trials: list[optuna.trial.FrozenTrial], others: list[optuna.trial.FrozenTrial]) -> int:
    """Count the trials that were decided or scored otherwise."""
    return sum(
        (one.params, one.state, one.value, one.intermediate_values)
        != (other.params, other.state, other.value, other.intermediate_values)
        for one, other in zip(trials, others, strict=True)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--driver-kills", type=int, default=20)
    parser.add_argument("--worker-kills", type=int, default=20)
    parser.add_argument("--workers", type=int, default=1, help="trials at once; decisions are compared for 1 only")
    parser.add_argument("--pruner", default="asha")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    arguments = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        runs, space = Path(folder) / "runs", Path(folder) / "tiny.toml"
        space.write_text(SPACE)
        how = {"workers": arguments.workers, "pruner": arguments.pruner}
        log = Path(folder) / "log"
        kills = search_under_fire(
            command(runs, space, name="killed", trials=NEVER_REACHED, **how),
            log,
            random.Random(arguments.seed),
            driver_kills=arguments.driver_kills,
            worker_kills=arguments.worker_kills,
        )
        n_trials = len(trials_of(runs, "killed")) + 4
        subprocess.run(command(runs, space, name="killed", trials=n_trials, **how), check=True, capture_output=True)
        killed = trials_of(runs, "killed")
        rows = {"trials": n_trials, "drivers killed": kills["driver"], "workers killed": kills["worker"]}
        rows["trials begun more than once"] = sum(trial.user_attrs.get("attempts", 1) > 1 for trial in killed)
        rows |= {str(state.name): count for state, count in Counter(trial.state for trial in killed).items()}
        rows |= faults(runs, "killed", killed, n_trials)
        if arguments.workers == 1:
            words = command(runs, space, name="peaceful", trials=n_trials, **how)
            subprocess.run(words, check=True, capture_output=True)
            rows["trials otherwise than without interruption"] = difference(killed, trials_of(runs, "peaceful"))
        rows["minutes"] = round((time.monotonic() - started) / 60)
    print("| | |\n| --- | --- |")
    for what, count in rows.items():
        print(f"| {what} | {count} |")


if __name__ == "__main__":
    main()
