"""Reads and writes the scores of each epoch of an Optuna trial.

With one objective these are Optuna's intermediate values, which its pruners and its dashboard read. Optuna does not allow them
for several objectives: then each epoch is a user attribute, such as ``values_00007 = [0.81, 23000.0]``.
"""

from __future__ import annotations

import warnings

import optuna
from optuna.trial import FrozenTrial

from automl_cxr.engine.protocol import Report

Values = tuple[float | None, ...]
_PREFIX = "values_"


def write_epoch(trial: optuna.Trial, report: Report) -> None:
    """Write a report. If a resumed trial reports an epoch again, the stored values, which are the same, are kept."""
    if not report.values:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The reported value is ignored", category=UserWarning)
            trial.report(report.score, report.epoch)
    elif (key := _key(report.epoch)) not in trial.user_attrs:
        trial.set_user_attr(key, list(report.values))


def read_scores(trial: FrozenTrial) -> dict[int, float]:
    """Return the first objective after each epoch, in the order of the epochs."""
    several = {int(key.removeprefix(_PREFIX)): values[0] for key, values in trial.user_attrs.items() if key.startswith(_PREFIX)}
    return dict(sorted((several or trial.intermediate_values).items()))


def read_values(trial: FrozenTrial, epoch: int) -> Values | None:
    """Return the values of several objectives after an epoch; None if the trial did not report it."""
    values = trial.user_attrs.get(_key(epoch))
    return None if values is None else tuple(values)


def _key(epoch: int) -> str:
    return f"{_PREFIX}{epoch:05d}"
