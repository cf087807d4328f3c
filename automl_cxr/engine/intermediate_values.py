"""What a trial scored after each epoch, as it stands in an Optuna trial.

With one objective these are Optuna's intermediate values, which its pruners and its dashboard read. Optuna refuses those where
there are several objectives: then each epoch is a user attribute, ``values_00007 = [0.81, 23000.0]``, written once.
"""

from __future__ import annotations

import warnings

import optuna
from optuna.trial import FrozenTrial

from automl_cxr.engine.protocol import Report

Values = tuple[float | None, ...]
_PREFIX = "values_"


def write_epoch(trial: optuna.Trial, report: Report) -> None:
    """Write a report; a resumed trial that reports an epoch again leaves what stands there, which is the same."""
    if not report.values:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The reported value is ignored", category=UserWarning)
            trial.report(report.score, report.epoch)
    elif (key := _key(report.epoch)) not in trial.user_attrs:
        trial.set_user_attr(key, list(report.values))


def read_scores(trial: FrozenTrial) -> dict[int, float]:
    """Give the first objective after each epoch, in the order of the epochs."""
    several = {int(key.removeprefix(_PREFIX)): values[0] for key, values in trial.user_attrs.items() if key.startswith(_PREFIX)}
    return dict(sorted((several or trial.intermediate_values).items()))


def read_values(trial: FrozenTrial, epoch: int) -> Values | None:
    """Give all of several objectives after an epoch; None where the trial did not report it."""
    values = trial.user_attrs.get(_key(epoch))
    return None if values is None else tuple(values)


def _key(epoch: int) -> str:
    return f"{_PREFIX}{epoch:05d}"
