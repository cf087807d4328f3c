"""Compare proposers and pruners on a surrogate of LCBench: regret against the training time that a search has used.

    python benchmarks/lcbench.py FOLDER --tasks 34 --seeds 10 --out lcbench.csv

FOLDER contains the surrogate of YAHPO Gym (Pfisterer et al. 2022) for LCBench (Zimmer et al. 2021): learning curves of dense
networks with seven hyperparameters on 34 data sets, over 52 epochs, and the time of each epoch. Trials run through the engine
of this package, one at a time, on a simulated clock; nothing is trained. A search ends when its trials have used the time of a
number of full trials with median time (--budget).

The regret is the difference between the best validation accuracy that is known for a data set and that of the best COMPLETE
trial, divided by the difference between the best and the median of random configurations: 1 is the median random configuration,
and 0 the best known one. An interval is a 95 % bootstrap interval over the data sets.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
from collections.abc import Generator, Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from automl_cxr.engine.inline_execution import run_inline
from automl_cxr.engine.parameters import Float, Int
from automl_cxr.engine.protocol import Decision, Facts, Pause, Proposal, Proposer, Report, TrialEnd
from automl_cxr.engine.registry import build_proposer
from automl_cxr.engine.space import Space

EPOCHS = 52
METHODS: Mapping[str, tuple[str, str]] = {
    "random": ("random", "none"),
    "random+asha": ("random", "asha"),
    "tpe": ("tpe", "none"),
    "tpe+asha": ("tpe", "asha"),
    "tpe+hyperband": ("tpe", "hyperband"),
    "tpe+median": ("tpe", "median"),
    "kt-hyperband": ("kt-hyperband", "none"),
    "gp": ("gp", "none"),  # needs automl-cxr[gp]
}
# The order of the surrogate's inputs, and of the outputs that are used here.
_INPUTS = ("batch_size", "learning_rate", "momentum", "weight_decay", "num_layers", "max_units", "max_dropout")
_SECONDS, _ACCURACY = 0, 1
_N_REFERENCE = 2000  # random configurations that define the best and the median accuracy of a data set
_CHECKPOINTS = (0.125, 0.25, 0.5, 1.0)  # shares of the budget at which the regret is printed


class Surrogate:
    """The learning curves of one data set.

    Args:
        folder: Folder of the surrogate's files.
        task: OpenML id of the data set.
    """

    def __init__(self, folder: Path, task: str) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(str(folder / "model.onnx"), options)
        self._task = json.loads((folder / "encoding.json").read_text())["OpenML_task_id"][task]

    def curve(self, values: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        """Return the validation accuracy after each epoch, in percent, and the seconds until its end, both float (52,)."""
        point = [float(values[name]) for name in _INPUTS]
        inputs = np.array([[epoch, *point] for epoch in range(1, EPOCHS + 1)], np.float32)
        (outputs,) = self._session.run(None, {"x_cat": np.full((EPOCHS, 1), self._task, np.int32), "x_cont": inputs})
        return outputs[:, _ACCURACY], np.maximum.accumulate(outputs[:, _SECONDS])


def load_space(folder: Path) -> tuple[Space, list[str]]:
    """Return the space without defaults, so that no search starts with a good point, and the ids of the data sets."""
    described = json.loads((folder / "config_space.json").read_text())["hyperparameters"]
    rows = {row["name"]: row for row in described}
    kinds = {"uniform_int": Int, "uniform_float": Float}
    parameters = [
        kinds[rows[name]["type"]](name=name, low=rows[name]["lower"], high=rows[name]["upper"], log=rows[name]["log"])
        for name in _INPUTS
    ]
    return Space("lcbench", {}, tuple(parameters)), list(rows["OpenML_task_id"]["choices"])


@dataclasses.dataclass
class Replay:
    """An objective that reports a learning curve, and advances a simulated clock.

    Attributes:
        surrogate: The learning curves.
        seconds: Training time of all trials so far.
        incumbents: Seconds and best accuracy of COMPLETE trials, at each improvement.
    """

    surrogate: Surrogate
    seconds: float = 0.0
    incumbents: list[tuple[float, float]] = dataclasses.field(default_factory=list)
    _reached: dict[int, int] = dataclasses.field(default_factory=dict)

    def __call__(self, proposal: Proposal) -> Generator[Report, None, Facts]:
        accuracies, seconds = self.surrogate.curve(proposal.values)
        first = 0 if proposal.parent is None else self._reached[proposal.parent]
        last = proposal.epochs or EPOCHS
        self._reached[proposal.number] = last
        for epoch in range(first, last):
            self.seconds += float(seconds[epoch] - (seconds[epoch - 1] if epoch else 0.0))
            yield Report(epoch + 1, float(accuracies[epoch]))
        best = float(accuracies[:last].max())
        if last == EPOCHS and best > max((accuracy for _, accuracy in self.incumbents), default=-math.inf):
            self.incumbents.append((self.seconds, best))
        return {"score": best}

    def best_until(self, seconds: float) -> float:
        """Return the best accuracy of the COMPLETE trials at a time; -inf if there is none."""
        return max((accuracy for when, accuracy in self.incumbents if when <= seconds), default=-math.inf)


@dataclasses.dataclass
class WithinTime:
    """A proposer that ends when the simulated clock has reached the budget. A running trial is stopped."""

    proposer: Proposer
    replay: Replay
    budget: float

    def propose(self) -> Proposal | Pause:
        return Pause.OVER if self.replay.seconds >= self.budget else self.proposer.propose()

    def observe(self, number: int, report: Report) -> Decision:
        decision = self.proposer.observe(number, report)
        return Decision.STOP if self.replay.seconds >= self.budget else decision

    def finish(self, number: int, ending: TrialEnd) -> None:
        self.proposer.finish(number, ending)


def replay_search(method: str, surrogate: Surrogate, space: Space, *, budget: float, seed: int) -> Replay:
    """Run a search on the simulated clock."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    sampler, pruner = METHODS[method]
    study = optuna.create_study(direction="maximize")
    proposer = build_proposer(study, space, sampler=sampler, pruner=pruner, epochs=EPOCHS, seed=seed)
    replay = Replay(surrogate)
    run_inline(replay, WithinTime(proposer, replay, budget))
    return replay


