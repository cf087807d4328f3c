"""Measure the overhead of very short trials: automl-cxr, a plain Ray Tune script with OptunaSearch, and KerasTuner.

    python benchmarks/overhead.py                              # 8, 32 and 128 trials, three times each; 1 hour on two cores
    python benchmarks/overhead.py --counts 8 32 --repeats 1
    python benchmarks/overhead.py --long                       # 8 trials of 30 s: the share of the time spent in training

A trial trains a head of one dense layer on 64 features, for three epochs on 1,000 rows (small_head.py). All tools have the
same space. automl-cxr is measured twice: with its own trainer, and with the Keras code that the other tools run. Each
search runs in a separate process and is timed from start to end. Two trials run at once (one with KerasTuner). The tools
alternate, so that other load on the machine affects all of them. automl-cxr writes an SQLite study, as ``automl-cxr
search`` does.

KerasTuner imports TensorBoard, which automl-cxr does not need. Without it (``pip install tensorboard``), KerasTuner is
omitted.
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

_AUTOML_CXR, _AUTOML_CXR_KERAS, _PLAIN_RAY, _KERASTUNER = TOOLS
_SCRIPT = Path(__file__).with_name("overhead_tools.py")


def search(tool: str, n_trials: int, *arguments: str) -> tuple[Measured, list[dict[str, float]]]:
    """Run a search in a separate process and return its cost and trials; end the benchmark if a trial is missing."""
    measured = measure([sys.executable, str(_SCRIPT), tool, str(n_trials), *arguments])
    trials = json.loads(measured.last_line) if measured.code == 0 and measured.last_line else []
    if len(trials) != n_trials:
        raise SystemExit(f"{tool} completed {len(trials)} of {n_trials} trials, exit code {measured.code}:\n{measured.errors}")
    print(f"{tool}, {n_trials} trials: {measured.seconds:.1f} s, {measured.cpu_seconds:.0f} CPU s", file=sys.stderr, flush=True)
    return measured, trials


def usable_tools() -> list[str]:
    """Return the tools that can be compared on this machine, and print which one cannot."""
    if importlib.util.find_spec("tensorboard") is None:
        print(f"{_KERASTUNER} is omitted, because it imports TensorBoard. Install it with: pip install tensorboard\n")
        return [_AUTOML_CXR, _AUTOML_CXR_KERAS, _PLAIN_RAY]
    return list(TOOLS)


def compare_short_trials(counts: list[int], repeats: int) -> None:
    """Print a table of very short trials, with a row for each number of trials and tool."""
    tools = usable_tools()
    print(f"Medians of {repeats} runs; the ratio is the wall time of the tool divided by that of {_AUTOML_CXR}.\n")
    print("| trials | tool | wall s | each run | trials per minute | ratio | CPU s per trial |\n" + "| --- " * 7 + "|")
    for count in counts:
        runs: dict[str, list[Measured]] = {tool: [] for tool in tools}
        for _ in range(repeats):
            for tool in tools:
                runs[tool].append(search(tool, count)[0])
        walls = {tool: statistics.median(run.seconds for run in runs[tool]) for tool in tools}
        for tool, wall in walls.items():
            each = ", ".join(f"{run.seconds:.0f}" for run in runs[tool])
            cpu = statistics.median(run.cpu_seconds for run in runs[tool]) / count
            ratio = wall / walls[_AUTOML_CXR]
            cells = f"{count} | {tool} | {wall:.1f} | {each} | {60 * count / wall:.1f} | {ratio:.2f} | {cpu:.2f}"
            print(f"| {cells} |", flush=True)


def compare_long_trials(n_trials: int, seconds: float) -> None:
    """Print the shares of training, loading and idle time of the workers, for trials of a given training time."""
    print(f"{n_trials} trials that each train for {seconds:g} s of wall time on {TRIALS_AT_ONCE} workers.\n")
    shares = "training | loading Keras | between trials | training / wall time of the command"
    print(f"| tool | wall s of the command | wall s of the trials | {shares} |\n" + "| --- " * 7 + "|")
    for tool in (_AUTOML_CXR, _PLAIN_RAY):
        measured, trials = search(tool, n_trials, str(seconds))
        wall = max(trial["ended"] for trial in trials) - min(trial["started"] for trial in trials)
        training = sum(trial["ended"] - trial["training_started"] for trial in trials) / TRIALS_AT_ONCE
        loading = sum(trial["training_started"] - trial["started"] for trial in trials) / TRIALS_AT_ONCE
        parts = [training / wall, loading / wall, 1 - (training + loading) / wall, training / measured.seconds]
        print(f"| {tool} | {measured.seconds:.1f} | {wall:.1f} | {' | '.join(f'{part:.1%}' for part in parts)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", nargs="+", type=int, default=[8, 32, 128], help="numbers of short trials")
    parser.add_argument("--repeats", type=int, default=3, help="number of searches with each tool for each number of trials")
    parser.add_argument("--long", action="store_true", help="measure long trials instead of short ones")
    parser.add_argument("--long-trials", type=int, default=8, help="number of long trials")
    parser.add_argument("--seconds", type=float, default=30.0, help="training time of a long trial, in seconds")
    arguments = parser.parse_args()
    print(machine_facts() + "\n", flush=True)
    if arguments.long:
        compare_long_trials(arguments.long_trials, arguments.seconds)
    else:
        compare_short_trials(arguments.counts, arguments.repeats)


if __name__ == "__main__":
    main()
