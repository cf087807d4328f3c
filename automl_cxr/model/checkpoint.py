"""A training's state on disk, so that it goes on where it stopped: in another process, or promoted to more epochs.

What decides the next epoch is in it: every variable of the model (moving averages and the states of random layers too) and of
its optimizer, the epochs so far (from which phase, learning rate and patience follow) and the best weights. The order of an
epoch's images follows from its number. So the epochs that follow are those of a training that was never interrupted.
"""

from __future__ import annotations

import dataclasses
import json
import os
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np

from automl_cxr.errors import TrialError
from automl_cxr.records import EpochRecord


@dataclass(frozen=True)
class Checkpoint:
    """A training as it was after an epoch.

    Attributes:
        history: Every epoch so far.
        best: The epoch whose weights are the best.
        best_weights: Those weights.
        model: Every variable of the model.
        optimizer: Every variable of its optimizer.
    """

    history: tuple[EpochRecord, ...]
    best: EpochRecord
    best_weights: Sequence[np.ndarray]
    model: Sequence[np.ndarray]
    optimizer: Sequence[np.ndarray]


def take_checkpoint(
    model: keras.Model, history: Sequence[EpochRecord], best: EpochRecord, best_weights: Sequence[np.ndarray]
) -> Checkpoint:
    """Copy the state of a training."""
    return Checkpoint(tuple(history), best, best_weights, _values(model.variables), _values(model.optimizer.variables))


def put_back(checkpoint: Checkpoint, model: keras.Model) -> None:
    """Give a compiled model and its optimizer the values that they had.

    Raises:
        TrialError: The checkpoint is of another network.
    """
    model.optimizer.build(model.trainable_variables)
    for variables, values in ((model.variables, checkpoint.model), (model.optimizer.variables, checkpoint.optimizer)):
        if [tuple(variable.shape) for variable in variables] != [value.shape for value in values]:
            raise TrialError("A checkpoint must be of the network that goes on from it; its shapes differ. Train anew.")
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)


def save_checkpoint(checkpoint: Checkpoint, path: Path) -> None:
    """Write a checkpoint so that a reader finds the old one or the whole new one."""
    groups = {name: getattr(checkpoint, name) for name in _GROUPS}
    arrays = {f"{name}/{number}": value for name, values in groups.items() for number, value in enumerate(values)}
    told = json.dumps({"best": checkpoint.best.epoch, "history": [dataclasses.asdict(epoch) for epoch in checkpoint.history]})
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    with partial.open("wb") as file:
        np.savez(file, told=np.array(told), **arrays)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint; nothing in the file is run.

    Raises:
        TrialError: It is missing or damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            told = json.loads(str(file["told"]))
            groups = {name: _numbered(file, name) for name in _GROUPS}
        history = tuple(EpochRecord(**{**epoch, "values": tuple(epoch["values"])}) for epoch in told["history"])
        best = next(epoch for epoch in history if epoch.epoch == told["best"])
    except (OSError, ValueError, KeyError, TypeError, EOFError, StopIteration, zipfile.BadZipFile) as error:
        raise TrialError(f"The checkpoint {path} cannot be read ({error}). The trial has to be trained anew.") from error
    return Checkpoint(history, best, **groups)


_GROUPS = ("best_weights", "model", "optimizer")


def _numbered(file: np.lib.npyio.NpzFile, name: str) -> list[np.ndarray]:
    n = sum(key.startswith(f"{name}/") for key in file.files)
    return [file[f"{name}/{number}"] for number in range(n)]


def _values(variables: Sequence[keras.Variable]) -> list[np.ndarray]:
    return [keras.ops.convert_to_numpy(variable.value) for variable in variables]
