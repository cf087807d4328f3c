"""Trainings of heads that share their computation: each is asked for its epochs as ``trainer.Training`` is, alone.

The first one that is asked for an epoch trains it for all that are at work and not ahead; these take theirs from a buffer.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Generator, Sequence

import keras
import numpy as np

from automl_cxr.config import TrialConfig
from automl_cxr.errors import NonFiniteLossError, TrialError
from automl_cxr.model.inference import refuse_diverged_network
from automl_cxr.records import EpochRecord
from automl_cxr.training.checkpoint import Checkpoint, fits, variable_values
from automl_cxr.training.datasets import FeaturePart
from automl_cxr.training.epoch_tracker import EpochTracker, Objective, refuse_diverged_loss
from automl_cxr.training.phase_inputs import PhaseInputs
from automl_cxr.training.schedules import plan_phases
from automl_cxr.training.stack_grouping import HeadShape, HeadState, StackGroup, divide_stack_group, stack_group_of
from automl_cxr.training.stacked_heads import StackedHeads, seed_states, untrained_state
from automl_cxr.training.trainer import TrainingEnd

_PHASE = 1  # nothing is frozen first and trained later


class HeadTraining:
    """A training of one head among others.

    Args:
        model: The whole network, of which the head alone is trained; it holds the first weights.
        config: Of its trial.
        objective: What its epochs are judged by.
        until: Epoch after which it ends, whatever the configuration has left; None for all of them.
        deadline: ``time.monotonic()`` after which no further epoch begins, though one always does; None for no limit.
    """

    def __init__(
        self, model: keras.Model, config: TrialConfig, *, objective: Objective, until: int | None, deadline: float | None
    ) -> None:
        self.model = model
        self.config = config
        self._course = EpochTracker(config, objective)
        (self._phase,) = plan_phases(config)
        self._state = untrained_state(model, config)
        self._seat: tuple[StackedHeads, int] | None = None
        self._best_weights: list[np.ndarray] = []
        self._until = until
        self._deadline = deadline
        self._waiting: deque[EpochRecord] = deque()  # trained, and not yet asked for
        self._error: Exception | None = None
        self._is_left = self._is_late = False

    @property
    def history(self) -> tuple[EpochRecord, ...]:
        """Every epoch that was asked for so far, those before a checkpoint too."""
        return tuple(self._course.history[: len(self._course.history) - len(self._waiting)])

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint, one of ``trainer.Training`` too; call it before any head of the population trains.

        Raises:
            TrialError: The checkpoint is of another network.
        """
        n_steps, _, *moments = checkpoint.optimizer
        if not fits(checkpoint, self.model) or [array.shape for array in moments] != [a.shape for a in self._state.moments]:
            raise TrialError("A checkpoint must be of the network that goes on from it; its shapes differ. Train anew.")
        values = {id(variable): value for variable, value in zip(self.model.variables, checkpoint.model, strict=True)}
        self._state = HeadState(
            weights=[values[id(variable)] for variable in self.model.trainable_variables],
            moments=list(moments),
            n_steps=int(n_steps),
            seeds=[values[id(variable)] for variable in seed_states(self.model)],
        )
        best = {id(variable): value for variable, value in zip(self.model.weights, checkpoint.best_weights, strict=True)}
        self._best_weights = [best[id(variable)] for variable in self.model.trainable_variables]
        self._course.history, self._course.best = list(checkpoint.history), checkpoint.best

    def checkpoint(self) -> Checkpoint:
        """Copy the state after the last epoch that was trained, which may be ahead of the last one that was asked for."""
        self._put(self._best_weights)
        best_weights = self.model.get_weights()
        state = self.state
        self._put(state.weights)
        rate = np.float32(self._course.history[-1].learning_rate)
        return Checkpoint(
            tuple(self._course.history),
            self._course.best,
            best_weights,
            model=variable_values(self.model.variables),
            optimizer=[np.int64(state.n_steps), rate, *state.moments],
        )

    def _put(self, weights: Sequence[np.ndarray]) -> None:
        """Give the head of the model weights, and its dropout layers the state that they are in."""
        for variable, value in zip(self.model.trainable_variables, weights, strict=True):
            variable.assign(value)
        for variable, value in zip(seed_states(self.model), self.state.seeds, strict=True):
            variable.assign(value)

    def epochs(self, population: StackedTrainer) -> Generator[EpochRecord, None, TrainingEnd]:
        """Yield every epoch; once it is exhausted the model holds the best epoch's weights.

        Raises:
            NonFiniteLossError: The loss of an epoch is NaN or infinite.
            Exception: Whatever the shared computation died of.
        """
        while self._waiting or self.goes_on():
            if not self._waiting:
                population.advance(to=len(self._course.history) + 1)
            if self._waiting:
                yield self._waiting.popleft()
        if self._error is not None:
            raise self._error
        self._put(self._best_weights)
        return TrainingEnd(best_epoch=self._course.best.epoch, cut_short=self._is_late)

    def leave(self) -> None:
        """Train no further epoch."""
        self._is_left = True

    # ------------------------------------------------------------------------------------------- for the population

    def goes_on(self) -> bool:
        """Tell whether there is another epoch to train."""
        if self._is_left or self._error is not None or self._course.is_at(self._until):
            return False
        if not self._course.goes_on(_PHASE, self._phase):
            return False
        has_one = self._course.best is not None
        self._is_late = has_one and self._deadline is not None and time.monotonic() > self._deadline
        return not self._is_late

    @property
    def n_epochs(self) -> int:
        """Epochs trained so far."""
        return len(self._course.history)

    @property
    def learning_rate(self) -> float:
        """Of the next epoch."""
        return self._course.learning_rate(_PHASE, self._phase)

    @property
    def state(self) -> HeadState:
        """What the next epoch follows from."""
        if self._seat is None:
            return self._state
        together, place = self._seat
        return together.state(place)

    def _weights(self) -> list[np.ndarray]:
        if self._seat is None:
            return self._state.weights
        together, place = self._seat
        return together.weights(place)

    def join(self, together: StackedHeads, place: int) -> None:
        """Be computed with others from now on."""
        self._seat = together, place

    def part(self) -> None:
        """Be computed with them no more, if it still is."""
        self._state, self._seat = self.state, None

    def company(self, train: FeaturePart, n_classes: int) -> StackGroup:
        """Tell which heads its next epoch can be trained with."""
        return stack_group_of(self.config, self._state, train, n_classes)

    def note(self, *, loss: float, labels: np.ndarray, probabilities: np.ndarray, seconds: float, features: str) -> None:
        """Take what the next epoch came to; one that diverged fails this training and no other."""
        try:
            refuse_diverged_loss(loss, epoch=self.n_epochs + 1, learning_rate=self.learning_rate)
            refuse_diverged_network(probabilities)
        except NonFiniteLossError as error:
            self.fail(error)
            return
        record = self._course.note(
            _PHASE,
            self._phase,
            loss=loss,
            labels=labels,
            probabilities=probabilities,
            seconds=seconds,
            n_parameters=self.model.count_params(),
            features=features,
        )
        if self._course.best is record:
            self._best_weights = self._weights()
        self._waiting.append(record)

    def fail(self, error: Exception) -> None:
        """Train no further epoch; the error is raised after the epochs before it."""
        self._error = error


