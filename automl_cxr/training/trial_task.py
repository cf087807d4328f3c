"""The input and the result of a trial, as values that can be sent to other processes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from automl_cxr.config import TrialConfig
from automl_cxr.scoring.intervals import named_metric
from automl_cxr.scoring.objectives import Requirement
from automl_cxr.training.epoch_tracker import Objective


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrialTask:
    """The input of a trial.

    Attributes:
        config: The hyperparameters.
        images: File of the decoded array, uint8 (n, h, w): the training images of the split, then its validation images if
            it has a validation part. The images are at least as large as the image size of the configuration, and are
            downscaled if needed.
        split: The file split.json, a ``SplitRecord``.
        weights_folder: Folder that is searched first for pretrained weights, or None.
        folder: Existing empty folder for the files of the trial.
        objectives: Metrics and costs that are optimised. The first is a metric, which scores the trial and selects its epoch.
        requirements: Bounds that the trial must satisfy.
        normal_class: Index of the class without a finding, for the metrics that need it.
        classes: Names of the classes or findings, for metrics of one of them, such as auc_Effusion.
        seconds: Wall seconds after which no further epoch starts; None for no limit.
        until: Epoch after which the trial ends, even if its configuration has more epochs; None for all epochs.
        checkpoint: File for the state of the trial, written about once a minute and after epoch ``until``. The files of its
            folds have this name as a prefix. None for no checkpoint.
        resume: Checkpoint to continue from: that of the same trial after an interrupted search, or that of another trial; None
            to start from the beginning.
        reported: Number of epochs reported by the trials that this trial continues.
        largest_image: Image size up to which the size may be increased if the network cannot be built at that of the
            configuration; None for no increase.
    """

    config: TrialConfig
    images: Path
    split: Path
    folder: Path
    weights_folder: Path | None = None
    objectives: tuple[str, ...] = ("macro_f1",)
    requirements: tuple[Requirement, ...] = ()
    normal_class: int | None = None
    classes: tuple[str, ...] = ()
    seconds: float | None = None
    until: int | None = None
    checkpoint: Path | None = None
    resume: Path | None = None
    reported: int = 0
    largest_image: int | None = None

    def objective(self, costs: Mapping[str, float]) -> Objective:
        """Return the objectives by which epochs and folds are scored, given the costs that are known before training."""
        several = self.objectives if len(self.objectives) > 1 else ()
        first = named_metric(self.objectives[0], self.classes, self.normal_class, task=self.config.task)
        return Objective(first, self.normal_class, several, costs, self.classes)

    def deadline(self, started: float) -> float | None:
        """Return the ``time.monotonic()`` after which no further epoch of the trial starts; None for no limit."""
        return None if self.seconds is None else started + self.seconds


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrialResult:
    """The result of a finished trial.

    Attributes:
        score: The first objective on the validation part, or on the images of all folds, from the saved predictions.
        values: Every objective, if there are several; else empty.
        violations: Amount by which each requirement is violated, by the text of the requirement; positive if it is violated.
        best_epoch: Epoch whose weights are saved; None with folds, because the best epoch differs between the networks.
        epochs: Number of epochs, those of all folds together.
        cut_short: Whether the time limit prevented further epochs.
        n_parameters: Parameters of the saved model; with folds, of the networks of all folds.
        multiply_adds: Multiply-adds of the saved model for one image.
        weight_bytes: Bytes of its weights in memory.
        image_sizes: Image sizes of its epochs, in order, including those before a checkpoint.
        features: Inputs of its epochs, in order, joined by "; " (see ``EpochRecord.features``).
        weights_sha256: Digests of the files of pretrained weights, joined by "+"; "" if all weights are random.
        sha256: Digest of each of its files, by name.
        seconds: Wall seconds from the start to the saved files.
    """

    score: float
    values: tuple[float, ...]
    violations: Mapping[str, float]
    best_epoch: int | None
    epochs: int
    cut_short: bool
    n_parameters: int
    multiply_adds: int
    weight_bytes: int
    image_sizes: tuple[int, ...]
    features: str
    weights_sha256: str
    sha256: Mapping[str, str]
    seconds: float
