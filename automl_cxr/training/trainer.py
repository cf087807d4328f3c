"""Training an epoch at a time: the caller sees each validation score before the next epoch begins, and may stop there."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from automl_cxr.config import TrialConfig
from automl_cxr.model.devices import data_parallel, n_devices, refuse_accumulation
from automl_cxr.model.flops import count_multiply_adds
from automl_cxr.model.freezing import set_phase
from automl_cxr.model.inference import predict_batches, refuse_diverged_network
from automl_cxr.records import EpochRecord
from automl_cxr.training.checkpoint import Checkpoint, restore_checkpoint, take_checkpoint
from automl_cxr.training.compiled_cache import Batch, CompiledNetwork, compiled_network
from automl_cxr.training.datasets import FeaturePart, LabelledPart
from automl_cxr.training.epoch_tracker import EpochTracker, Objective, refuse_diverged_loss
from automl_cxr.training.phase_inputs import PhaseInputs, agrees, choose_phase_inputs, compare_with_pixels
from automl_cxr.training.sampling import epoch_order, fill_up, image_weights
from automl_cxr.training.schedules import Phase, plan_phases

_SMALL_STEP = 5e8  # multiplications of a batch on its way forward: a core's work of 20 to 50 ms
_PREDICTED_AT_ONCE = 32  # by small networks, whatever they train with: another size would be another graph


class _TrainingBatches(keras.utils.PyDataset):
    """Batches of (inputs, one-hot labels, weights) of one epoch, which its number and the configuration alone decide."""

    def __init__(self, part: LabelledPart | FeaturePart, n_classes: int, config: TrialConfig, *, epoch: int) -> None:
        super().__init__()
        self._part = part
        self._targets = np.eye(n_classes, dtype=np.float32)[part.labels]
        self._weights = image_weights(part.labels, n_classes, config)
        self._batch_size = config.images_at_once
        self._order = epoch_order(part.labels, n_classes, config, epoch=epoch)

    def __len__(self) -> int:
        return n_steps(len(self._order), self._batch_size)

    def __getitem__(self, step: int) -> tuple[Any, np.ndarray, np.ndarray]:
        positions = self._order[step * self._batch_size : (step + 1) * self._batch_size]
        shown, weights = fill_up(positions, self._weights[positions], multiple_of=n_devices())
        return self._part.batch(shown), self._targets[shown], weights


class _Inputs(keras.utils.PyDataset):
    """Batches of inputs in the part's own order; the last one may show some images again for ``n_devices`` to divide it."""

    def __init__(self, part: LabelledPart | FeaturePart, *, batch_size: int) -> None:
        super().__init__()
        self._part = part
        self._batch_size = n_devices() * math.ceil(batch_size / n_devices())

    def __len__(self) -> int:
        return n_steps(len(self._part.rows), self._batch_size)

    def __getitem__(self, step: int) -> tuple[Any]:
        first = step * self._batch_size
        positions = np.arange(first, min(first + self._batch_size, len(self._part.rows)))
        shown, _ = fill_up(positions, np.ones(len(positions)), multiple_of=n_devices())
        return (self._part.batch(shown),)


def n_steps(n_images: int, batch_size: int) -> int:
    """Count the gradient steps of an epoch; the last batch may be smaller."""
    return math.ceil(n_images / batch_size)


@dataclass(frozen=True, kw_only=True)
class TrainingEnd:
    """How a training ended.

    Attributes:
        best_epoch: Epoch whose weights the model holds.
        cut_short: Whether the deadline kept it from epochs that it would have run.
    """

    best_epoch: int
    cut_short: bool


