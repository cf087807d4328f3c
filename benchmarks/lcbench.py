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
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from simulated_search import DEFAULT_METHODS, METHODS, compare_methods, summarise

from automl_cxr.engine.parameters import Float, Int
from automl_cxr.engine.space import Space

EPOCHS = 52
# The order of the surrogate's inputs, and of the outputs that are used here.
_INPUTS = ("batch_size", "learning_rate", "momentum", "weight_decay", "num_layers", "max_units", "max_dropout")
_SECONDS, _ACCURACY = 0, 1
_N_REFERENCE = 2000  # random configurations that define the best and the median accuracy of a data set


class Surrogate:
    """The learning curves of one data set.

    Args:
        folder: Folder of the surrogate's files.
        task: OpenML id of the data set.
    """

    epochs = EPOCHS

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


def run_task(task: str, *, folder: Path, methods: Sequence[str], seeds: int, full_trials: float) -> list[dict[str, Any]]:
    """Return one row for each method, seed and share of the budget on one data set."""
    surrogate, (space, _) = Surrogate(folder, task), load_space(folder)
    rng = np.random.default_rng(0)
    reference = [surrogate.curve(space.sample(rng)) for _ in range(_N_REFERENCE)]
    return compare_methods(
        task, surrogate, space, methods=methods, seeds=range(seeds), full_trials=full_trials, reference=reference
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="folder of the surrogate: model.onnx, encoding.json, config_space.json")
    parser.add_argument("--tasks", type=int, default=34, help="number of data sets")
    parser.add_argument("--seeds", type=int, default=10, help="searches of each method on each data set")
    parser.add_argument("--budget", type=float, default=20.0, help="budget, in full trials of median time")
    parser.add_argument("--methods", nargs="*", choices=list(METHODS), default=DEFAULT_METHODS)
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
    print(summarise(pd.DataFrame(rows), unit="task").to_string())


if __name__ == "__main__":
    main()
