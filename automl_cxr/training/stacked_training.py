"""Training of several heads in one shared computation. Each head has the interface of ``trainer.Training``.

When the next epoch of one head is requested, this epoch is computed for all active heads that have not reached it. The others
return it later from a buffer.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Generator, Sequence

import keras
import numpy as np

from automl_cxr.config import TrialConfig
from automl_cxr.errors import NonFiniteLossError, TrialError
from automl_cxr.model.inference import check_finite_predictions
from automl_cxr.records import EpochRecord
from automl_cxr.training.checkpoint import Checkpoint, has_matching_shapes, variable_values
from automl_cxr.training.datasets import FeaturePart
from automl_cxr.training.epoch_tracker import EpochTracker, Objective, refuse_diverged_loss
from automl_cxr.training.phase_inputs import PhaseInputs
from automl_cxr.training.schedules import plan_phases
from automl_cxr.training.stack_grouping import HeadShape, HeadState, StackGroup, divide_stack_group, stack_group_of
from automl_cxr.training.stacked_heads import StackedHeads, seed_states, untrained_state
from automl_cxr.training.trainer import TrainingEnd

_PHASE = 1  # training of a head has one phase


class HeadTraining:
    """The training of one head, computed together with other heads.

    Args:
        model: The whole network with its initial weights; only the head is trainable.
        config: The configuration of the trial.
        objective: The objectives by which epochs are scored.
        until: Epoch after which training ends, even if the configuration has more epochs; None for all epochs.
        deadline: ``time.monotonic()`` after which no further epoch starts, except the first; None for no limit.
    """

    def __init__(
        self, model: keras.Model, config: TrialConfig, *, objective: Objective, until: int | None, deadline: float | None
    ) -> None:
        self.model = model
        self.config = config
        self._tracker = EpochTracker(config, objective)
        (self._phase,) = plan_phases(config)
        self._own_state = untrained_state(model, config)  # used while no stacked heads are attached
        self._stacked: tuple[StackedHeads, int] | None = None
        self._best_weights: list[np.ndarray] = []
        self._until = until
        self._deadline = deadline
        self._buffer: deque[EpochRecord] = deque()  # epochs that are trained but not yielded yet
        self._error: Exception | None = None
        self._is_stopped = self._deadline_passed = False

    @property
    def history(self) -> tuple[EpochRecord, ...]:
        """Every epoch that was yielded so far, including those before a checkpoint."""
        return tuple(self._tracker.history[: len(self._tracker.history) - len(self._buffer)])

    def restore(self, checkpoint: Checkpoint) -> None:
        """Continue from a checkpoint of this class or of ``trainer.Training``; call it before any of the heads is trained.

        Raises:
            TrialError: The checkpoint belongs to another network.
        """
        n_steps, *moments = checkpoint.optimizer
        expected = [array.shape for array in self._own_state.moments]
        if not has_matching_shapes(checkpoint, self.model) or [array.shape for array in moments] != expected:
            raise TrialError("A checkpoint must have the shapes of the network; its shapes differ. Train from the beginning.")
        values = {id(variable): value for variable, value in zip(self.model.variables, checkpoint.model, strict=True)}
        self._own_state = HeadState(
            weights=[values[id(variable)] for variable in self.model.trainable_variables],
            moments=list(moments),
            n_steps=int(n_steps),
            seeds=[values[id(variable)] for variable in seed_states(self.model)],
        )
        best = {id(variable): value for variable, value in zip(self.model.weights, checkpoint.best_weights, strict=True)}
        self._best_weights = [best[id(variable)] for variable in self.model.trainable_variables]
        self._tracker.history, self._tracker.best = list(checkpoint.history), checkpoint.best

    def checkpoint(self) -> Checkpoint:
        """Copy the state after the last trained epoch, which may be later than the last epoch that was yielded."""
        self._assign(self._best_weights)
        best_weights = self.model.get_weights()
        state = self.state
        self._assign(state.weights)
        return Checkpoint(
            tuple(self._tracker.history),
            self._tracker.best,
            best_weights,
            model=variable_values(self.model.variables),
            optimizer=[np.int64(state.n_steps), *state.moments],
        )

    def _assign(self, weights: Sequence[np.ndarray]) -> None:
        """Assign weights to the head of the model, and the current seed states to its dropout layers."""
        for variable, value in zip(self.model.trainable_variables, weights, strict=True):
            variable.assign(value)
        for variable, value in zip(seed_states(self.model), self.state.seeds, strict=True):
            variable.assign(value)

    def epochs(self, trainer: StackedTrainer) -> Generator[EpochRecord, None, TrainingEnd]:
        """Yield every epoch; when the generator is exhausted, the model holds the weights of the best epoch.

        Raises:
            NonFiniteLossError: The loss of an epoch is NaN or infinite.
            Exception: The shared computation failed.
        """
        while self._buffer or self.has_more_epochs():
            if not self._buffer:
                trainer.advance(to=len(self._tracker.history) + 1)
            if self._buffer:
                yield self._buffer.popleft()
        if self._error is not None:
            raise self._error
        self._assign(self._best_weights)
        return TrainingEnd(best_epoch=self._tracker.best.epoch, cut_short=self._deadline_passed)

    def stop(self) -> None:
        """Stop training."""
        self._is_stopped = True

    # ------------------------------------------------------------------------------------------- for StackedTrainer

    def has_more_epochs(self) -> bool:
        """Return whether there is another epoch to train."""
        if self._is_stopped or self._error is not None or self._tracker.has_reached(self._until):
            return False
        if not self._tracker.has_more_epochs(_PHASE, self._phase):
            return False
        has_epoch = self._tracker.best is not None
        self._deadline_passed = has_epoch and self._deadline is not None and time.monotonic() > self._deadline
        return not self._deadline_passed

    @property
    def n_epochs(self) -> int:
        """Number of epochs trained so far."""
        return len(self._tracker.history)

    @property
    def learning_rate(self) -> float:
        """Learning rate in the middle of the next epoch."""
        return self._tracker.learning_rate(_PHASE, self._phase)

    def learning_rates(self, n_steps: int) -> np.ndarray:
        """Return the learning rate of each of the gradient steps of the next epoch, (n_steps,)."""
        return self._tracker.learning_rates(_PHASE, self._phase, n_steps=n_steps)

    @property
    def state(self) -> HeadState:
        """The state that determines the next epoch."""
        if self._stacked is None:
            return self._own_state
        heads, index = self._stacked
        return heads.state(index)

    def _weights(self) -> list[np.ndarray]:
        if self._stacked is None:
            return self._own_state.weights
        heads, index = self._stacked
        return heads.weights(index)

    def attach(self, heads: StackedHeads, index: int) -> None:
        """Read the state from stacked heads from now on."""
        self._stacked = heads, index

    def detach(self) -> None:
        """Copy the state from the stacked heads and stop reading from them."""
        self._own_state, self._stacked = self.state, None

    def stack_group(self, train: FeaturePart, n_classes: int) -> StackGroup:
        """Return the group of heads with which the next epoch can be trained together."""
        return stack_group_of(self.config, self._own_state, train, n_classes)

    def add_epoch(self, *, loss: float, labels: np.ndarray, probabilities: np.ndarray, seconds: float, features: str) -> None:
        """Record the next epoch; if it diverged, only this training fails."""
        try:
            refuse_diverged_loss(loss, epoch=self.n_epochs + 1, learning_rate=self.learning_rate)
            check_finite_predictions(probabilities)
        except NonFiniteLossError as error:
            self.fail(error)
            return
        record = self._tracker.add(
            _PHASE,
            self._phase,
            loss=loss,
            labels=labels,
            probabilities=probabilities,
            seconds=seconds,
            n_parameters=self.model.count_params(),
            features=features,
        )
        if self._tracker.best is record:
            self._best_weights = self._weights()
        self._buffer.append(record)

    def fail(self, error: Exception) -> None:
        """Stop training because of an error, which is raised after the buffered epochs have been yielded."""
        self._error = error


class StackedTrainer:
    """The shared computation for the training of several heads on the same features.

    Args:
        trainings: The training of each head.
        inputs: The features.
        n_classes: Number of classes.
    """

    def __init__(self, trainings: Sequence[HeadTraining], *, inputs: PhaseInputs, n_classes: int) -> None:
        self._trainings = trainings
        self._inputs = inputs
        self._n_classes = n_classes
        self._groups: list[_TrainingGroup] = []

    def advance(self, *, to: int) -> None:
        """Train the next epoch of every active head that has fewer than ``to`` epochs."""
        self._groups = [group for group in self._groups if group.is_mostly_active()]
        grouped = {id(training) for group in self._groups for training in group.members}
        self._form_groups([one for one in self._trainings if id(one) not in grouped and one.has_more_epochs()])
        for group in self._groups:
            group.advance(to)

    def _form_groups(self, trainings: Sequence[HeadTraining]) -> None:
        by_group: dict[StackGroup, list[HeadTraining]] = {}
        for training in trainings:
            train = self._inputs.train_part(training.n_epochs + 1)
            by_group.setdefault(training.stack_group(train, self._n_classes), []).append(training)
        for group, members in by_group.items():
            for part in divide_stack_group([member.config for member in members], group):
                self._groups.append(_TrainingGroup(members[part], group, self._inputs))


class _TrainingGroup:
    """Heads that are trained together until the training of most of them has ended.

    Heads whose training has ended remain in the computation: removing them would require tracing the graph again.
    """

    def __init__(self, members: Sequence[HeadTraining], group: StackGroup, inputs: PhaseInputs) -> None:
        self.members = members
        self._group = group
        self._inputs = inputs
        self._heads: StackedHeads | None = None  # created for the first epoch

    def advance(self, to: int) -> None:
        """Train an epoch of all active members if they have fewer than ``to`` epochs; all have the same number of epochs."""
        active = [member for member in self.members if member.has_more_epochs()]
        if active and active[0].n_epochs < to:
            try:
                self._train(active)
            except Exception as error:  # noqa: BLE001 - each member fails with it, as if trained separately
                self._heads = None  # not returned for reuse: memory may have been exhausted
                for member in active:
                    member.fail(error)

    def is_mostly_active(self) -> bool:
        """Return whether active members have more than half of the parameters; if not, detach all members."""
        active = [member for member in self.members if member.has_more_epochs()]
        if 2 * self._n_parameters(active) > self._n_parameters(self.members):
            return True
        if self._heads is not None:
            for member in self.members:
                member.detach()
            self._heads.close()
        return False

    def _n_parameters(self, members: Sequence[HeadTraining]) -> int:
        group = self._group
        return sum(HeadShape.of(member.config, group.n_features, group.n_classes).n_parameters for member in members)

    def _train(self, active: Sequence[HeadTraining]) -> None:
        started = time.perf_counter()
        heads = self._heads = self._heads or self._stack_members()
        epoch = active[0].n_epochs + 1
        n_steps = self._group.n_steps
        rates = [member.learning_rates(n_steps) if member in active else np.zeros(n_steps) for member in self.members]
        losses = heads.train_epoch(self._inputs.train_part(epoch), epoch=epoch, learning_rates=np.stack(rates))
        predictions = heads.probabilities(self._inputs.valid)
        seconds = (time.perf_counter() - started) / len(active)
        for member, loss, probabilities in zip(self.members, losses, predictions, strict=True):
            if member in active:
                member.add_epoch(
                    loss=float(loss),
                    labels=self._inputs.valid.labels,
                    probabilities=probabilities,
                    seconds=seconds,
                    features=self._inputs.description,
                )
                if not member.has_more_epochs():
                    member.detach()

    def _stack_members(self) -> StackedHeads:
        configs, states = [member.config for member in self.members], [member.state for member in self.members]
        heads = StackedHeads(configs, states, self._group)
        for index, member in enumerate(self.members):
            member.attach(heads, index)
        return heads
