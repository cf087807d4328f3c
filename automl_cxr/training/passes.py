"""One pass over a part of a split: an epoch of training, or predictions.

Keras' ``fit`` and ``predict`` run the passes. A thread prepares the next batches meanwhile, and no step waits until its results
are copied to the host: the loss stays on the device until the end of the epoch. On a CPU, networks with small steps run batch
by batch instead, because the overhead of ``fit`` and ``predict`` exceeds such steps.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from automl_cxr.config import TrialConfig
from automl_cxr.model.devices import data_parallel, has_gpu, n_devices
from automl_cxr.model.flops import count_multiply_adds
from automl_cxr.model.inference import check_finite_predictions, predict_batches
from automl_cxr.prefetch import Prefetched
from automl_cxr.training.batches import TrainingBatches, divisible_size, n_steps
from automl_cxr.training.datasets import FeaturePart, Part
from automl_cxr.training.epoch_tracker import refuse_diverged_loss
from automl_cxr.training.schedules import changes_by_step
from automl_cxr.training.weight_averages import KeepWeights

_SMALL_STEP = 5e8  # multiply-adds of a batch in the forward pass; they take 20 to 50 ms on one core
_PREDICTION_BATCH = 32  # for small networks at every training batch size, so that only one graph is traced
_LARGER_PREDICTION = 4  # times the training batch, on a GPU; inference keeps few feature maps, so that it needs no more memory


def fit_epoch(model: keras.Model, config: TrialConfig, train: Part, *, epoch: int, learning_rate: float) -> float:
    """Train one epoch and return the mean loss of its images.

    Args:
        model: A compiled network.
        config: The configuration.
        train: The training part.
        epoch: Number of the epoch, from 1.
        learning_rate: Learning rate of the epoch, if it does not change with each step.

    Raises:
        NonFiniteLossError: The loss is NaN or infinite.
    """
    batches = TrainingBatches(train, model.output_shape[-1], config, epoch=epoch)
    if not changes_by_step(config):
        model.optimizer.learning_rate = learning_rate
    run = _train_on_batches if _runs_batch_by_batch(model, train, batch_size=config.images_at_once) else _fit
    loss = run(model, batches)
    refuse_diverged_loss(loss, epoch=epoch, learning_rate=learning_rate)
    return loss


def predict_probabilities(model: keras.Model, part: Part, *, batch_size: int = 32) -> np.ndarray:
    """Predict a part, float32 (n, n_classes), with a few batches of its inputs in memory at a time.

    Raises:
        NonFiniteLossError: A probability is NaN.
    """
    n = len(part.rows)
    if _runs_batch_by_batch(model, part, batch_size=batch_size):
        rows = _PREDICTION_BATCH if _has_small_steps(model, batch_size=batch_size) else batch_size
        predicted = predict_batches(model, part.batch, n, batch_size=rows)
    else:
        n_together = _LARGER_PREDICTION * batch_size if has_gpu() else batch_size
        predicted = _predict(model, part, batch_size=divisible_size(min(n_together, n)))
    probabilities = np.asarray(predicted, np.float32)[:n]
    check_finite_predictions(probabilities)
    return probabilities


def _runs_batch_by_batch(model: keras.Model, part: Part, *, batch_size: int) -> bool:
    """Return whether to run batches one by one instead of with ``fit`` or ``predict``, whose overhead exceeds small steps.

    With TensorFlow on a CPU, ``fit`` takes 70 ms of CPU time before the first batch. It is useful because batches are prepared
    and results are copied while others are computed, and because it divides batches among devices. The decision depends on the
    number of multiply-adds and not on measured time, because the last digit of the loss depends on the decision.
    """
    if has_gpu() or n_devices() > 1:
        return False
    return isinstance(part, FeaturePart) or _has_small_steps(model, batch_size=batch_size)


def _has_small_steps(model: keras.Model, *, batch_size: int) -> bool:
    return batch_size * count_multiply_adds(model) < _SMALL_STEP


def _train_on_batches(model: keras.Model, batches: TrainingBatches) -> float:
    """Run the gradient steps of an epoch one by one; return the mean loss of its images."""
    losses = []
    for step in range(len(batches)):
        inputs, targets, weights = batches[step]
        logs = model.train_on_batch(inputs, targets, sample_weight=weights, return_dict=True)
        losses.append(float(logs["loss"]))
    return batches.mean_loss(float(np.mean(losses[:-1] or 0.0)), float(np.mean(losses)))


def _fit(model: keras.Model, batches: TrainingBatches) -> float:
    """Run the gradient steps of an epoch with ``fit``; return the mean loss of its images."""
    results = _ResultsOnDevice(model)
    with data_parallel():
        model.fit(_Batches(batches.__getitem__, len(batches)), verbose=0, shuffle=False, callbacks=results)
    return batches.mean_loss(*map(float, results.mean_losses))


def _predict(model: keras.Model, part: Part, *, batch_size: int) -> np.ndarray:
    """Predict a part in batches of a constant size; the last one repeats images, whose predictions follow the others."""
    n = len(part.rows)
    n_batches = n_steps(n, batch_size)

    def inputs(number: int) -> tuple[Any]:
        return (part.batch(np.arange(number * batch_size, (number + 1) * batch_size) % n),)

    with data_parallel():
        return model.predict(_Batches(inputs, n_batches), verbose=0, callbacks=_ResultsOnDevice(model))


class _Batches(keras.utils.PyDataset):
    """Batches that another thread prepares ahead.

    The workers of Keras are not used: with JAX, Keras 3.15 reads the first batch to build the network, and several workers then
    continue with the second batch.

    Args:
        prepare: Returns a batch by its number.
        n: Number of batches.
    """

    def __init__(self, prepare: Callable[[int], tuple[Any, ...]], n: int) -> None:
        super().__init__()
        self._batches = Prefetched(prepare, n)

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, number: int) -> tuple[Any, ...]:
        return self._batches[number]


class _ResultsOnDevice(keras.callbacks.CallbackList):
    """Callbacks that leave the results of each step on the device; Keras' own list copies them to the host.

    Attributes:
        mean_losses: The mean losses of all steps but the last, and of all steps, each step weighted equally.
    """

    def __init__(self, model: keras.Model) -> None:
        super().__init__([KeepWeights()], add_history=True, model=model)
        self.mean_losses: tuple[Any, Any] = (0.0, 0.0)

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Do nothing."""

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.mean_losses = (self.mean_losses[1], logs["loss"])

    def on_predict_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Do nothing."""

    def on_predict_batch_end(self, batch: int, logs: Any = None) -> None:
        """Do nothing."""
