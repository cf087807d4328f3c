"""Training of one network: a generator yields each epoch with its validation score, and the caller may stop at any epoch."""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass

import keras
import numpy as np

from automl_cxr.config import TrialConfig
from automl_cxr.model.devices import check_gradient_accumulation, data_parallel, n_devices
from automl_cxr.model.freezing import set_phase
from automl_cxr.records import EpochRecord
from automl_cxr.training.batches import TrainingBatches
from automl_cxr.training.checkpoint import Checkpoint, create_checkpoint, restore_checkpoint
from automl_cxr.training.compilation import compile_network
from automl_cxr.training.datasets import LabelledPart
from automl_cxr.training.device_inputs import inputs_on_device
from automl_cxr.training.epoch_tracker import EpochTracker, Objective
from automl_cxr.training.passes import fit_epoch, predict_probabilities
from automl_cxr.training.phase_inputs import PhaseInputs, choose_phase_inputs, compare_with_pixels, is_rounding_error
from automl_cxr.training.schedules import Phase, plan_phases
from automl_cxr.training.weight_averages import averaged_weights


@dataclass(frozen=True, kw_only=True)
class TrainingEnd:
    """The result of training.

    Attributes:
        best_epoch: Epoch whose weights the model has.
        cut_short: Whether the deadline prevented further epochs.
    """

    best_epoch: int
    cut_short: bool


class Training:
    """Training that runs epoch by epoch and can continue from a checkpoint.

    It runs the phases of ``plan_phases``. Each phase has a new optimizer and starts from the best weights so far. Its inputs
    are pixels or cached features, whichever is faster (``training/phase_inputs.py``). A phase ends after its epochs, or after
    ``config.patience`` epochs without improvement of the value that ``config.monitor`` names. The best epoch is selected over
    all phases, so the weights of fine-tuning are discarded if they are worse. Scores are computed on the whole validation part,
    never averaged over batches.
    """

    def __init__(
        self, model: keras.Model, config: TrialConfig, *, train: LabelledPart, valid: LabelledPart, objective: Objective
    ) -> None:
        self._model = model
        self._config = config
        self._train = train
        self._valid = valid
        self._tracker = EpochTracker(config, objective)
        self._best_weights: Sequence[np.ndarray] = ()
        self._best_probabilities: np.ndarray | None = None
        self._best_inputs: PhaseInputs | None = None
        self._restored: Checkpoint | None = None
        self._inputs: PhaseInputs | None = None  # of the current phase

    @property
    def history(self) -> tuple[EpochRecord, ...]:
        """Every epoch so far, including those before a checkpoint."""
        return tuple(self._tracker.history)

    def checkpoint(self) -> Checkpoint:
        """Copy the state after the last epoch that was yielded; call it before requesting the next epoch."""
        return create_checkpoint(
            self._model,
            self._inputs.network.optimizer,
            history=self._tracker.history,
            best=self._tracker.best,
            best_weights=self._best_weights,
        )

    def restore(self, checkpoint: Checkpoint) -> None:
        """Continue from a checkpoint; call it before ``epochs``."""
        self._restored = checkpoint
        self._tracker.history = list(checkpoint.history)
        self._tracker.best, self._best_weights = checkpoint.best, checkpoint.best_weights

    def epochs(self, *, until: int | None = None, deadline: float | None = None) -> Generator[EpochRecord, None, TrainingEnd]:
        """Train and yield every epoch; when the generator is exhausted, the model has the weights of the best epoch.

        If the caller stops earlier, the model has the weights of the last epoch.

        Args:
            until: Epoch after which training ends, even if the phases have more epochs.
            deadline: ``time.monotonic()`` after which no further epoch starts, except the first.

        Raises:
            ImpossibleModelError: The loss or the layers to train do not fit the network.
            NonFiniteLossError: The loss of an epoch is NaN or infinite.
        """
        tracker, deadline_passed = self._tracker, False
        for number, phase in enumerate(plan_phases(self._config), start=1):
            if tracker.history and tracker.history[-1].phase > number:
                continue  # finished before the checkpoint
            self._start_phase(phase)
            while tracker.has_more_epochs(number, phase) and not tracker.has_reached(until):
                deadline_passed = tracker.best is not None and deadline is not None and time.monotonic() > deadline
                if deadline_passed:
                    break
                yield self._run_epoch(number, phase)
            self._model.set_weights(self._best_weights)
            if deadline_passed or tracker.has_reached(until):
                break
        return TrainingEnd(best_epoch=tracker.best.epoch, cut_short=deadline_passed)

    def best_probabilities(self) -> tuple[np.ndarray, str]:
        """Return the predictions for the validation part after the best epoch.

        Call it when ``epochs`` is exhausted. The predictions are computed again only if they were computed before a checkpoint,
        or from features that are not exact.

        Returns:
            Probabilities, float32 (n_valid, n_classes), within 1e-5 of those of the whole network from pixels; and a sentence
            for the log about this comparison, "" if the network was trained from pixels.

        Raises:
            TrialError: Predictions from features and from pixels differ by more than rounding errors.
        """
        inputs, probabilities = self._best_inputs, self._best_probabilities
        if inputs is None or probabilities is None or n_devices() > 1:  # moving averages in training differ between devices
            return self._predict_valid(), ""
        if not inputs.from_features:
            return probabilities, ""
        difference = compare_with_pixels(self._model, self._valid, probabilities)
        message = f"predictions of the whole network from pixels differ by at most {difference:.1g}"
        if inputs.is_exact and is_rounding_error(difference):
            return probabilities, message
        return self._predict_valid(), f"{message}; those from pixels are saved"

    def _predict_valid(self) -> np.ndarray:
        return predict_probabilities(self._model, self._valid, batch_size=self._config.images_at_once)

    def _start_phase(self, phase: Phase) -> None:
        """Freeze layers, choose the inputs and compile with a new optimizer."""
        set_phase(self._model, self._config, frozen=phase.frozen)
        check_gradient_accumulation(self._config.gradient_accumulation)
        self._inputs = inputs_on_device(
            choose_phase_inputs(self._model, self._config, n_epochs=phase.n_epochs, train=self._train, valid=self._valid)
        )
        batches = TrainingBatches(self._inputs.train_part(1), self._model.output_shape[-1], self._config, epoch=1)
        compile_network(self._inputs.network, self._config, phase, n_steps=len(batches))
        if self._restored is not None:
            with data_parallel():
                restore_checkpoint(self._restored, self._model, self._inputs.network.optimizer)
            self._restored = None

    def _run_epoch(self, number: int, phase: Phase) -> EpochRecord:
        """Train an epoch, score it on the whole validation part, and copy its weights if it is the best."""
        started = time.perf_counter()
        learning_rate = self._tracker.learning_rate(number, phase)
        epoch = len(self._tracker.history) + 1
        network = self._inputs.network
        loss = fit_epoch(network, self._config, self._inputs.train_part(epoch), epoch=epoch, learning_rate=learning_rate)
        with averaged_weights(network):
            probabilities = predict_probabilities(network, self._inputs.valid, batch_size=self._config.images_at_once)
            record = self._tracker.add(
                number,
                phase,
                loss=loss,
                labels=self._valid.labels,
                probabilities=probabilities,
                seconds=time.perf_counter() - started,
                n_parameters=self._model.count_params(),
                features=self._inputs.description,
            )
            if self._tracker.best is record:
                self._best_weights = self._model.get_weights()
                self._best_probabilities, self._best_inputs = probabilities, self._inputs
        return record
