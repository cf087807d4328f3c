"""One trial with cross-validation: one network for each fold, scored on the images that it was not trained on.

The trial writes the same files as other trials: out-of-fold predictions for every image, and one model, which averages the
predictions of all networks.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import numpy as np

from automl_cxr.data.image_rows import open_images
from automl_cxr.model.fold_average import average_networks, network_of_fold
from automl_cxr.records import EpochRecord, FoldRecord, SplitRecord
from automl_cxr.scoring.predictions import Predictions
from automl_cxr.training.checkpoint import FinishedFold, load_fold, save_fold
from automl_cxr.training.datasets import LabelledPart
from automl_cxr.training.passes import predict_probabilities
from automl_cxr.training.trial import TrainedNetwork, build_network, finish_trial, train_network, valid_predictions
from automl_cxr.training.trial_costs import measure_costs
from automl_cxr.training.trial_files import history_rows, log_epoch
from automl_cxr.training.trial_task import TrialResult, TrialTask

if TYPE_CHECKING:
    import keras


def cross_validate(task: TrialTask) -> Generator[FoldRecord, None, TrialResult]:
    """Train a configuration once for each fold, yield each fold, and write the trial's files into ``task.folder``.

    The files are those of ``run_trial``: history.csv has a column "fold", valid.npz holds the out-of-fold predictions, and
    model.keras averages the networks. With ``task.checkpoint``, finished folds and the state of the current fold are saved
    beside it, and an interrupted trial continues from there. After ``task.seconds``, each remaining fold is trained for only
    one epoch; the search stops the trial before that if it has another result.

    Raises:
        TrialError: The network cannot be built or diverges.
    """
    started = time.monotonic()
    split = SplitRecord.from_json(task.split.read_text(encoding="utf-8"))
    (task.folder / "config.json").write_text(task.config.to_json(), encoding="utf-8")

    costs = measure_costs(task, len(split.classes), n_networks=split.n_folds)
    objective, finished = task.objective(costs), []
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

    return finish_trial(
        task,
        _out_of_fold(split, finished),
        average_networks([_restore_network(task, split, number, fold) for number, fold in enumerate(finished, 1)]),
        left_out,
        rows=[{"fold": number, **row} for number, fold in enumerate(finished, 1) for row in history_rows(task, fold.history)],
        history=[epoch for fold in finished for epoch in fold.history],
        best_epoch=None,
        cut_short=any(fold.cut_short for fold in finished),
        costs=costs,
        started=started,
    )


def load_fold_parts(images: Path, split: SplitRecord, fold: int) -> tuple[LabelledPart, LabelledPart]:
    """Return the training images of the network of a fold and the images of the fold, as memory maps."""
    pixels = open_images(images)
    labels = np.asarray(split.train.labels, np.int64)
    is_left_out = np.asarray(split.folds) == fold
    train, left_out = np.flatnonzero(~is_left_out), np.flatnonzero(is_left_out)
    return LabelledPart(pixels, train, labels[train]), LabelledPart(pixels, left_out, labels[left_out])


def predict_out_of_fold(model: keras.Model, images: Path, split: SplitRecord) -> np.ndarray:
    """Return the out-of-fold predictions of a saved model, float32 (n, n_classes)."""
    probabilities = np.empty((len(split.folds), len(split.classes)), np.float32)
    for number in range(1, split.n_folds + 1):
        _, left_out = load_fold_parts(images, split, number)
        probabilities[left_out.rows] = predict_probabilities(network_of_fold(model, number), left_out)
    return probabilities


def fold_seed(trial_seed: int, fold: int) -> int:
    """Derive the seed of the network of a fold; initial weights and image order differ between folds."""
    return int(np.random.SeedSequence((trial_seed, fold)).generate_state(1)[0] >> 1)


def _task_of_fold(task: TrialTask, fold: int) -> TrialTask:
    """Return the task of a fold's network, with a separate seed and checkpoint; an existing checkpoint is resumed."""
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
    """Train the network of a fold and predict the images of the fold, unless an earlier attempt has saved the result."""
    result_file = None if task.checkpoint is None else task.checkpoint.with_name(f"{task.checkpoint.stem}-finished.npz")
    if result_file is not None and result_file.is_file():
        fold = load_fold(result_file)
        for epoch in fold.history:
            log_epoch(log, epoch)
        return fold
    trained = _run_to_end(train_network(task, train, left_out, n_classes=n_classes, costs=costs, log=log, started=started))
    fold = FinishedFold(
        history=trained.history,
        weights=trained.model.get_weights(),
        probabilities=trained.probabilities,
        cut_short=trained.end.cut_short,
    )
    if result_file is not None:
        save_fold(fold, result_file)
        task.checkpoint.unlink(missing_ok=True)
    return fold


def _run_to_end(epochs: Generator[EpochRecord, None, TrainedNetwork]) -> TrainedNetwork:
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
    """Combine the predictions of all folds in the order of the split."""
    probabilities = np.empty((len(split.folds), len(split.classes)), np.float32)
    for number, fold in enumerate(finished, start=1):
        probabilities[np.asarray(split.folds) == number] = fold.probabilities
    return valid_predictions(split, probabilities)