class Training:
    """A training in progress: it runs epoch by epoch, and can be taken up from a checkpoint.

    Runs the phases of ``plan_phases``, each with an optimizer of its own from the best weights before it, and each on pixels or
    on features, whichever is cheaper (``training/phase_inputs.py``). A phase ends after its epochs or after ``config.patience`` of them
    without a better one. What is better ``config.monitor`` says; fine-tuning that only harms is thus discarded. Scores are
    computed on the whole validation part, never averaged over batches.
    """

    def __init__(
        self, model: keras.Model, config: TrialConfig, *, train: LabelledPart, valid: LabelledPart, objective: Objective
    ) -> None:
        self._model = model
        self._config = config
        self._train = train
        self._valid = valid
        self._course = EpochTracker(config, objective)
        self._best_weights: Sequence[np.ndarray] = ()
        self._best_probabilities: np.ndarray | None = None
        self._best_road: PhaseInputs | None = None
        self._restored: Checkpoint | None = None
        self._road: PhaseInputs | None = None
        self._compiled: CompiledNetwork | None = None

    @property
    def history(self) -> tuple[EpochRecord, ...]:
        """Every epoch so far, those before a checkpoint too."""
        return tuple(self._course.history)

    def checkpoint(self) -> Checkpoint:
        """Copy the state after the last epoch that was yielded; call it before asking for another one."""
        return take_checkpoint(
            self._model,
            self._compiled.model.optimizer,
            history=self._course.history,
            best=self._course.best,
            best_weights=self._best_weights,
        )

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint; call it before ``epochs``."""
        self._restored = checkpoint
        self._course.history = list(checkpoint.history)
        self._course.best, self._best_weights = checkpoint.best, checkpoint.best_weights

    def epochs(self, *, until: int | None = None, deadline: float | None = None) -> Generator[EpochRecord, None, TrainingEnd]:
        """Train and yield after every epoch; once it is exhausted the model holds the best epoch's weights.

        A caller that stops earlier just stops asking; the model then holds the last epoch's weights.

        Args:
            until: Epoch after which it ends, whatever the phases have left.
            deadline: ``time.monotonic()`` after which no further epoch begins, though one always does.

        Raises:
            ImpossibleModelError: The loss or the layers to train do not fit the network.
            NonFiniteLossError: The loss of an epoch is NaN or infinite.
        """
        course, is_late = self._course, False
        for number, phase in enumerate(plan_phases(self._config), start=1):
            if course.history and course.history[-1].phase > number:
                continue  # it was over before the checkpoint
            with self._begun(phase):
                while course.goes_on(number, phase) and not course.is_at(until):
                    is_late = course.best is not None and deadline is not None and time.monotonic() > deadline
                    if is_late:
                        break
                    yield self._run_epoch(number, phase)
            self._model.set_weights(self._best_weights)
            if is_late or course.is_at(until):
                break
        return TrainingEnd(best_epoch=course.best.epoch, cut_short=is_late)

    def best_probabilities(self) -> tuple[np.ndarray, str]:
        """Give what the network says of the validation part after the best epoch.

        Call it after the end, when the model holds that epoch's weights. Only where they came with a checkpoint, or from
        features that are not exact, has it to be asked again.

        Returns:
            Probabilities, float32 (n_valid, n_classes), within 1e-5 of those of the whole network from pixels; and what a
            comparison of the two came to, "" where pixels are what it read.

        Raises:
            TrialError: Features and pixels differ by more than rounding explains.
        """
        road, probabilities = self._best_road, self._best_probabilities
        if road is None or probabilities is None or n_devices() > 1:  # each device has averages of its own while it trains
            return self._predict_valid(), ""
        if road.network is self._model:
            return probabilities, ""
        differ_by = compare_with_pixels(self._model, self._valid, probabilities)
        note = f"the whole network, from pixels, predicts the same within {differ_by:.1g}"
        if road.is_exact and agrees(differ_by):
            return probabilities, note
        return self._predict_valid(), f"{note}; its own predictions are kept"

    def _predict_valid(self) -> np.ndarray:
        return predict_probabilities(self._model, self._valid, batch_size=self._config.images_at_once)

    @contextlib.contextmanager
    def _begun(self, phase: Phase) -> Iterator[None]:
        """Choose the layers that train; a fresh optimizer, because the moments of another choice say nothing of it."""
        set_phase(self._model, self._config, frozen=phase.frozen)
        refuse_accumulation(self._config.gradient_accumulation)
        self._road = choose_phase_inputs(
            self._model, self._config, n_epochs=phase.n_epochs, train=self._train, valid=self._valid
        )
        network = self._road.network
        batches = _batches_to_trace(network, self._config, self._road.train_part(1))
        with compiled_network(network, self._config, learning_rate=phase.learning_rate, batches=batches) as self._compiled:
            if self._restored is not None:
                with data_parallel():
                    restore_checkpoint(self._restored, self._model, self._compiled.model.optimizer)
                    self._compiled.take(network)
                self._restored = None
            yield

    def _run_epoch(self, number: int, phase: Phase) -> EpochRecord:
        """Train an epoch, score it on the whole validation part, and keep its weights if it is the best."""
        started = time.perf_counter()
        learning_rate = self._course.learning_rate(number, phase)
        epoch = len(self._course.history) + 1
        trained = self._compiled.model
        loss = _fit_epoch(trained, self._config, self._road.train_part(epoch), epoch=epoch, learning_rate=learning_rate)
        probabilities = predict_probabilities(trained, self._road.valid, batch_size=self._config.images_at_once)
        self._compiled.give(self._road.network)
        record = self._course.note(
            number,
            phase,
            loss=loss,
            labels=self._valid.labels,
            probabilities=probabilities,
            seconds=time.perf_counter() - started,
            n_parameters=self._model.count_params(),
            features=self._road.reads,
        )
        if self._course.best is record:
            self._best_weights = self._model.get_weights()
            self._best_probabilities, self._best_road = probabilities, self._road
        return record


def _fit_epoch(
    model: keras.Model, config: TrialConfig, train: LabelledPart | FeaturePart, *, epoch: int, learning_rate: float
) -> float:
    """Train one epoch and give its mean loss."""
    batches = _TrainingBatches(train, model.output_shape[-1], config, epoch=epoch)
    model.optimizer.learning_rate = learning_rate
    if _goes_step_by_step(model, train, batch_size=config.images_at_once):
        loss = _take_steps(model, batches)
    else:
        with data_parallel():
            history = model.fit(batches, epochs=epoch, initial_epoch=epoch - 1, verbose=0, shuffle=False).history
        loss = float(history["loss"][-1])
    refuse_diverged_loss(loss, epoch=epoch, learning_rate=learning_rate)
    return loss


def _goes_step_by_step(model: keras.Model, part: LabelledPart | FeaturePart, *, batch_size: int) -> bool:
    """Tell whether batches are handed over one by one: where a step is small, Keras' loops cost more than the steps do.

    On TensorFlow a loop takes 50 ms of CPU before its first batch and 5 ms for each. It prepares pixels while others are
    computed, and divides batches among devices. Counted and not timed, since the last digit of the loss depends on it.
    """
    return n_devices() == 1 and (isinstance(part, FeaturePart) or _has_small_steps(model, batch_size=batch_size))


def _has_small_steps(model: keras.Model, *, batch_size: int) -> bool:
    return batch_size * count_multiply_adds(model) < _SMALL_STEP


def _batches_to_trace(network: keras.Model, config: TrialConfig, part: LabelledPart | FeaturePart) -> list[Batch]:
    """Give two batches of different sizes where steps are taken one by one, and the backend makes graphs for unknown sizes."""
    by_step = _goes_step_by_step(network, part, batch_size=config.images_at_once)
    if keras.backend.backend() != "tensorflow" or not by_step:
        return []
    n_classes = network.output_shape[-1]
    shown = [np.resize(np.arange(len(part.rows)), n) for n in (2, 3)]
    return [
        (part.batch(rows), np.eye(n_classes, dtype=np.float32)[part.labels[rows]], np.ones(len(rows), np.float32))
        for rows in shown
    ]


def _take_steps(model: keras.Model, batches: _TrainingBatches) -> float:
    """Take the steps of an epoch; give the mean loss of its images, as ``fit`` does."""
    losses, sizes = [], []
    for step in range(len(batches)):
        inputs, targets, weights = batches[step]
        told = model.train_on_batch(inputs, targets, sample_weight=weights, return_dict=True)
        losses.append(float(told["loss"]))
        sizes.append(len(targets))
    return float(np.average(losses, weights=sizes))


def predict_probabilities(model: keras.Model, part: LabelledPart | FeaturePart, *, batch_size: int = 32) -> np.ndarray:
    """Predict a part, float32 (n, n_classes), holding one batch of its inputs in memory at a time.

    Raises:
        NonFiniteLossError: A probability is NaN.
    """
    if _goes_step_by_step(model, part, batch_size=batch_size):
        at_once = _PREDICTED_AT_ONCE if _has_small_steps(model, batch_size=batch_size) else batch_size
        predicted = predict_batches(model, part.batch, len(part.rows), batch_size=at_once)
    else:
        with data_parallel():
            predicted = model.predict(_Inputs(part, batch_size=batch_size), verbose=0)
    probabilities = np.asarray(predicted, np.float32)[: len(part.rows)]
    refuse_diverged_network(probabilities)
    return probabilities
