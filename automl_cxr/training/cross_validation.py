"""One trial over folds: as many networks as there are folds, each judged by the images that it did not learn from.

What such a trial leaves looks like any other's: predictions of every image, each by the network that did not learn from it,
and one model, which averages what the networks say.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import numpy as np

from automl_cxr.model.build import digest_pretrained
from automl_cxr.model.fold_average import average_networks, network_of_fold
from automl_cxr.records import EpochRecord, FoldRecord, SplitRecord
from automl_cxr.scoring.predictions import Predictions
from automl_cxr.training.checkpoint import FinishedFold, load_fold, save_fold
from automl_cxr.training.datasets import LabelledPart
from automl_cxr.training.trainer import predict_probabilities
from automl_cxr.training.trial import (
    TrainedNetwork,
    TrialResult,
    TrialTask,
    build_network,
    digest_files,
    history_rows,
    inputs_read,
    log_epoch,
    measure_costs,
    objective_of,
    save_trial,
    score_trial,
    train_network,
)

if TYPE_CHECKING:
    import keras


def cross_validate(task: TrialTask) -> Generator[FoldRecord, None, TrialResult]:
    """Train a configuration once for each fold, yielding each, and leave the trial's files in ``task.folder``.

    The files are those of ``run_trial``: history.csv has a column "fold", valid.npz holds the predictions out of fold, and
    model.keras averages the networks. With ``task.checkpoint`` finished folds and the one in progress are kept beside it,
    and a trial that was left goes on from there. After ``task.seconds`` every fold that is left still gets one epoch.

    Raises:
        TrialError: The network cannot be built or diverges.
    """
    started = time.monotonic()
    split = SplitRecord.from_json(task.split.read_text(encoding="utf-8"))
    (task.folder / "config.json").write_text(task.config.to_json(), encoding="utf-8")

    costs = measure_costs(task, len(split.classes), n_networks=split.n_folds)
    objective, finished = objective_of(task, costs), []
    with (task.folder / "train.log").open("w", encoding="utf-8") as log:
        for number in range(1, split.n_folds + 1):
            log.write(f"fold {number} of {split.n_folds}\n")
            train, left_out = load_fold_parts(task.images, split, number)
            fold = _finish_fold(
                _task_of_fold(task, number),
                train,
                left_out,
                n_classes=len(split.classes),
                costs=costs,
                log=log,
                started=started,
            )
            finished.append(fold)
            yield FoldRecord(
                fold=number,
                score=objective.score(left_out.labels, fold.probabilities),
                values=objective.values(left_out.labels, fold.probabilities),
                n_parameters=split.n_folds * fold.history[-1].n_parameters,
                n_folds=split.n_folds,
                n_epochs=sum(len(fold.history) for fold in finished),
            )

    predictions = _out_of_fold(split, finished)
    model = average_networks([_restore_network(task, split, number, fold) for number, fold in enumerate(finished, 1)])
    epochs = [{"fold": number, **row} for number, fold in enumerate(finished, 1) for row in history_rows(task, fold.history)]
    save_trial(task.folder, epochs, predictions, model)
    return TrialResult(
        **score_trial(task, predictions, model, left_out, costs=costs),
        best_epoch=None,
        epochs=len(epochs),
        cut_short=any(fold.cut_short for fold in finished),
        n_parameters=model.count_params(),
        multiply_adds=int(costs["multiply_adds"]),
        weight_bytes=int(costs["weight_bytes"]),
        image_sizes=(task.config.image_size,),
        features=inputs_read([epoch for fold in finished for epoch in fold.history]),
        weights_sha256="+".join(digest_pretrained(task.config, task.weights_folder)),
        sha256=digest_files(task.folder),
        seconds=time.monotonic() - started,
    )


def load_fold_parts(images: Path, split: SplitRecord, fold: int) -> tuple[LabelledPart, LabelledPart]:
    """Map the decoded images that the network of a fold learns from, and those of the fold, which it is judged by."""
    pixels = np.load(images, mmap_mode="r", allow_pickle=False)
    labels = np.asarray(split.train.labels, np.int64)
    is_left_out = np.asarray(split.folds) == fold
    learnt, left_out = np.flatnonzero(~is_left_out), np.flatnonzero(is_left_out)
    return LabelledPart(pixels, learnt, labels[learnt]), LabelledPart(pixels, left_out, labels[left_out])


def predict_out_of_fold(model: keras.Model, images: Path, split: SplitRecord) -> np.ndarray:
    """Predict every image with the network in a trial's saved model that did not learn from it, float32 (n, n_classes)."""
    probabilities = np.empty((len(split.folds), len(split.classes)), np.float32)
    for number in range(1, split.n_folds + 1):
        _, left_out = load_fold_parts(images, split, number)
        probabilities[left_out.rows] = predict_probabilities(network_of_fold(model, number), left_out)
    return probabilities