def run_task(task: str, *, folder: Path, methods: list[str], seeds: int, full_trials: float) -> list[dict[str, Any]]:
    """Return one row for each method, seed and share of the budget on one data set."""
    surrogate, (space, _) = Surrogate(folder, task), load_space(folder)
    rng = np.random.default_rng(0)
    curves = [surrogate.curve(space.sample(rng)) for _ in range(_N_REFERENCE)]
    reference = np.array([accuracies.max() for accuracies, _ in curves])
    budget = full_trials * float(np.median([seconds[-1] for _, seconds in curves]))
    rows = [
        {"task": task, "method": method, "seed": seed, "share": share, "accuracy": replay.best_until(share * budget)}
        for method in methods
        for seed in range(seeds)
        for replay in [replay_search(method, surrogate, space, budget=budget, seed=seed)]
        for share in _CHECKPOINTS
    ]
    best = max(reference.max(), *(row["accuracy"] for row in rows))
    median = float(np.median(reference))
    # Before the first COMPLETE trial, the regret is that of the median random configuration.
    return [{**row, "regret": min(1.0, (best - row["accuracy"]) / (best - median))} for row in rows]


def summarise(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the mean regret of each method at each share of the budget, with a 95 % interval over the data sets."""
    rng = np.random.default_rng(0)

    def describe(regrets: pd.Series) -> str:
        means = regrets.groupby(level="task").mean().to_numpy()
        resampled = rng.choice(means, (2000, len(means))).mean(axis=1)
        low, high = np.percentile(resampled, [2.5, 97.5])
        return f"{means.mean():.3f} ({low:.3f} to {high:.3f})"

    indexed = rows.set_index("task")
    return indexed.groupby(["method", "share"])["regret"].apply(describe).unstack("share")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="folder of the surrogate: model.onnx, encoding.json, config_space.json")
    parser.add_argument("--tasks", type=int, default=34, help="number of data sets")
    parser.add_argument("--seeds", type=int, default=10, help="searches of each method on each data set")
    parser.add_argument("--budget", type=float, default=20.0, help="budget, in full trials of median time")
    parser.add_argument("--methods", nargs="*", choices=list(METHODS), default=[name for name in METHODS if name != "gp"])
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=Path, help="CSV file of the rows")
    arguments = parser.parse_args()
    _, tasks = load_space(arguments.folder)
    run = partial(
        run_task,
        folder=arguments.folder,
        methods=arguments.methods,
        seeds=arguments.seeds,
        full_trials=arguments.budget,
    )
    rows: list[dict[str, Any]] = []
    with ProcessPoolExecutor(arguments.processes) as pool:
        for of_task in pool.map(run, tasks[: arguments.tasks]):
            rows += of_task
            if arguments.out:
                pd.DataFrame(rows).to_csv(arguments.out, index=False)
    print(summarise(pd.DataFrame(rows)).to_string())


if __name__ == "__main__":
    main()
