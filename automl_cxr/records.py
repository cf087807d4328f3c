"""Frozen records of studies and trials, which are exchanged between processes as JSON."""

from __future__ import annotations

import dataclasses
import enum
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import compress
from typing import Any

from automl_cxr.html_tables import facts_table, title_line
from automl_cxr.tasks import LABEL_CODES, MULTICLASS, MULTILABEL, TASKS
from automl_cxr.text_records import build_record, parse_json


class TrialState(enum.StrEnum):
    """State of a trial. Only COMPLETE trials have a final score and all their files."""

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
    """The images of one part of a split, in the order of the decoded array.

    Attributes:
        images: Ids of the images (paths relative to the data folder).
        labels: Class index of each image; for several findings, the label code of each finding of each image (``tasks``).
        patients: Patient of each image; the id of the image if patients are unknown.
    """

    images: tuple[str, ...]
    labels: tuple[int, ...] | tuple[tuple[int, ...], ...]
    patients: tuple[str, ...]

    def chosen(self, is_chosen: Sequence[bool]) -> PartRecord:
        """Return the images for which a sequence of the same length is true."""
        return PartRecord(
            images=tuple(compress(self.images, is_chosen)),
            labels=tuple(compress(self.labels, is_chosen)),  # type: ignore[arg-type]  # the task stays the same
            patients=tuple(compress(self.patients, is_chosen)),
        )

    def joined(self, other: PartRecord) -> PartRecord:
        """Return these images, followed by those of another part."""
        return PartRecord(
            images=self.images + other.images,
            labels=(*self.labels, *other.labels),
            patients=self.patients + other.patients,
        )


@dataclass(frozen=True, kw_only=True)
class SplitRecord:
    """The training, validation and test images of a study, as in split.json.

    The decoded array of a study contains the images of ``train``, then those of ``valid``, in this order. Only the ids of the
    test images are recorded, so that no trial can use their labels. With cross-validation, ``train`` contains the images of all
    folds and ``valid`` is empty: each fold is used once for validation and otherwise for training.

    Attributes:
        classes: Class names, of which a label is an index; or names of findings, for each of which an image has a label code.
        train: The part that networks are trained on.
        valid: The part that selects epochs, trials and ensemble weights.
        test: Ids of the sealed test images.
        seed: Seed of the split.
        grouped: Whether patients are known, so that no patient has images in two parts.
        origin: "made" by this program, or the parts that the data set specifies.
        unreadable: Images of train and valid that cannot be read and are excluded, with the reason.
        folds: Fold of each image of ``train``, from 1; empty without cross-validation.
        n_without_patient: Number of images of the data set that have no patient although others have one. The study's setting
            ``unknown_patients`` defines whether each is a patient of its own or is not used.
        n_uncertain: Number of images of the data set with an uncertain label, which the study's setting ``uncertain`` treats.
        n_missing: The same for images without a label.
        task: "multiclass", or "multilabel" for several findings of an image.
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
    n_without_patient: int = 0
    n_uncertain: int = 0
    n_missing: int = 0
    task: str = MULTICLASS

    @property
    def is_multilabel(self) -> bool:
        """Whether an image may have several findings."""
        return self.task == MULTILABEL

    @property
    def n_folds(self) -> int:
        return max(self.folds, default=0)

    @property
    def judged(self) -> PartRecord:
        """The images that a trial predicts: the validation part, or those of all folds."""
        return self.train if self.folds else self.valid

    @classmethod
    def from_json(cls, text: str) -> SplitRecord:
        """Restore a split from ``to_json``.

        Raises:
            ValueError: The text is not such a record, or its entries contradict each other.
        """
        split: SplitRecord = build_record(cls, parse_json(text))
        if split.task not in TASKS:
            raise ValueError(f"'task' must be one of {', '.join(TASKS)}; received '{split.task}'")
        for name, part in (("train", split.train), ("valid", split.valid)):
            if not len(part.images) == len(part.labels) == len(part.patients):
                raise ValueError(f"the numbers of images, labels and patients of '{name}' differ")
            split._check_labels(name, part)
        if split.folds and (len(split.folds) != len(split.train.images) or min(split.folds) < 1):
            raise ValueError("'folds' must have a number from 1 for each image of 'train'")
        return split

    def _check_labels(self, name: str, part: PartRecord) -> None:
        """Check the labels of a part.

        Raises:
            ValueError: A label is impossible for the task.
        """
        n_classes, different = len(self.classes), set(part.labels)
        if not self.is_multilabel:
            if not different <= set(range(n_classes)):
                raise ValueError(f"a label of '{name}' is not the index of one of the {n_classes} classes")
        elif not all(isinstance(row, tuple) and len(row) == n_classes and set(row) <= set(LABEL_CODES) for row in different):
            raise ValueError(f"a row of labels of '{name}' does not contain a label code for each of the {n_classes} findings")

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), ensure_ascii=False)


@dataclass(frozen=True, kw_only=True)
class EpochRecord:
    """One epoch of training, as in a row of history.csv.

    Attributes:
        epoch: Number from 1, consecutive over all phases.
        phase: Number from 1; the second phase starts when layers of frozen backbones are unfrozen.
        learning_rate: Learning rate of the optimizer in the middle of the epoch.
        score: The objective of the study on the whole validation part after the epoch.
        macro_f1: Macro-F1 on the whole validation part, for every objective.
        loss: Mean training loss over the images of the epoch, including class weights and label smoothing.
        valid_loss: Mean negative log-probability of the true class on the validation part, for every training loss.
        valid_accuracy: Share of validation images whose predicted class is correct.
        seconds: Wall seconds of training and validation.
        n_parameters: Parameters of the trained network.
        image_size: Height and width of its images in pixels.
        values: The objectives of the study in their order, if there are several; None for a cost that is measured after
            training.
        features: The inputs of training, such as "backbone@vector, float32" or "pixels"; "" for a network without backbone.
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
        """Step of this report, as for ``optuna.Trial.report``."""
        return self.epoch

    @property
    def facts(self) -> dict[str, int | str]:
        """Further values that are recorded on the trial."""
        return {"n_parameters": self.n_parameters, **({"features": self.features} if self.features else {})}


