"""One trial: from decoded images to a trained network, its predictions and its files."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TextIO

import numpy as np

from automl_cxr.config import TrialConfig
from automl_cxr.data.downscaled import downscaled_images
from automl_cxr.data.image_rows import open_images
from automl_cxr.model.build import build_model, digest_pretrained
from automl_cxr.model.devices import describe_worker
from automl_cxr.records import EpochRecord, SplitRecord
from automl_cxr.scoring.prediction_files import PREDICTIONS_FILE
from automl_cxr.scoring.predictions import Predictions
from automl_cxr.scoring.score_files import save_scores
from automl_cxr.scoring.thresholds import choose_thresholds
from automl_cxr.training.batches import n_steps
from automl_cxr.training.checkpoint import Checkpoint, has_matching_shapes, load_checkpoint, save_checkpoint
from automl_cxr.training.datasets import LabelledPart
from automl_cxr.training.sampling import epoch_size
from automl_cxr.training.trainer import Training, TrainingEnd
from automl_cxr.training.trial_costs import measure_costs, score_trial, with_buildable_image_size
from automl_cxr.training.trial_files import digest_files, history_rows, log_epoch, log_start, save_trial
from automl_cxr.training.trial_task import TrialResult, TrialTask

if TYPE_CHECKING:
    import keras

__all__ = [
    "TrainedNetwork",
    "TrialResult",
    "TrialTask",
    "build_network",
    "describe_worker",
    "finish_trial",
    "load_parts",
    "observe_training",
    "run_trial",
    "train_network",
    "valid_predictions",
]

_CHECKPOINT_SECONDS = 60.0  # between checkpoints; an interruption loses at most about this much training of each trial


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainedNetwork:
    """A network with the weights of its best epoch, and the record of its training.

    Attributes:
        model: The network.
        probabilities: Its predictions for the validation part, float32 (n, n_classes).
        history: Every epoch.
        end: The best epoch, and whether the deadline ended training.
    """

    model: keras.Model
    probabilities: np.ndarray
    history: tuple[EpochRecord, ...]
    end: TrainingEnd


def run_trial(task: TrialTask) -> Generator[EpochRecord, None, TrialResult]:
    """Train a configuration, yield each epoch, and write the trial's files into ``task.folder``.

    The files are config.json, history.csv, train.log, valid.npz (predictions), scores.json (their metrics) and model.keras
    (weights of the best epoch).
    To stop the trial after an epoch, close the generator; train.log, valid.npz and model.keras are then missing or incomplete.

    Raises:
        InfeasibleError: The network violates a requirement, or does not fit in memory. Both are known before training.
        TrialError: The network cannot be built or diverges.
    """
    started = time.monotonic()
    split = SplitRecord.from_json(task.split.read_text(encoding="utf-8"))
    costs = measure_costs(task, len(split.classes))
    task = with_buildable_image_size(task, len(split.classes))
    train, valid = load_parts(downscaled_images(task.images, task.config.input_size), split)
    (task.folder / "config.json").write_text(task.config.to_json(), encoding="utf-8")

    with (task.folder / "train.log").open("w", encoding="utf-8") as log:
        trained = yield from train_network(
            task, train, valid, n_classes=len(split.classes), costs=costs, log=log, started=started
        )

    return finish_trial(
        task,
        valid_predictions(split, trained.probabilities),
        trained.model,
        valid,
        rows=history_rows(task, trained.history),
        history=trained.history,
        best_epoch=trained.end.best_epoch,
        cut_short=trained.end.cut_short,
        costs=costs,
        started=started,
    )


def valid_predictions(split: SplitRecord, probabilities: np.ndarray) -> Predictions:
    """Return the predictions with these probabilities, (n, n_classes), for the validation part or the images of all folds.

    Those of findings have the thresholds that are the best for the same images.
    """
    labels = np.asarray(split.judged.labels, np.int64)
    return Predictions(
        ids=split.judged.images,
        labels=labels,
        probabilities=probabilities,
        thresholds=choose_thresholds(labels, probabilities) if split.is_multilabel else None,
        classes=split.classes,
        patients=split.judged.patients,
    )


def finish_trial(
    task: TrialTask,
    predictions: Predictions,
    model: keras.Model,
    part: LabelledPart,
    *,
    rows: Sequence[Mapping[str, Any]],
    history: Sequence[EpochRecord],
    best_epoch: int | None,
    cut_short: bool,
    costs: Mapping[str, float],
    started: float,
    save_model: Callable[[keras.Model, Path], None] | None = None,
) -> TrialResult:
    """Write the files of a trial whose training has ended, and return its result.

    Args:
        task: The trial.
        predictions: Content of valid.npz, which scores the trial.
        model: Content of model.keras.
        part: Images on which the latency is measured, if it is required.
        rows: Rows of history.csv.
        history: Every epoch, of all folds if there are folds.
        best_epoch: See ``TrialResult``.
        cut_short: See ``TrialResult``.
        costs: The costs of the model, from ``measure_costs``.
        started: ``time.monotonic()`` at the start of the trial.
        save_model: Function that writes model.keras; None for ``keras.Model.save``.
    """
    save_trial(task.folder, rows, predictions, model, save_model=save_model)
    result = TrialResult(
        **score_trial(task, predictions, model, part, costs=costs),
        best_epoch=best_epoch,
        epochs=len(history),
        cut_short=cut_short,
        n_parameters=model.count_params(),
        multiply_adds=int(costs["multiply_adds"]),
        weight_bytes=int(costs["weight_bytes"]),
        image_sizes=tuple(dict.fromkeys(epoch.image_size for epoch in history)),
        features="; ".join(dict.fromkeys(epoch.features for epoch in history if epoch.features)),
        weights_sha256="+".join(digest_pretrained(task.config, task.weights_folder)),
        sha256=digest_files(task.folder),
        seconds=time.monotonic() - started,
    )
    save_scores(task.folder / PREDICTIONS_FILE, normal_class=task.normal_class)  # after the digests, because readers replace it
    return result


def load_parts(images: Path, split: SplitRecord) -> tuple[LabelledPart, LabelledPart]:
    """Return the decoded training and validation images of a split as memory maps."""
    pixels = open_images(images)
    n_train, n_valid = len(split.train.images), len(split.valid.images)
    return (
        LabelledPart(pixels, np.arange(n_train), np.asarray(split.train.labels, np.int64)),
        LabelledPart(pixels, np.arange(n_train, n_train + n_valid), np.asarray(split.valid.labels, np.int64)),
    )


def train_network(
    task: TrialTask,
    train: LabelledPart,
    valid: LabelledPart,
    *,
    n_classes: int,
    costs: Mapping[str, float],
    log: TextIO,
    started: float,
) -> Generator[EpochRecord, None, TrainedNetwork]:
    """Train the network of a task and yield each epoch. Epochs before a checkpoint of the same trial are yielded again.

    Args:
        task: The trial.
        train: Training images.
        valid: Images that epochs are scored on.
        n_classes: Number of classes.
        costs: The costs of the network, from ``measure_costs``.
        log: The file train.log.
        started: ``time.monotonic()`` at the start of the trial, from which ``task.seconds`` is measured.

    Raises:
        TrialError: The network cannot be built or diverges.
    """
    model = build_network(task, train, n_classes=n_classes)
    training = Training(model, task.config, train=train, valid=valid, objective=task.objective(costs))
    checkpoint = None if task.resume is None else load_checkpoint(task.resume)
    log_start(log, task, model)
    if checkpoint is not None and _can_resume(checkpoint, model, task.config):
        training.restore(checkpoint)
    elif checkpoint is not None:
        log.write("started from initial weights: the checkpoint of the smaller image size has other shapes\n")
    epochs = training.epochs(until=task.until, deadline=task.deadline(started))
    end = yield from observe_training(training, epochs, task, log)
    probabilities, message = training.best_probabilities()
    log.write(f"{message}\n" if message else "")
    return TrainedNetwork(model=model, probabilities=probabilities, history=training.history, end=end)


def _can_resume(checkpoint: Checkpoint, model: keras.Model, config: TrialConfig) -> bool:
    """Return whether to continue from a checkpoint; other shapes are accepted only after a change of the image size."""
    return checkpoint.history[-1].image_size == config.image_size or has_matching_shapes(checkpoint, model)


def build_network(task: TrialTask, train: LabelledPart, *, n_classes: int) -> keras.Model:
    """Build the untrained network of a task, given its training images.

    Raises:
        TrialError: It cannot be built.
    """
    n_images = epoch_size(train.labels, n_classes, task.config)
    return build_model(
        task.config,
        n_classes,
        steps_per_epoch=n_steps(n_images, task.config.images_at_once),
        weights_folder=task.weights_folder,
    )


class Resumable(Protocol):
    """Training whose state can be written to a checkpoint."""

    @property
    def history(self) -> tuple[EpochRecord, ...]:
        """Every epoch so far, including those before a checkpoint."""

    def checkpoint(self) -> Checkpoint:
        """Copy the training state."""


def observe_training(
    training: Resumable, epochs: Generator[EpochRecord, None, TrainingEnd], task: TrialTask, log: TextIO
) -> Generator[EpochRecord, None, TrainingEnd]:
    """Yield the epochs of training; log each epoch before it is yielded, and write checkpoints at intervals."""
    is_own_checkpoint = task.resume is not None and task.resume == task.checkpoint
    for earlier in training.history:
        log_epoch(log, earlier)
        if is_own_checkpoint and earlier.epoch > task.reported:
            yield earlier  # the search may have been interrupted before it recorded this epoch
    due = time.monotonic() + _CHECKPOINT_SECONDS
    while True:
        try:
            epoch = next(epochs)
        except StopIteration as end:
            ended_early = task.until is not None and training.history[-1].epoch < task.until
            if task.checkpoint is not None and ended_early and not end.value.cut_short:
                save_checkpoint(training.checkpoint(), task.checkpoint)  # stopped early, but the trial may still be promoted
            return end.value
        if epoch.features and epoch.features not in (earlier.features for earlier in training.history[:-1]):
            log.write(f"inputs of phase {epoch.phase}: {epoch.features}\n")
        log_epoch(log, epoch)
        if task.checkpoint is not None and epoch.epoch == task.until:
            save_checkpoint(training.checkpoint(), task.checkpoint)
        elif task.checkpoint is not None and time.monotonic() >= due:
            with contextlib.suppress(OSError):  # a full disk must not end the trial; the next checkpoint may succeed
                save_checkpoint(training.checkpoint(), task.checkpoint)
            due = time.monotonic() + _CHECKPOINT_SECONDS
        yield epoch
