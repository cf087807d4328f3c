"""A training's state on disk, so that it goes on where it stopped: in another process, or promoted to more epochs.

What decides the next epoch is in it: every variable of the model (moving averages and the states of random layers too) and of
its optimizer, the epochs so far (from which phase, learning rate and patience follow) and the best weights. The order of an
epoch's images follows from its number. So the epochs that follow are those of a training that was never interrupted.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
        optimizer: Every variable of its optimizer, but for the gradients that it accumulates.
        accumulated: These gradients, where batches are computed in parts.
        parts: How many parts.
    """

    history: tuple[EpochRecord, ...]
    best: EpochRecord
    best_weights: Sequence[np.ndarray]
    model: Sequence[np.ndarray]
    optimizer: Sequence[np.ndarray]
    accumulated: Sequence[np.ndarray] = ()
    parts: int = 1


def take_checkpoint(
    model: keras.Model,
    optimizer: keras.Optimizer,
    *,
    history: Sequence[EpochRecord],
    best: EpochRecord,
    best_weights: Sequence[np.ndarray],
) -> Checkpoint:
    """Copy the state of a training."""
    states, accumulators = _states(optimizer)
    return Checkpoint(
        tuple(history),
        best,
        best_weights,
        model=variable_values(model.variables),
        optimizer=variable_values(states),
        accumulated=variable_values(accumulators),
        parts=_parts(optimizer),
    )


def _states(optimizer: keras.Optimizer) -> tuple[list[keras.Variable], list[keras.Variable]]:
    """Part the variables of an optimizer in what it knows and the gradients that it accumulates.

    A weight decay in a variable is no state: the configuration says it.
    """
    variables = [variable for variable in optimizer.variables if variable is not optimizer.weight_decay]
    is_accumulator = [variable.path.endswith("gradient_accumulator") for variable in variables]
    both = list(zip(variables, is_accumulator, strict=True))
    return [variable for variable, is_one in both if not is_one], [variable for variable, is_one in both if is_one]


def _parts(optimizer: keras.Optimizer) -> int:
    return optimizer.gradient_accumulation_steps or 1


def fits(checkpoint: Checkpoint, model: keras.Model) -> bool:
    """Tell whether a model has the variables of a checkpoint; at another image size it may not."""
    return [tuple(variable.shape) for variable in model.variables] == [value.shape for value in checkpoint.model]


def restore_checkpoint(checkpoint: Checkpoint, model: keras.Model, optimizer: keras.Optimizer) -> None:
    """Give a model and a built optimizer the values that they had.

    A training that computes its batches in more parts than before begins to accumulate gradients from 0.

    Raises:
        TrialError: The checkpoint is of another network.
    """
    states, accumulators = _states(optimizer)
    pairs = [(model.variables, checkpoint.model), (states, checkpoint.optimizer)]
    parts = _parts(optimizer)
    if parts == checkpoint.parts:
        pairs.append((accumulators, checkpoint.accumulated))
    for variables, values in pairs:
        if [tuple(variable.shape) for variable in variables] != [value.shape for value in values]:
            raise TrialError("A checkpoint must be of the network that goes on from it; its shapes differ. Train anew.")
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)
    if parts != checkpoint.parts:
        counter = states[0]  # Keras counts parts here, and derives the steps that moments are corrected by
        counter.assign(counter // checkpoint.parts * parts)


def save_checkpoint(checkpoint: Checkpoint, path: Path) -> None:
    """Write a checkpoint so that a reader finds the old one or the whole new one."""
    history = [dataclasses.asdict(epoch) for epoch in checkpoint.history]
    told = {"best": checkpoint.best.epoch, "history": history, "parts": checkpoint.parts}
    _write(path, told, {name: getattr(checkpoint, name) for name in _GROUPS})


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint; nothing in the file is run.

    Raises:
        TrialError: It is missing or damaged.
    """
    with _explained_damage(path):
        told, groups = _read(path, _GROUPS)
        history = _history(told)
        best = next(epoch for epoch in history if epoch.epoch == told["best"])
        return Checkpoint(history, best, **groups, parts=told["parts"])


_GROUPS = ("best_weights", "model", "optimizer", "accumulated")


@dataclass(frozen=True, kw_only=True)
class FinishedFold:
    """What the network of a fold came to: all that its trial needs of it.

    Attributes:
        history: Its epochs.
        weights: Of its best epoch.
        probabilities: What it says of the images that it did not learn from, float32 (n_left_out, n_classes).
        cut_short: Whether its trial's time kept it from epochs that it would have run.
    """

    history: tuple[EpochRecord, ...]
    weights: Sequence[np.ndarray]
    probabilities: np.ndarray
    cut_short: bool


def save_fold(fold: FinishedFold, path: Path) -> None:
    """Write a finished fold so that a reader finds all of it or nothing."""
    told = {"history": [dataclasses.asdict(epoch) for epoch in fold.history], "cut_short": fold.cut_short}
    _write(path, told, {"weights": fold.weights, "probabilities": [fold.probabilities]})


def load_fold(path: Path) -> FinishedFold:
    """Read a finished fold; nothing in the file is run.

    Raises:
        TrialError: It is missing or damaged.
    """
    with _explained_damage(path):
        told, groups = _read(path, ("weights", "probabilities"))
        return FinishedFold(
            history=_history(told),
            weights=groups["weights"],
            probabilities=groups["probabilities"][0],
            cut_short=bool(told["cut_short"]),
        )


def _write(path: Path, told: Mapping[str, Any], groups: Mapping[str, Sequence[np.ndarray]]) -> None:
    """Write JSON and lists of arrays in one piece."""
    arrays = {f"{name}/{number}": value for name, values in groups.items() for number, value in enumerate(values)}
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with partial.open("wb") as file:
            np.savez(file, told=np.array(json.dumps(told)), **arrays)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)  # on a full disk, half of it would be in the way


def _read(path: Path, names: Sequence[str]) -> tuple[dict[str, Any], dict[str, list[np.ndarray]]]:
    with np.load(path, allow_pickle=False) as file:
        return json.loads(str(file["told"])), {name: _numbered(file, name) for name in names}


@contextlib.contextmanager
def _explained_damage(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, IndexError, EOFError, StopIteration, zipfile.BadZipFile) as error:
        raise TrialError(f"The checkpoint {path} cannot be read ({error}). The trial has to be trained anew.") from error


def _history(told: Mapping[str, Any]) -> tuple[EpochRecord, ...]:
    return tuple(EpochRecord(**{**epoch, "values": tuple(epoch["values"])}) for epoch in told["history"])


def _numbered(file: np.lib.npyio.NpzFile, name: str) -> list[np.ndarray]:
    n = sum(key.startswith(f"{name}/") for key in file.files)
    return [file[f"{name}/{number}"] for number in range(n)]


def variable_values(variables: Sequence[keras.Variable]) -> list[np.ndarray]:
    """Copy the values of variables."""
    return [keras.ops.convert_to_numpy(variable.value) for variable in variables]
