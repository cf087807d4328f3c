"""Time very short trials through this package's engine, a plain Ray Tune + OptunaSearch script, and KerasTuner.

    python benchmarks/overhead.py                              # 8, 32 and 128 trials, three times each; an hour on two cores
    python benchmarks/overhead.py --counts 8 32 --repeats 1
    python benchmarks/overhead.py --long                       # 8 trials of 30 s: the share of time inside training

A trial is a head of one dense layer on 64 features, three epochs on 1,000 rows (small_head.py), with the same space for all.
Ours trains it with its own trainer, which keeps compiled networks; a second row has the peers' Keras code in its engine. Each
search is a process of its own, timed from its start to its end, two trials at once (KerasTuner knows one), and the tools take
turns, so that other work on the machine meets them alike. Ours writes an SQLite study as ``automl-cxr search`` does.

KerasTuner's own tuner imports TensorBoard, which this package does not need. Install it (``pip install tensorboard``), or the
peer is left out.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import sys
from pathlib import Path

from measure import Measured, machine_facts, measure
from overhead_tools import TOOLS, TRIALS_AT_ONCE

_OURS, _ENGINE, _PLAIN_RAY, _KERASTUNER = TOOLS
_SCRIPT = Path(__file__).with_name("overhead_tools.py")


def search(tool: str, n_trials: int, *words: str) -> tuple[Measured, list[dict[str, float]]]:
    """Run a search in a process of its own; end the benchmark if a trial of it is missing."""
    measured = measure([sys.executable, str(_SCRIPT), tool, str(n_trials), *words])
    trials = json.loads(measured.last_line) if measured.code == 0 and measured.last_line else []
    if len(trials) != n_trials:
        raise SystemExit(f"{tool} ended {len(trials)} of {n_trials} trials with code {measured.code}:\n{measured.errors}")
    print(f"{tool}, {n_trials} trials: {measured.seconds:.1f} s, {measured.cpu_seconds:.0f} CPU s", file=sys.stderr, flush=True)
    return measured, trials


def usable_tools() -> list[str]:
    """List the tools that can be compared here, telling of one that cannot."""
    if importlib.util.find_spec("tensorboard") is None:
        print(f"{_KERASTUNER} is left out: its tuner imports TensorBoard. Install it with: pip install tensorboard\n")
        return [_OURS, _ENGINE, _PLAIN_RAY]
    return list(TOOLS)


def compare_short_trials(counts: list[int], repeats: int) -> None:
    """Print a table of very short trials: a row for each count and tool."""
    tools = usable_tools()
    print(f"Medians of {repeats}; a ratio is the wall time of the tool over ours.\n")
    print("| trials | tool | wall s | each | trials a minute | ratio | CPU s a trial |\n" + "| --- " * 7 + "|")
    for count in counts:
        runs: dict[str, list[Measured]] = {tool: [] for tool in tools}
        for _ in range(repeats):
            for tool in tools:
                runs[tool].append(search(tool, count)[0])
        walls = {tool: statistics.median(run.seconds for run in runs[tool]) for tool in tools}
        for tool, wall in walls.items():
            each = ", ".join(f"{run.seconds:.0f}" for run in runs[tool])
            cpu = statistics.median(run.cpu_seconds for run in runs[tool]) / count
            cells = f"{count} | {tool} | {wall:.1f} | {each} | {60 * count / wall:.1f} | {wall / walls[_OURS]:.2f} | {cpu:.2f}"
            print(f"| {cells} |", flush=True)


def compare_long_trials(n_trials: int, seconds: float) -> None:
    """Print a table of where the workers' time goes while trials train for so many seconds."""
    print(f"{n_trials} trials that each train for {seconds:g} s of wall time on {TRIALS_AT_ONCE} workers.\n")
    shares = "training | loading Keras | between trials | training, of the command's time"
    print(f"| tool | wall s of the command | of the trials | {shares} |\n" + "| --- " * 7 + "|")
    for tool in (_OURS, _PLAIN_RAY):
        measured, trials = search(tool, n_trials, str(seconds))
        wall = max(trial["ended"] for trial in trials) - min(trial["entered"] for trial in trials)
        training = sum(trial["ended"] - trial["began"] for trial in trials) / TRIALS_AT_ONCE
        loading = sum(trial["began"] - trial["entered"] for trial in trials) / TRIALS_AT_ONCE
        parts = [training / wall, loading / wall, 1 - (training + loading) / wall, training / measured.seconds]
        print(f"| {tool} | {measured.seconds:.1f} | {wall:.1f} | {' | '.join(f'{part:.1%}' for part in parts)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", nargs="+", type=int, default=[8, 32, 128], help="numbers of very short trials")
    parser.add_argument("--repeats", type=int, default=3, help="searches of each tool at each number")
    parser.add_argument("--long", action="store_true", help="long trials instead of very short ones")
    parser.add_argument("--long-trials", type=int, default=8, help="number of long trials")
    parser.add_argument("--seconds", type=float, default=30.0, help="seconds that a long trial trains")
    arguments = parser.parse_args()
    print(machine_facts() + "\n", flush=True)
    if arguments.long:
        compare_long_trials(arguments.long_trials, arguments.seconds)
    else:
        compare_short_trials(arguments.counts, arguments.repeats)


if __name__ == "__main__":
    main()
