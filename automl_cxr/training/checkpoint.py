"""Checkpoints of training and results of finished folds on disk.

A checkpoint holds everything that determines the next epoch: every variable of the model (including moving averages and the
states of random layers) and of its optimizer, the epochs so far (which determine phase, learning rate and patience) and the
best weights. The image order of an epoch depends on its number. Therefore training that continues from a checkpoint, in
another process or with more epochs, computes the same epochs as uninterrupted training.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from automl_cxr.errors import TrialError
from automl_cxr.io import atomic_write
from automl_cxr.model.keras_private import is_gradient_accumulator
from automl_cxr.records import EpochRecord

_JSON = "told"  # key of the JSON text in a .npz file; earlier versions wrote the same key


@dataclass(frozen=True)
class Checkpoint:
    """The training state after an epoch.

    Attributes:
        history: Every epoch so far.
        best: The best epoch.
        best_weights: The weights after the best epoch.
        model: Every variable of the model.
        optimizer: Every variable of its optimizer, except accumulated gradients and the learning rate, which is set in each
            epoch.
        accumulated: Accumulated gradients, with gradient accumulation.
        parts: Number of gradient accumulation steps; 1 without gradient accumulation.
    """

    history: tuple[EpochRecord, ...]
    best: EpochRecord
    best_weights: Sequence[np.ndarray]
    model: Sequence[np.ndarray]
    optimizer: Sequence[np.ndarray]
    accumulated: Sequence[np.ndarray] = ()
    parts: int = 1


def create_checkpoint(
    model: keras.Model,
    optimizer: keras.Optimizer,
    *,
    history: Sequence[EpochRecord],
    best: EpochRecord,
    best_weights: Sequence[np.ndarray],
) -> Checkpoint:
    """Copy the training state."""
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
    """Split the variables of an optimizer, without the learning rate, into its state and the gradients that it accumulates."""
    rate = optimizer.learning_rate  # a variable, unless there is a schedule
    variables = [variable for variable in optimizer.variables if variable is not rate]
    is_accumulator = [is_gradient_accumulator(variable) for variable in variables]
    both = list(zip(variables, is_accumulator, strict=True))
    return [variable for variable, is_one in both if not is_one], [variable for variable, is_one in both if is_one]


def _parts(optimizer: keras.Optimizer) -> int:
    return optimizer.gradient_accumulation_steps or 1


def has_matching_shapes(checkpoint: Checkpoint, model: keras.Model) -> bool:
    """Return whether the variables of a model have the shapes in a checkpoint. They may differ at another image size."""
    return [tuple(variable.shape) for variable in model.variables] == [value.shape for value in checkpoint.model]


def restore_checkpoint(checkpoint: Checkpoint, model: keras.Model, optimizer: keras.Optimizer) -> None:
    """Assign the values of a checkpoint to a model and a built optimizer.

    If the number of gradient accumulation steps has changed, the accumulated gradients start from 0.

    Raises:
        TrialError: The checkpoint belongs to another network.
    """
    states, accumulators = _states(optimizer)
    pairs = [(model.variables, checkpoint.model), (states, checkpoint.optimizer)]
    parts = _parts(optimizer)
    if parts == checkpoint.parts:
        pairs.append((accumulators, checkpoint.accumulated))
    for variables, values in pairs:
        if [tuple(variable.shape) for variable in variables] != [value.shape for value in values]:
            raise TrialError("A checkpoint must have the shapes of the network; its shapes differ. Train from the beginning.")
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)
    if parts != checkpoint.parts:
        counter = states[0]  # Keras counts accumulation steps here, and derives the step number for bias correction from it
        counter.assign(counter // checkpoint.parts * parts)


def save_checkpoint(checkpoint: Checkpoint, path: Path) -> None:
    """Write a checkpoint atomically.

    Raises:
        OSError: The file cannot be written.
    """
    history = [dataclasses.asdict(epoch) for epoch in checkpoint.history]
    values = {"best": checkpoint.best.epoch, "history": history, "parts": checkpoint.parts, "has_rate": False}
    _write(path, values, {name: getattr(checkpoint, name) for name in _GROUPS})


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint, without running code from the file.

    Raises:
        TrialError: It is missing or damaged.
    """
    with _explained_damage(path):
        values, groups = _read(path, _GROUPS)
        history = _history(values)
        best = next(epoch for epoch in history if epoch.epoch == values["best"])
        if values.get("has_rate", True):
            del groups["optimizer"][1]  # earlier versions stored the learning rate here
        return Checkpoint(history, best, **groups, parts=values["parts"])


_GROUPS = ("best_weights", "model", "optimizer", "accumulated")


@dataclass(frozen=True, kw_only=True)
class FinishedFold:
    """The result of training the network of one fold.

    Attributes:
        history: Its epochs.
        weights: Weights of its best epoch.
        probabilities: Predictions for the images of the fold, on which the network was not trained, float32 (n, n_classes).
        cut_short: Whether the time limit of the trial prevented further epochs.
    """

    history: tuple[EpochRecord, ...]
    weights: Sequence[np.ndarray]
    probabilities: np.ndarray
    cut_short: bool


def save_fold(fold: FinishedFold, path: Path) -> None:
    """Write a finished fold atomically.

    Raises:
        OSError: The file cannot be written.
    """
    values = {"history": [dataclasses.asdict(epoch) for epoch in fold.history], "cut_short": fold.cut_short}
    _write(path, values, {"weights": fold.weights, "probabilities": [fold.probabilities]})


def load_fold(path: Path) -> FinishedFold:
    """Read a finished fold, without running code from the file.

    Raises:
        TrialError: It is missing or damaged.
    """
    with _explained_damage(path):
        values, groups = _read(path, ("weights", "probabilities"))
        return FinishedFold(
            history=_history(values),
            weights=groups["weights"],
            probabilities=groups["probabilities"][0],
            cut_short=bool(values["cut_short"]),
        )


def _write(path: Path, values: Mapping[str, Any], groups: Mapping[str, Sequence[np.ndarray]]) -> None:
    """Write JSON values and lists of arrays into one file."""
    arrays = {f"{name}/{number}": array for name, members in groups.items() for number, array in enumerate(members)}
    with atomic_write(path) as file:
        np.savez(file, **{_JSON: np.array(json.dumps(values))}, **arrays)


def _read(path: Path, names: Sequence[str]) -> tuple[dict[str, Any], dict[str, list[np.ndarray]]]:
    with np.load(path, allow_pickle=False) as file:
        return json.loads(str(file[_JSON])), {name: _numbered(file, name) for name in names}


@contextlib.contextmanager
def _explained_damage(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, IndexError, EOFError, StopIteration, zipfile.BadZipFile) as error:
        raise TrialError(f"The checkpoint {path} cannot be read ({error}). Train the trial from the beginning.") from error


def _history(values: Mapping[str, Any]) -> tuple[EpochRecord, ...]:
    return tuple(EpochRecord(**{**epoch, "values": tuple(epoch["values"])}) for epoch in values["history"])


def _numbered(file: np.lib.npyio.NpzFile, name: str) -> list[np.ndarray]:
    n = sum(key.startswith(f"{name}/") for key in file.files)
    return [file[f"{name}/{number}"] for number in range(n)]


def variable_values(variables: Sequence[keras.Variable]) -> list[np.ndarray]:
    """Copy the values of variables."""
    return [keras.ops.convert_to_numpy(variable.value) for variable in variables]