@dataclass(frozen=True, kw_only=True)
class FoldRecord:
    """One fold of a trial, after the training of its network.

    Attributes:
        fold: Number from 1.
        score: The (first) objective of the study on the images of the fold.
        values: The objectives of the study in their order, if there are several; None for a cost that is measured after
            training.
        n_parameters: Parameters of the networks of all folds together, which the saved model will contain.
        n_folds: Number of folds of the trial.
        n_epochs: Epochs of the trial so far, in this fold and the earlier folds.
    """

    fold: int
    score: float
    n_parameters: int
    n_folds: int
    n_epochs: int
    values: tuple[float | None, ...] = ()

    @property
    def step(self) -> int:
        """Step of this report, as for ``optuna.Trial.report``."""
        return self.fold

    @property
    def facts(self) -> dict[str, int]:
        """Further values that are recorded on the trial."""
        return {"n_parameters": self.n_parameters, "folds": self.n_folds, "epochs": self.n_epochs}


@dataclass(frozen=True, kw_only=True, repr=False)
class TrialRecord:
    """One trial, as recorded in the storage of its study.

    Attributes:
        number: Position in the study, from 0; also the name of the trial's folder.
        state: Its state.
        params: The searched hyperparameters that are active.
        score: Final validation score (COMPLETE), last score (PRUNED), None otherwise; the first objective if there are several.
        values: Every objective in their order, if there are several (COMPLETE).
        violations: Amount by which each constraint is violated, by its name; positive if it is violated.
        scores: Validation score of each epoch, from epoch 1; with cross-validation of each fold, from fold 1.
        n_parameters: Parameters of the network, or of the networks of all folds; None before it was built.
        seconds: Wall seconds of training, None until it is finished.
        error: Reason of a failure.
        refusal: Reason why the trial was not trained (PRUNED).
        seed: Seed of its configuration.
        best_epoch: Epoch whose weights are saved (COMPLETE), from 1; None with folds, because it differs between the networks.
        folds: Number of folds, one network for each; None without cross-validation.
        attempts: Number of starts; more than one after an interrupted search.
        starts_in_driver: Number of attempts since the last new epoch that ran in the process of a search (not in workers), came
            as far as the earlier ones and did not end with an error. If the trial is abandoned, the searches died during them.
        parent: Number of the trial whose training this trial continues.
        retries: Errors after which the trial was run again, each as "class of the error: message".
        recent_retries: Those of them after which no new epoch was recorded.
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
    starts_in_driver: int = 0
    parent: int | None = None
    retries: tuple[str, ...] = ()
    recent_retries: tuple[str, ...] = ()

    @property
    def violation(self) -> float:
        """Sum of the amounts by which constraints are violated; 0 if none is."""
        return sum(max(0.0, violation) for violation in self.violations.values())

    @property
    def is_feasible(self) -> bool:
        """Whether it violates none of the constraints that were evaluated."""
        return self.violation == 0

    def __repr__(self) -> str:
        """Describe the trial in one line, for notebooks."""
        score = "" if self.score is None else f", score {self.score:.4f}"
        epochs = "" if not self.scores else f" after {max(self.scores)} {'epochs' if self.folds is None else 'folds'}"
        error = "".join(f" ({reason})" for reason in (self.error, self.refusal) if reason)
        return f"Trial {self.number}: {self.state}{score}{epochs}{error}; {self.params_text}"

    def _repr_html_(self) -> str:
        facts = {
            "state": self.state,
            "score": self.score,
            "objectives": ", ".join(f"{value:.4g}" for value in self.values) or None,
            "epochs" if self.folds is None else "folds": max(self.scores, default=None),
            "best epoch": self.best_epoch,
            "parameters": self.n_parameters,
            "training time": None if self.seconds is None else f"{self.seconds:.1f} s",
            "reason": self.error or self.refusal,
            "hyperparameters": self.params_text,
        }
        return title_line(f"Trial {self.number}") + facts_table(facts)

    @property
    def params_text(self) -> str:
        """The searched hyperparameters in one line, such as "family=probe, l2=0.01"."""
        return ", ".join(
            f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}" for name, value in self.params.items()
        )
