"""Compare proposers and pruners on the recorded learning curves of a study: regret against the training time of a search.

    automl-cxr search --name heads --data DIR --space transfer --image-size 224 --set backbone=efficientnetlite0 \\
        --set unfreeze=0 --set augmentation=0 --sampler random --pruner none --epochs 20 --trials 300
    python benchmarks/recorded_curves.py heads --seeds 40 --out heads.csv

The study contains random configurations of a space, all trained to the last epoch. A search on the simulated clock may propose
any configuration of the space; it gets the curve of the nearest recorded one. The distance between two configurations is the
mean over the parameters that are active in at least one of them: the difference of the values scaled to 0..1 (logarithms where
the space has them), 0 or 1 for choices, and 1 if the parameter is active in only one of them.

The regret is defined as in lcbench.py, on the validation score. An interval is a 95 % bootstrap interval over the seeds.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from simulated_search import DEFAULT_METHODS, METHODS, compare_methods, summarise

import automl_cxr
from automl_cxr.engine.parameters import Choice, Parameter, Value
from automl_cxr.engine.space import Space
from automl_cxr.engine.space_toml import parse_space


class RecordedCurves:
    """The learning curves of the COMPLETE trials of a study.

    Args:
        study: Name of the study.
        runs: Folder of the studies.
    """

    def __init__(self, study: str, runs: str | None) -> None:
        opened = automl_cxr.open_study(study, runs=runs)
        details = opened.details()
        self.space = _without_defaults(parse_space(details.spec.space_toml, name=study).fix(details.spec.fixed))
        trials = [trial for trial in opened.trials if trial.state == "complete"]
        self.points = [trial.params for trial in trials]
        self.recorded = [_read_curve(opened.folder / "trials" / f"{trial.number:05d}" / "history.csv") for trial in trials]
        self.epochs = max(len(scores) for scores, _ in self.recorded)
        self._columns = [_Column(parameter, self.points) for parameter in self.space.parameters]

    def curve(self, values: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        """Return the score after each epoch and the seconds until its end of the nearest recorded configuration."""
        distances = np.zeros(len(self.points))
        n_active = np.zeros(len(self.points))
        for column in self._columns:
            distance, is_active = column.distances(values.get(column.parameter.name))
            distances += distance
            n_active += is_active
        return self.recorded[int((distances / n_active).argmin())]


class _Column:
    """The values of one parameter in all recorded configurations."""

    def __init__(self, parameter: Parameter, points: list[Mapping[str, Value]]) -> None:
        self.parameter = parameter
        self._values = np.array([self._coordinate(point.get(parameter.name)) for point in points])

    def _coordinate(self, value: Value | None) -> float:
        if value is None:
            return math.nan
        if isinstance(self.parameter, Choice):
            return float(self.parameter.values.index(value))
        low, high, number = self.parameter.low, self.parameter.high, float(value)
        if self.parameter.log:
            low, high, number = math.log(low), math.log(high), math.log(number)
        return (number - low) / (high - low)

    def distances(self, value: Value | None) -> tuple[np.ndarray, np.ndarray]:
        """Return the distance of a value to each recorded one, and whether the parameter is active in at least one of both."""
        is_active = ~np.isnan(self._values)
        if value is None:
            return is_active.astype(float), is_active
        difference = np.abs(self._values - self._coordinate(value))
        if isinstance(self.parameter, Choice):
            difference = np.minimum(difference, 1.0)
        return np.where(is_active, difference, 1.0), np.ones_like(is_active)


def _without_defaults(space: Space) -> Space:
    """Return the space without default values and portfolio, so that no search starts with a good point."""
    return dataclasses.replace(
        space, parameters=tuple(dataclasses.replace(parameter, default=None) for parameter in space.parameters), portfolio=()
    )


def _read_curve(file: Path) -> tuple[np.ndarray, np.ndarray]:
    history = pd.read_csv(file)
    return history["score"].to_numpy(), history["seconds"].cumsum().to_numpy()


def run_seed(seed: int, *, study: str, runs: str | None, methods: list[str], full_trials: float) -> list[dict[str, Any]]:
    """Return one row for each method and share of the budget."""
    curves = RecordedCurves(study, runs)
    return compare_methods(
        study, curves, curves.space, methods=methods, seeds=[seed], full_trials=full_trials, reference=curves.recorded
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study", help="name of a study whose trials were all trained to the last epoch")
    parser.add_argument("--runs", help="folder of the studies")
    parser.add_argument("--seeds", type=int, default=40, help="searches of each method")
    parser.add_argument("--budget", type=float, default=20.0, help="budget, in full trials of median time")
    parser.add_argument("--methods", nargs="*", choices=list(METHODS), default=DEFAULT_METHODS)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=Path, help="CSV file of the rows")
    arguments = parser.parse_args()
    run = partial(
        run_seed,
        study=arguments.study,
        runs=arguments.runs,
        methods=arguments.methods,
        full_trials=arguments.budget,
    )
    with ProcessPoolExecutor(arguments.processes) as pool:
        rows = [row for of_seed in pool.map(run, range(arguments.seeds)) for row in of_seed]
    if arguments.out:
        pd.DataFrame(rows).to_csv(arguments.out, index=False)
    print(summarise(pd.DataFrame(rows), unit="seed").to_string())


if __name__ == "__main__":
    main()
