"""Track the epochs of training: the best epoch, the learning rate of the next epoch, and when to stop."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from automl_cxr.config import TrialConfig
from automl_cxr.errors import NonFiniteLossError
from automl_cxr.records import EpochRecord
from automl_cxr.scoring.metric_base import Metric
from automl_cxr.scoring.metrics import METRICS
from automl_cxr.scoring.objectives import measure
from automl_cxr.tasks import PRESENT
from automl_cxr.training.schedules import Phase, rates_of_steps, scheduled_learning_rate

_THRESHOLD = 0.5


@dataclass(frozen=True)
class Objective:
    """The objectives by which epochs are scored.

    Attributes:
        metric: Metric that selects the epoch.
        normal_class: Index of the class without a finding, for the metrics that need it.
        names: Every metric and cost that is optimised, if there are several; else empty.
        costs: Costs of the network that are known before training.
        classes: Names of the classes or findings, for metrics of one of them.
    """

    metric: Metric = METRICS["macro_f1"]
    normal_class: int | None = None
    names: Sequence[str] = ()
    costs: Mapping[str, float] = field(default_factory=dict)
    classes: Sequence[str] = ()

    def score(self, labels: np.ndarray, probabilities: np.ndarray) -> float:
        return self.metric.function(labels, probabilities, self.normal_class)

    def values(self, labels: np.ndarray, probabilities: np.ndarray) -> tuple[float | None, ...]:
        """Return the value of each objective if there are several; None for a cost that is not known yet."""
        settings = {"normal_class": self.normal_class, "costs": self.costs, "classes": self.classes}
        values = (measure(name, labels, probabilities, **settings) for name in self.names)
        return tuple(None if math.isnan(value) else value for value in values)

    def monitored(self, record: EpochRecord, monitor: str) -> float:
        """Return the value that a ``TrialConfig.monitor`` names, signed so that larger is better."""
        score = record.score if self.metric.direction == "maximize" else -record.score
        return {"score": score, "loss": -record.valid_loss, "accuracy": record.valid_accuracy}[monitor]

    def rank(self, record: EpochRecord, monitor: str) -> tuple[float, float]:
        """Return a sort key that is larger for a better epoch; of equal scores, the lower validation loss is better."""
        return (self.monitored(record, monitor), -record.valid_loss)


class EpochTracker:
    """The epochs of training, the best epoch, and the rules for the next epoch.

    Attributes:
        history: Every epoch so far, including those before a checkpoint.
        best: The best epoch at the current image size; None before the first.
    """

    def __init__(self, config: TrialConfig, objective: Objective) -> None:
        self._config = config
        self._objective = objective
        self.history: list[EpochRecord] = []
        self.best: EpochRecord | None = None

    def has_reached(self, until: int | None) -> bool:
        """Return whether training has reached the epoch ``until``."""
        return until is not None and len(self.history) >= until

    def has_more_epochs(self, number: int, phase: Phase) -> bool:
        """Return whether a phase has another epoch."""
        epochs = self._epochs_of_phase(number)
        if not epochs:
            return True
        if len(epochs) >= phase.n_epochs:
            return False
        best = max(filter(self._is_comparable, epochs), key=self._rank, default=None)
        return best is None or epochs[-1].epoch - best.epoch < self._config.patience

    def learning_rate(self, number: int, phase: Phase) -> float:
        """Return the learning rate in the middle of a phase's next epoch."""
        return scheduled_learning_rate(self._config, phase, self._monitored(number))

    def learning_rates(self, number: int, phase: Phase, *, n_steps: int) -> np.ndarray:
        """Return the learning rate of each of the gradient steps of a phase's next epoch, (n_steps,)."""
        return rates_of_steps(self._config, phase, self._monitored(number), n_steps=n_steps)

    def _monitored(self, number: int) -> list[float]:
        return [self._objective.monitored(epoch, self._config.monitor) for epoch in self._epochs_of_phase(number)]

    def add(
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
        """Record the next epoch of a phase, scored by the predictions for the whole validation part after the epoch."""
        record = EpochRecord(
            epoch=len(self.history) + 1,
            phase=number,
            learning_rate=self.learning_rate(number, phase),
            score=self._objective.score(labels, probabilities),
            macro_f1=METRICS["macro_f1"].function(labels, probabilities, None),
            loss=loss,
            valid_loss=METRICS["log_loss"].function(labels, probabilities, None),
            valid_accuracy=_accuracy(labels, probabilities),
            seconds=seconds,
            n_parameters=n_parameters,
            image_size=self._config.image_size,
            values=self._objective.values(labels, probabilities),
            features=features,
        )
        self.history.append(record)
        if not self._is_comparable(self.best) or self._rank(record) > self._rank(self.best):
            self.best = record
        return record

    def _epochs_of_phase(self, number: int) -> list[EpochRecord]:
        return [epoch for epoch in self.history if epoch.phase == number]

    def _is_comparable(self, record: EpochRecord | None) -> bool:
        """Return whether an epoch used the current image size; scores at different image sizes are not comparable."""
        return record is not None and record.image_size == self._config.image_size

    def _rank(self, record: EpochRecord) -> tuple[float, float]:
        return self._objective.rank(record, self._config.monitor)


def _accuracy(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Return the share of correct predictions; for findings, of the known labels, with a probability of 0.5 as threshold."""
    if labels.ndim == 1:
        return METRICS["accuracy"].function(labels, probabilities, None)
    is_known = labels >= 0
    return float(((probabilities >= _THRESHOLD) == (labels == PRESENT))[is_known].mean()) if is_known.any() else math.nan


def refuse_diverged_loss(loss: float, *, epoch: int, learning_rate: float) -> None:
    """Refuse a training loss that is not finite.

    Raises:
        NonFiniteLossError: It is NaN or infinite.
    """
    if not math.isfinite(loss):
        raise NonFiniteLossError(
            f"The training loss became {loss} in epoch {epoch} (learning rate {learning_rate:g}). "
            "A lower learning rate usually helps."
        )
