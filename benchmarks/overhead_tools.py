"""One search of overhead.py with one tool, in a separate process: ``python overhead_tools.py TOOL N_TRIALS [SECONDS]``.

The last printed line is a JSON list with an object for each completed trial: its score and, for long trials, the times at
which the trial started, the training started, and the trial ended.
"""

from __future__ import annotations

import functools
import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import small_head

from automl_cxr.engine.protocol import Decision, Objective, Pause, Proposal, Proposer, Report, TrialEnd

Trials = list[dict[str, float]]
TRIALS_AT_ONCE = 2


# ------------------------------------------------------------------------------------------------------------ automl-cxr


@dataclass
class FirstTrials:
    """A proposer that ends after a number of trials, as with the budget of a study.

    Attributes:
        proposer: Proposes the trials.
        n_left: Number of further trials; negative for no limit.
    """

    proposer: Proposer
    n_left: int

    def propose(self) -> Proposal | Pause:
        if self.n_left == 0:
            return Pause.OVER
        self.n_left -= 1
        return self.proposer.propose()

    def observe(self, number: int, report: Report) -> Decision:
        return self.proposer.observe(number, report)

    def finish(self, number: int, ending: TrialEnd) -> None:
        self.proposer.finish(number, ending)


def search_by_engine(
    n_trials: int, seconds: float | None, folder: Path, *, trial: Objective = small_head.short_trial
) -> Trials:
    """Search as ``automl-cxr search`` does: TPE, an SQLite study, Ray Tune with two workers."""
    import optuna

    from automl_cxr.engine.placement import RayResources
    from automl_cxr.engine.ray_execution import run_with_ray
    from automl_cxr.engine.registry import build_proposer
    from automl_cxr.engine.space_toml import parse_space
    from automl_cxr.storage.urls import open_storage

    study = optuna.create_study(storage=open_storage(f"sqlite:///{folder / 'studies.db'}"), direction="maximize")
    space = parse_space(small_head.SPACE, name="head on 64 features")
    # No pruner, because the other tools do not stop trials early either.
    proposer = build_proposer(study, space, sampler="tpe", pruner="none", epochs=small_head.EPOCHS, seed=0)
    objective = trial if seconds is None else functools.partial(small_head.long_trial, seconds=seconds)
    resources = RayResources(concurrency=TRIALS_AT_ONCE, cpus_per_trial=1)
    run_with_ray(objective, FirstTrials(proposer, n_trials), resources=resources)
    return [trial.user_attrs for trial in study.get_trials(states=(optuna.trial.TrialState.COMPLETE,))]


def search_by_engine_with_keras_trial(n_trials: int, seconds: float | None, folder: Path) -> Trials:
    """Search with the same engine, and with the Keras code of the other tools in the trial."""
    return search_by_engine(n_trials, seconds, folder, trial=small_head.short_keras_trial)


# ------------------------------------------------------------------------------------------------------------ other tools


def search_by_ray(n_trials: int, seconds: float | None, folder: Path) -> Trials:
    """Search with a script as in Ray's documentation: a function trainable and OptunaSearch with default settings."""
    from ray import tune
    from ray.tune.search.optuna import OptunaSearch

    tuner = tune.Tuner(
        functools.partial(_ray_trial, seconds=seconds),
        param_space={
            "units": tune.qrandint(*small_head.UNITS),
            "dropout": tune.uniform(*small_head.DROPOUT),
            "learning_rate": tune.loguniform(*small_head.LEARNING_RATE),
        },
        tune_config=tune.TuneConfig(
            metric="score",
            mode="max",
            search_alg=OptunaSearch(),
            num_samples=n_trials,
            max_concurrent_trials=TRIALS_AT_ONCE,
        ),
        run_config=tune.RunConfig(storage_path=str(folder)),
    )
    return [dict(result.metrics) for result in tuner.fit() if result.error is None]


def _ray_trial(config: dict[str, Any], *, seconds: float | None) -> None:
    from ray import tune

    if seconds is None:
        for accuracy in small_head.epochs_of_head(config):
            tune.report({"score": accuracy})
    else:
        for accuracy, times in small_head.epochs_of_seconds(config, seconds=seconds):
            tune.report({"score": accuracy, **times})


def search_by_kerastuner(n_trials: int, seconds: float | None, folder: Path) -> Trials:
    """Search with KerasTuner's RandomSearch, which runs one trial at a time on one machine."""
    import keras_tuner

    if seconds is not None:
        raise SystemExit("KerasTuner cannot run trials of a given number of seconds.")

    def build(choices: keras_tuner.HyperParameters) -> Any:
        return small_head.build_head(
            choices.Int("units", small_head.UNITS[0], small_head.UNITS[1], step=small_head.UNITS[2]),
            choices.Float("dropout", *small_head.DROPOUT),
            choices.Float("learning_rate", *small_head.LEARNING_RATE, sampling="log"),
        )

    tuner = keras_tuner.RandomSearch(
        build, objective="val_accuracy", max_trials=n_trials, directory=str(folder), project_name="search"
    )
    train_x, train_y, valid_x, valid_y = small_head.draw_features()
    tuner.search(train_x, train_y, validation_data=(valid_x, valid_y), epochs=small_head.EPOCHS, verbose=0)
    return [{"score": trial.score} for trial in tuner.oracle.trials.values() if trial.status == "COMPLETED"]


TOOLS: dict[str, Callable[[int, float | None, Path], Trials]] = {
    "automl-cxr": search_by_engine,
    "automl-cxr, Keras trial": search_by_engine_with_keras_trial,
    "Ray Tune + OptunaSearch": search_by_ray,
    "KerasTuner RandomSearch": search_by_kerastuner,
}


def main() -> None:
    tool, n_trials, *seconds = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        trials = TOOLS[tool](int(n_trials), float(seconds[0]) if seconds else None, Path(folder))
    keys = ("score", "started", "training_started", "ended")
    print(json.dumps([{name: trial[name] for name in keys if name in trial} for trial in trials]))


if __name__ == "__main__":
    main()