class StackedTrainer:
    """Trainings of heads on the same features.

    Args:
        trainings: All of them.
        road: The features.
        n_classes: Number of classes.
    """

    def __init__(self, trainings: Sequence[HeadTraining], *, road: PhaseInputs, n_classes: int) -> None:
        self._trainings = trainings
        self._road = road
        self._n_classes = n_classes
        self._crews: list[_StackedGroup] = []

    def advance(self, *, to: int) -> None:
        """Train an epoch of every head that has fewer than ``to`` epochs and has more to come."""
        self._crews = [crew for crew in self._crews if crew.is_worth_keeping()]
        crewed = {id(training) for crew in self._crews for training in crew.members}
        self._form_groups([training for training in self._trainings if id(training) not in crewed and training.goes_on()])
        for crew in self._crews:
            crew.advance(to)

    def _form_groups(self, trainings: Sequence[HeadTraining]) -> None:
        companies: dict[StackGroup, list[HeadTraining]] = {}
        for training in trainings:
            train = self._road.train_part(training.n_epochs + 1)
            companies.setdefault(training.company(train, self._n_classes), []).append(training)
        for company, members in companies.items():
            for crew in divide_stack_group([member.config for member in members], company):
                self._crews.append(_StackedGroup(members[crew], company, self._road))


class _StackedGroup:
    """Trainings whose heads are computed together until most of them have ended.

    Heads that have ended stay in the computation, since without them it would be traced anew.
    """

    def __init__(self, members: Sequence[HeadTraining], company: StackGroup, road: PhaseInputs) -> None:
        self.members = members
        self._company = company
        self._road = road
        self._together: StackedHeads | None = None  # once it trains

    def advance(self, to: int) -> None:
        """Train an epoch of all members that go on, if they have fewer than ``to``: all have as many."""
        at_work = [member for member in self.members if member.goes_on()]
        if at_work and at_work[0].n_epochs < to:
            try:
                self._train(at_work)
            except Exception as error:  # noqa: BLE001 - each of them dies of it, as it would alone
                self._together = None  # left to nobody: it may have been for want of memory
                for member in at_work:
                    member.fail(error)

    def is_worth_keeping(self) -> bool:
        """Tell whether half of what it computes is of use; what it holds is handed out if not."""
        at_work = [member for member in self.members if member.goes_on()]
        if 2 * self._n_parameters(at_work) > self._n_parameters(self.members):
            return True
        if self._together is not None:
            for member in self.members:
                member.part()
            self._together.close()
        return False

    def _n_parameters(self, members: Sequence[HeadTraining]) -> int:
        company = self._company
        return sum(HeadShape.of(member.config, company.n_features, company.n_classes).n_parameters for member in members)

    def _train(self, at_work: Sequence[HeadTraining]) -> None:
        started = time.perf_counter()
        together = self._together = self._together or self._begin()
        epoch = at_work[0].n_epochs + 1
        rates = [member.learning_rate if member in at_work else 0.0 for member in self.members]
        losses = together.train_epoch(self._road.train_part(epoch), epoch=epoch, learning_rates=rates)
        probabilities = together.probabilities(self._road.valid)
        seconds = (time.perf_counter() - started) / len(at_work)
        for member, loss, said in zip(self.members, losses, probabilities, strict=True):
            if member in at_work:
                member.note(
                    loss=float(loss),
                    labels=self._road.valid.labels,
                    probabilities=said,
                    seconds=seconds,
                    features=self._road.reads,
                )
                if not member.goes_on():
                    member.part()

    def _begin(self) -> StackedHeads:
        configs, states = [member.config for member in self.members], [member.state for member in self.members]
        together = StackedHeads(configs, states, self._company)
        for place, member in enumerate(self.members):
            member.join(together, place)
        return together
