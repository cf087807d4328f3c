"""Training an epoch at a time: the caller sees each validation score before the next epoch begins, and may stop there."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np

from automl_cxr.config import TrialConfig
from automl_cxr.errors import NonFiniteLossError, TrialError
from automl_cxr.model.losses import build_loss, build_optimizer, scheduled_learning_rate
from automl_cxr.records import EpochRecord
from automl_cxr.scoring.metrics import METRICS, Metric


@dataclass(frozen=True)
class LabelledPart:
    """The images and labels of one part of a split.

    Attributes:
        images: uint8 (n_all, h, w), usually a memory map that many processes share.
        rows: int (n,), the rows of ``images`` that belong to this part.
        labels: int (n,), index of the class of each of those rows.
    """

    images: np.ndarray
    rows: np.ndarray
    labels: np.ndarray

    def pixels(self, positions: np.ndarray) -> np.ndarray:
        """Copy some images of the part, uint8 (k, h, w, 1), reading the memory map in ascending order."""
        rows = self.rows[positions]
        ascending = np.argsort(rows)
        batch = np.empty((len(rows), *self.images.shape[1:]), np.uint8)
        batch[ascending] = self.images[rows[ascending]]
        return batch[..., np.newaxis]


class _TrainingBatches(keras.utils.PyDataset):
    """Shuffled batches of (pixels, one-hot labels, weights); an epoch's order depends on the seed and its number alone."""

    def __init__(self, part: LabelledPart, class_weights: np.ndarray, *, batch_size: int, seed: int) -> None:
        super().__init__()
        self._part = part
        self._targets = np.eye(len(class_weights), dtype=np.float32)[part.labels]
        self._weights = class_weights[part.labels]
        self._batch_size = batch_size
        self._seed = seed
        self.shuffle(epoch=1)

    def __len__(self) -> int:
        return n_steps(len(self._part.labels), self._batch_size)

    def __getitem__(self, step: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        positions = self._order[step * self._batch_size : (step + 1) * self._batch_size]
        return self._part.pixels(positions), self._targets[positions], self._weights[positions]

    def shuffle(self, *, epoch: int) -> None:
        self._order = np.random.default_rng((self._seed, epoch)).permutation(len(self._part.labels))


class _PixelBatches(keras.utils.PyDataset):
    """Batches of pixels in the part's own order."""

    def __init__(self, part: LabelledPart, *, batch_size: int) -> None:
        super().__init__()
        self._part = part
        self._batch_size = batch_size

    def __len__(self) -> int:
        return n_steps(len(self._part.rows), self._batch_size)

    def __getitem__(self, step: int) -> tuple[np.ndarray]:
        first = step * self._batch_size
        return (self._part.pixels(np.arange(first, min(first + self._batch_size, len(self._part.rows)))),)


def n_steps(n_images: int, batch_size: int) -> int:
    """Count the gradient steps of an epoch; the last batch may be smaller."""
    return math.ceil(n_images / batch_size)


@dataclass(frozen=True)
class Objective:
    """What an epoch is judged by: a metric, and the class without a finding for the metrics that need it."""

    metric: Metric = METRICS["macro_f1"]
    normal_class: int | None = None

    def score(self, labels: np.ndarray, probabilities: np.ndarray) -> float:
        return self.metric.function(labels, probabilities, self.normal_class)

    def goodness(self, record: EpochRecord) -> tuple[float, float]:
        """Give a key that is larger for a better epoch; of equal scores the lower loss wins."""
        return (record.score if self.metric.direction == "maximize" else -record.score, -record.valid_loss)


def train_epochs(
    model: keras.Model,
    config: TrialConfig,
    *,
    train: LabelledPart,
    valid: LabelledPart,
    objective: Objective,
    deadline: float | None = None,
) -> Iterator[EpochRecord]:
    """Train and yield after every epoch; once it is exhausted the model holds the best epoch's weights.

    Ends after ``config.epochs``, after ``config.patience`` epochs without a better validation score (of equal
    scores the one with the lower validation loss), or past ``deadline``.
    Scores are computed on the whole validation part, never averaged over batches. A caller that stops earlier just stops
    asking; the model then holds the last epoch's weights.

    Args:
        model: A network from ``build_model``.
        config: Loss, optimizer, batch size and the rest of the recipe.
        train: Images to learn from.
        valid: Images that choose the epoch.
        objective: The score that chooses it.
        deadline: ``time.time()`` after which no further epoch begins.

    Raises:
        NonFiniteLossError: The loss of an epoch is NaN or infinite.
    """
    n_classes = model.output_shape[-1]
    model.compile(optimizer=build_optimizer(config), loss=build_loss(config), jit_compile=_jit_compile())
    batches = _TrainingBatches(
        train,
        _class_weights(train.labels, n_classes, config.imbalance),
        batch_size=config.batch_size,
        seed=config.seed,
    )
    best, best_weights = None, None
    for epoch in range(1, config.epochs + 1):
        started = time.perf_counter()
        batches.shuffle(epoch=epoch)
        model.optimizer.learning_rate = scheduled_learning_rate(config, epoch)
        history = model.fit(batches, epochs=epoch, initial_epoch=epoch - 1, verbose=0, shuffle=False).history
        loss = float(history["loss"][-1])
        if not math.isfinite(loss):
            raise NonFiniteLossError(
                f"The training loss became {loss} in epoch {epoch} (learning_rate={config.learning_rate:g}). "
                "A lower learning rate usually helps."
            )
        probabilities = predict_probabilities(model, valid, batch_size=config.batch_size)
        record = EpochRecord(
            epoch=epoch,
            score=objective.score(valid.labels, probabilities),
            macro_f1=METRICS["macro_f1"].function(valid.labels, probabilities, None),
            loss=loss,
            valid_loss=METRICS["log_loss"].function(valid.labels, probabilities, None),
            valid_accuracy=METRICS["accuracy"].function(valid.labels, probabilities, None),
            seconds=time.perf_counter() - started,
            n_parameters=model.count_params(),
        )
        if best is None or objective.goodness(record) > objective.goodness(best):
            best, best_weights = record, model.get_weights()
        yield record
        if epoch - best.epoch >= config.patience or (deadline is not None and time.time() > deadline):
            break
    model.set_weights(best_weights)


def predict_probabilities(model: keras.Model, part: LabelledPart, *, batch_size: int = 32) -> np.ndarray:
    """Predict a part, float32 (n, n_classes), holding one batch of pixels in memory at a time.

    Raises:
        NonFiniteLossError: A probability is NaN.
    """
    probabilities = np.asarray(model.predict(_PixelBatches(part, batch_size=batch_size), verbose=0), np.float32)
    if not np.isfinite(probabilities).all():
        raise NonFiniteLossError("The network predicts NaN: its weights have diverged. A lower learning rate usually helps.")
    return probabilities


def _class_weights(labels: np.ndarray, n_classes: int, imbalance: str) -> np.ndarray:
    """Weigh classes by N / (K n_class), so that the mean weight of an image is 1; a class without images gets 1."""
    if imbalance == "none":
        return np.ones(n_classes, np.float32)
    counts = np.bincount(labels, minlength=n_classes)
    return np.where(counts > 0, len(labels) / (n_classes * np.maximum(counts, 1)), 1.0).astype(np.float32)


def _jit_compile() -> bool | str:
    """Leave XLA to Keras, except for TensorFlow on a CPU: there it costs 15 s a model and its steps are no faster."""
    if keras.backend.backend() != "tensorflow":
        return "auto"
    return "auto" if keras.distribution.list_devices("gpu") else False  # (JAX raises when asked for GPUs it has not)


def load_model(path: str) -> keras.Model:
    """Open a saved model without running code from the file.

    Raises:
        TrialError: The file is missing or damaged.
    """
    try:
        return keras.models.load_model(path, compile=False, safe_mode=True)
    except (OSError, ValueError, KeyError, TypeError) as error:
        what = "is damaged, or is no Keras model" if Path(path).is_file() else "does not exist"
        raise TrialError(f"The model file {path} {what}.") from error