def fold_seed(trial_seed: int, fold: int) -> int:
    """Derive the seed of a fold's network: other first weights and another order of the images in each."""
    return int(np.random.SeedSequence((trial_seed, fold)).generate_state(1)[0] >> 1)


def _task_of_fold(task: TrialTask, fold: int) -> TrialTask:
    """Make the task of one network: its own seed, and a checkpoint of its own to go on from if there is one."""
    checkpoint = None if task.checkpoint is None else task.checkpoint.with_name(f"{task.checkpoint.stem}-fold-{fold}.npz")
    return dataclasses.replace(
        task,
        config=dataclasses.replace(task.config, seed=fold_seed(task.config.seed, fold)),
        checkpoint=checkpoint,
        resume=checkpoint if checkpoint is not None and checkpoint.is_file() else None,
    )


def _finish_fold(
    task: TrialTask,
    train: LabelledPart,
    left_out: LabelledPart,
    *,
    n_classes: int,
    costs: Mapping[str, float],
    log: TextIO,
    started: float,
) -> FinishedFold:
    """Train the network of a fold and have it judge the images left out, unless an earlier attempt at the trial has."""
    kept = None if task.checkpoint is None else task.checkpoint.with_name(f"{task.checkpoint.stem}-finished.npz")
    if kept is not None and kept.is_file():
        fold = load_fold(kept)
        for epoch in fold.history:
            log_epoch(log, epoch)
        return fold
    trained = _run_to_the_end(train_network(task, train, left_out, n_classes=n_classes, costs=costs, log=log, started=started))
    fold = FinishedFold(
        history=trained.history,
        weights=trained.model.get_weights(),
        probabilities=trained.probabilities,
        cut_short=trained.end.cut_short,
    )
    if kept is not None:
        save_fold(fold, kept)
        task.checkpoint.unlink(missing_ok=True)
    return fold


def _run_to_the_end(epochs: Generator[EpochRecord, None, TrainedNetwork]) -> TrainedNetwork:
    while True:
        try:
            next(epochs)
        except StopIteration as end:
            return end.value


def _restore_network(task: TrialTask, split: SplitRecord, number: int, fold: FinishedFold) -> keras.Model:
    train, _ = load_fold_parts(task.images, split, number)
    network = build_network(_task_of_fold(task, number), train, n_classes=len(split.classes))
    network.set_weights(fold.weights)
    return network


def _out_of_fold(split: SplitRecord, finished: Sequence[FinishedFold]) -> Predictions:
    """Put the predictions of all folds in the order of the split."""
    probabilities = np.empty((len(split.folds), len(split.classes)), np.float32)
    for number, fold in enumerate(finished, start=1):
        probabilities[np.asarray(split.folds) == number] = fold.probabilities
    return Predictions(
        ids=split.train.images,
        labels=np.asarray(split.train.labels, np.int64),
        probabilities=probabilities,
        classes=split.classes,
        patients=split.train.patients,
    )
