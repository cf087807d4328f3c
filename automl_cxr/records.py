"""What a study and its trials turned out to be: frozen records that cross process borders as JSON."""

from __future__ import annotations

import dataclasses
import enum
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


class TrialState(enum.StrEnum):
    """How far a trial has come. Only COMPLETE trials have a final score and all their files."""

    WAITING = "waiting"
    RUNNING = "running"
    COMPLETE = "complete"
    PRUNED = "pruned"
    FAILED = "failed"

    @property
    def is_finished(self) -> bool:
        return self in (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAILED)


@dataclass(frozen=True, kw_only=True)
class PartRecord:
    """The images of one part of a split, in one order everywhere.

    Attributes:
        images: Ids (paths relative to the data folder).
        labels: Index of the class of each.
        patients: Patient of each; the image itself where patients are unknown.
    """

    images: tuple[str, ...]
    labels: tuple[int, ...]
    patients: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class SplitRecord:
    """What split.json holds: which images a study trains on, which choose, and which are sealed.

    The decoded array of a study holds the images of ``train``, then those of ``valid``, in this order. The test part is
    named and nothing more, so that no trial can see its labels. Where there are folds, ``train`` holds the images of all
    of them and ``valid`` none: each fold in turn is left out of the training and judged.

    Attributes:
        classes: Class names; a label is an index into them.
        train: The part that networks learn from.
        valid: The part that epochs, trials and ensemble weights are chosen by.
        test: Ids of the sealed images.
        seed: What the split was drawn with.
        grouped: Whether patients are known and kept on one side.
        origin: "made", or which parts were given with the data.
        unreadable: Images of train and valid that were left out, with the reason.
        folds: Fold of each image of ``train``, from 1; empty where there is one validation part.
    """

    classes: tuple[str, ...]
    train: PartRecord
    valid: PartRecord
    test: tuple[str, ...]
    seed: int
    grouped: bool
    origin: str
    unreadable: Mapping[str, str]
    folds: tuple[int, ...] = ()

    @property
    def n_folds(self) -> int:
        return max(self.folds, default=0)

    @property
    def judged(self) -> PartRecord:
        """The images that a trial's predictions are of: the validation part, or those of all folds."""
        return self.train if self.folds else self.valid

    @classmethod
    def from_json(cls, text: str) -> SplitRecord:
        values = json.loads(text)
        for name in ("train", "valid"):
            values[name] = PartRecord(**{key: tuple(column) for key, column in values[name].items()})
        for name in ("classes", "test", "folds"):
            values[name] = tuple(values[name])
        return cls(**values)

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), ensure_ascii=False)


@dataclass(frozen=True, kw_only=True)
class EpochRecord:
    """One epoch of training, as the rows of history.csv.

    Attributes:
        epoch: Number from 1, running on over the phases.
        phase: Number from 1; a second one begins where frozen backbones are set free.
        learning_rate: Step size of its optimizer.
        score: The study's objective on the whole validation part after the epoch.
        macro_f1: Macro-F1 on the same, whatever the objective.
        loss: Mean training loss over the epoch's batches, weights and smoothing included.
        valid_loss: Mean negative log-probability of the true class on the validation part, whatever the training loss.
        valid_accuracy: Share of validation images with the right class.
        seconds: Wall seconds of training and validating.
        n_parameters: Parameters of the network that is trained.
        image_size: Height and width of its images in pixels.
        values: The study's objectives in their order, where there are several; None for one that only the end tells.
        features: What the training read, such as "backbone@vector, float32" or "pixels"; "" for a network without backbone.
    """

    epoch: int
    phase: int
    learning_rate: float
    score: float
    macro_f1: float
    loss: float
    valid_loss: float
    valid_accuracy: float
    seconds: float
    n_parameters: int
    image_size: int
    values: tuple[float | None, ...] = ()
    features: str = ""

    @property
    def step(self) -> int:
        """Number of the report that this is to a search."""
        return self.epoch

    @property
    def facts(self) -> dict[str, int | str]:
        """What else a search is told."""
        return {"n_parameters": self.n_parameters, **({"features": self.features} if self.features else {})}


@dataclass(frozen=True, kw_only=True)
class FoldRecord:
    """One fold of a trial, when its network is trained and has judged the images that it did not learn from.

    Attributes:
        fold: Number from 1.
        score: The study's (first) objective on the images of the fold.
        values: The study's objectives in their order, where there are several; None for one that only the end tells.
        n_parameters: Parameters of what the trial will leave: of the networks of all folds together.
        n_folds: Folds of the trial.
        n_epochs: Epochs of the trial so far, those of this fold and of the folds before.
    """

    fold: int
    score: float
    n_parameters: int
    n_folds: int
    n_epochs: int
    values: tuple[float | None, ...] = ()

    @property
    def step(self) -> int:
        """Number of the report that this is to a search."""
        return self.fold

    @property
    def facts(self) -> dict[str, int]:
        """What else a search is told."""
        return {"n_parameters": self.n_parameters, "folds": self.n_folds, "epochs": self.n_epochs}


@dataclass(frozen=True, kw_only=True, repr=False)
class TrialRecord:
    """What the study's storage knows about one trial.

    Attributes:
        number: Position in the study, from 0; names the trial's folder.
        state: How far it has come.
        params: The searched hyperparameters that were active.
        score: Final validation score (COMPLETE), last score (PRUNED), None otherwise; the first objective of several.
        values: Every objective of several, in their order (COMPLETE).
        violations: How far each constraint is broken, by its name: above 0 where it is.
        scores: Validation score of each epoch, from epoch 1; with folds that of each fold, from fold 1.
        n_parameters: Parameters of the network, or of those of all folds; None until it was built.
        seconds: Wall seconds of training, None until finished.
        error: Why it failed.
        refusal: Why it was not trained (PRUNED).
        seed: Seed of its configuration.
        best_epoch: Epoch whose weights were kept (COMPLETE), from 1; None with folds, where each network has its own.
        folds: Folds that it trains a network for each, None without.
        attempts: How often it was begun; more than once where searches died.
        parent: Number of the trial that it continues from where that had ended.
        retries: What it failed of before it was run again, each as "class of the error: message".
    """

    number: int
    state: TrialState
    params: Mapping[str, Any]
    score: float | None = None
    values: Sequence[float] = ()
    violations: Mapping[str, float] = field(default_factory=dict)
    scores: Mapping[int, float] = field(default_factory=dict)
    n_parameters: int | None = None
    seconds: float | None = None
    error: str | None = None
    refusal: str | None = None
    seed: int | None = None
    best_epoch: int | None = None
    folds: int | None = None
    attempts: int = 1
    parent: int | None = None
    retries: tuple[str, ...] = ()

    @property
    def violation(self) -> float:
        """How far the constraints are broken in all; 0 where none is."""
        return sum(max(0.0, violation) for violation in self.violations.values())

    @property
    def is_feasible(self) -> bool:
        """Whether it breaks no constraint that is known of it."""
        return self.violation == 0

    def __repr__(self) -> str:
        """Say it in a line, as a notebook shows it."""
        score = "" if self.score is None else f", score {self.score:.4f}"
        epochs = "" if not self.scores else f" after {max(self.scores)} {'epochs' if self.folds is None else 'folds'}"
        params = ", ".join(
            f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}" for name, value in self.params.items()
        )
        error = "".join(f" ({reason})" for reason in (self.error, self.refusal) if reason)
        return f"Trial {self.number}: {self.state}{score}{epochs}{error}; {params}"
