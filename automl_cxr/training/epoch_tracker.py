"""The course of a training: its epochs so far, and what follows from them alone, whoever computes them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from automl_cxr.config import TrialConfig
from automl_cxr.errors import NonFiniteLossError
from automl_cxr.records import EpochRecord
from automl_cxr.scoring.metrics import METRICS, Metric
from automl_cxr.scoring.objectives import measure
from automl_cxr.training.schedules import Phase, scheduled_learning_rate


@dataclass(frozen=True)
class Objective:
    """What an epoch is judged by.

    Attributes:
        metric: What chooses the epoch.
        normal_class: Index of the class without a finding, for the metrics that need it.
        names: Every metric and cost that is optimised, where there are several.
        costs: What is known of the network's costs before it is trained.
    """

    metric: Metric = METRICS["macro_f1"]
    normal_class: int | None = None
    names: Sequence[str] = ()
    costs: Mapping[str, float] = field(default_factory=dict)

    def score(self, labels: np.ndarray, probabilities: np.ndarray) -> float:
        return self.metric.function(labels, probabilities, self.normal_class)

    def values(self, labels: np.ndarray, probabilities: np.ndarray) -> tuple[float | None, ...]:
        """Give every objective of several; None for a cost that is not known yet."""
        figures = (
            measure(name, labels, probabilities, normal_class=self.normal_class, costs=self.costs) for name in self.names
        )
        return tuple(None if math.isnan(figure) else figure for figure in figures)

    def figure(self, record: EpochRecord, monitor: str) -> float:
        """Give what a ``TrialConfig.monitor`` names, signed so that larger is better."""
        score = record.score if self.metric.direction == "maximize" else -record.score
        return {"score": score, "loss": -record.valid_loss, "accuracy": record.valid_accuracy}[monitor]

    def goodness(self, record: EpochRecord, monitor: str) -> tuple[float, float]:
        """Give a key that is larger for a better epoch; of equal figures the lower validation loss wins."""
        return (self.figure(record, monitor), -record.valid_loss)


class EpochTracker:
    """The epochs of a training, which of them is the best, at which rate the next one trains, and whether there is one.

    Attributes:
        history: Every epoch so far, those before a checkpoint too.
        best: The best of those that compare with the ones to come; None before the first.
    """

    def __init__(self, config: TrialConfig, objective: Objective) -> None:
        self._config = config
        self._objective = objective
        self.history: list[EpochRecord] = []
        self.best: EpochRecord | None = None

    def is_at(self, until: int | None) -> bool:
        """Tell whether it has come to the epoch after which it was asked to end."""
        return until is not None and len(self.history) >= until

    def goes_on(self, number: int, phase: Phase) -> bool:
        """Tell whether a phase has more epochs to come."""
        begun = self._of_phase(number)
        if not begun:
            return True
        if len(begun) >= phase.n_epochs:
            return False
        best = max(filter(self._compares, begun), key=self._goodness, default=None)
        return best is None or begun[-1].epoch - best.epoch < self._config.patience

    def learning_rate(self, number: int, phase: Phase) -> float:
        """Give the learning rate of a phase's next epoch."""
        figures = [self._objective.figure(epoch, self._config.monitor) for epoch in self._of_phase(number)]
        return scheduled_learning_rate(self._config, phase, figures)

    def note(
        self,
        number: int,
        phase: Phase,
        *,
        loss: float,
        labels: np.ndarray,
        probabilities: np.ndarray,
        seconds: float,
        n_parameters: int,
        features: str,
    ) -> EpochRecord:
        """Score the next epoch of a phase by what the network then says of the whole validation part, and note it."""
        record = EpochRecord(
            epoch=len(self.history) + 1,
            phase=number,
            learning_rate=self.learning_rate(number, phase),
            score=self._objective.score(labels, probabilities),
            macro_f1=METRICS["macro_f1"].function(labels, probabilities, None),
            loss=loss,
            valid_loss=METRICS["log_loss"].function(labels, probabilities, None),
            valid_accuracy=METRICS["accuracy"].function(labels, probabilities, None),
            seconds=seconds,
            n_parameters=n_parameters,
            image_size=self._config.image_size,
            values=self._objective.values(labels, probabilities),
            features=features,
        )
        self.history.append(record)
        if not self._compares(self.best) or self._goodness(record) > self._goodness(self.best):
            self.best = record
        return record

    def _of_phase(self, number: int) -> list[EpochRecord]:
        return [epoch for epoch in self.history if epoch.phase == number]

    def _compares(self, record: EpochRecord | None) -> bool:
        """Tell whether an epoch ran at the resolution of those to come; scores of others are of other images."""
        return record is not None and record.image_size == self._config.image_size

    def _goodness(self, record: EpochRecord) -> tuple[float, float]:
        return self._objective.goodness(record, self._config.monitor)


def refuse_diverged_loss(loss: float, *, epoch: int, learning_rate: float) -> None:
    """Refuse the loss of an epoch that went astray.

    Raises:
        NonFiniteLossError: It is NaN or infinite.
    """
    if not math.isfinite(loss):
        raise NonFiniteLossError(
            f"The training loss became {loss} in epoch {epoch} (learning rate {learning_rate:g}). "
            "A lower learning rate usually helps."
        )
