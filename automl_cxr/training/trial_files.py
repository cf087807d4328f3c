"""The files of a trial: history.csv, valid.npz, model.keras and train.log."""

from __future__ import annotations

import csv
import dataclasses
import math
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from automl_cxr.io import sha256_of_file
from automl_cxr.model.augmentation import without_augmentation
from automl_cxr.model.build import backend_versions
from automl_cxr.model.freezing import set_phase
from automl_cxr.model.precision import resolved_precision
from automl_cxr.records import EpochRecord
from automl_cxr.scoring.prediction_files import PREDICTIONS_FILE
from automl_cxr.scoring.predictions import Predictions
from automl_cxr.training.schedules import plan_phases
from automl_cxr.training.trial_task import TrialTask

if TYPE_CHECKING:
    import keras


def history_rows(task: TrialTask, history: Sequence[EpochRecord]) -> list[dict[str, Any]]:
    """Return the rows of history.csv, one for each epoch; with several objectives, each objective is a column."""
    rows = []
    for epoch in history:
        row = dataclasses.asdict(epoch)
        values = row.pop("values")
        rows.append({**row, **dict(zip(task.objectives if values else (), values, strict=True))})
    return rows


def save_trial(
    folder: Path,
    epochs: Sequence[Mapping[str, Any]],
    predictions: Predictions,
    model: keras.Model,
    *,
    save_model: Callable[[keras.Model, Path], None] | None = None,
) -> None:
    """Write history.csv, valid.npz and model.keras, and flush all files of the trial to disk.

    Args:
        folder: Folder of the trial.
        epochs: Rows of history.csv, at least one.
        predictions: Content of valid.npz.
        model: Content of model.keras, which is saved without augmentation.
        save_model: Function that writes model.keras; None for ``keras.Model.save``.
    """
    with (folder / "history.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(epochs[0]))
        writer.writeheader()
        writer.writerows(epochs)
    predictions.to_npz(folder / PREDICTIONS_FILE)
    saved = without_augmentation(model)
    if model.compiled:
        saved.compile()  # with a new optimizer: the moments of the trained one would triple the file size
    if save_model is None:
        saved.save(folder / "model.keras")
    else:
        save_model(saved, folder / "model.keras")
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())


def digest_files(folder: Path) -> dict[str, str]:
    """Return the SHA-256 digest of each file of a trial, by name."""
    return {path.name: sha256_of_file(path) for path in sorted(folder.iterdir())}


def log_start(log: TextIO, task: TrialTask, model: keras.Model) -> None:
    """Write the first lines of train.log: machine, software, network and phases."""
    log.write(
        f"{time.strftime('%Y-%m-%d %H:%M:%S')} on {platform.node()}, process {os.getpid()}, "
        f"{backend_versions()}\n"
        f"{task.config.family}: {model.count_params():,} parameters, input {task.config.image_size} pixels, "
        f"{resolved_precision(task.config)}\n"
    )
    for number, phase in enumerate(plan_phases(task.config), start=1):
        set_phase(model, task.config, frozen=phase.frozen)  # to count trainable weights; training sets the phase again
        n_trained = sum(math.prod(weights.shape) for weights in model.trainable_weights)
        log.write(
            f"phase {number}: {n_trained:,} trainable parameters, at most {phase.n_epochs} epochs, "
            f"highest learning rate {phase.learning_rate:g}\n"
        )
    log.flush()


def log_epoch(log: TextIO, epoch: EpochRecord) -> None:
    """Write the line of an epoch to train.log."""
    log.write(
        f"epoch {epoch.epoch}: score {epoch.score:.4f}, macro-F1 {epoch.macro_f1:.4f}, loss {epoch.loss:.4f}, "
        f"validation loss {epoch.valid_loss:.4f}, accuracy {epoch.valid_accuracy:.4f}, "
        f"learning rate {epoch.learning_rate:.3g}, {epoch.seconds:.1f} s\n"
    )
    log.flush()
