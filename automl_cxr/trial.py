"""One trial, from pixels to predictions."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import math
import os
import platform
import time
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import numpy as np

from automl_cxr.config import TrialConfig
from automl_cxr.errors import InfeasibleError
from automl_cxr.model.build import backend_versions, build_model, digest_pretrained
from automl_cxr.model.checkpoint import load_checkpoint, save_checkpoint
from automl_cxr.model.devices import describe_worker
from automl_cxr.model.freezing import set_phase
from automl_cxr.model.latency import measure_latency
from automl_cxr.model.memory import measure_size, refuse_oversized
from automl_cxr.model.sampling import images_per_epoch
from automl_cxr.model.schedules import plan_phases
from automl_cxr.model.trainer import LabelledPart, Objective, Training, TrainingEnd, n_steps, predict_probabilities
from automl_cxr.records import EpochRecord, SplitRecord
from automl_cxr.scoring.metrics import metric
from automl_cxr.scoring.objectives import Requirement, measure
from automl_cxr.scoring.predictions import Predictions

if TYPE_CHECKING:
    import keras

__all__ = ["TrialResult", "TrialTask", "describe_worker", "digest_files", "load_parts", "run_trial"]

_CHECKPOINT_SECONDS = 60.0  # a search that dies loses about as much of each trial that it ran


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrialTask:
    """Everything that a trial reads, as values and paths that may cross to another process.

    Attributes:
        config: What is trained.
        images: The decoded array, uint8 (n, h, w): the split's training images, then its validation images.
        split: split.json, a ``SplitRecord``.
        weights_folder: Where pretrained weights are looked for first, or None.
        folder: Where its files are written; exists and is empty.
        objectives: Metrics and costs that are optimised; the first, a metric, scores the trial and chooses its epoch.
        requirements: Bounds that it must keep.
        normal_class: Index of the class without a finding, for the metrics that need it.
        seconds: Wall seconds after which no further epoch begins; None for no limit.
        until: Epoch after which it ends, whatever its configuration has left; None for all of them.
        checkpoint: File that its state is written to, from time to time and after epoch ``until``; None for none.
        resume: Checkpoint that it goes on from: its own, left by a search that died, or another trial's; None to begin anew.
    """

    config: TrialConfig
    images: Path
    split: Path
    folder: Path
    weights_folder: Path | None = None
    objectives: tuple[str, ...] = ("macro_f1",)
    requirements: tuple[Requirement, ...] = ()
    normal_class: int | None = None
    seconds: float | None = None
    until: int | None = None
    checkpoint: Path | None = None
    resume: Path | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrialResult:
    """What a trial that ran to its end came to.

    Attributes:
        score: The first objective on the validation part, from the saved predictions.
        values: Every objective where there are several; else empty.
        violations: How far each requirement is broken, by its text: above 0 where it is.
        best_epoch: Epoch whose weights were kept.
        epochs: Epochs that were run.
        cut_short: Whether its time kept it from epochs that it would have run.
        n_parameters: Parameters of the network.
        weights_sha256: Digests of the files that its backbones' weights came from, joined by "+"; "" where all are random.
        sha256: Digest of each of its files, by name.
        seconds: Wall seconds from start to saved files.
    """

    score: float
    values: tuple[float, ...]
    violations: Mapping[str, float]
    best_epoch: int
    epochs: int
    cut_short: bool
    n_parameters: int
    weights_sha256: str
    sha256: Mapping[str, str]
    seconds: float


def run_trial(task: TrialTask) -> Generator[EpochRecord, None, TrialResult]:
    """Train a configuration, yielding each epoch, and leave its files in ``task.folder``.

    The files are config.json, history.csv, train.log, valid.npz (predictions) and model.keras (best epoch's weights).
    Closing the generator after an epoch leaves the trial there.

    Raises:
        InfeasibleError: It is known before training to break a requirement, or not to fit in memory.
        TrialError: The network cannot be built or diverges.
    """
    started = time.monotonic()
    split = SplitRecord.from_json(task.split.read_text(encoding="utf-8"))
    train, valid = load_parts(task.images, split)
    (task.folder / "config.json").write_text(task.config.to_json(), encoding="utf-8")

    size = measure_size(task.config, len(split.classes))
    costs = {"parameters": float(size.parameters), "multiply_adds": float(size.multiply_adds)}
    _refuse_unmet(task.requirements, costs)
    refuse_oversized(size)

    n_images = images_per_epoch(train.labels, len(split.classes), task.config).sum()
    model = build_model(
        task.config,
        len(split.classes),
        steps_per_epoch=n_steps(n_images, task.config.images_at_once),
        weights_folder=task.weights_folder,
    )
    several = task.objectives if len(task.objectives) > 1 else ()
    objective = Objective(metric(task.objectives[0]), task.normal_class, several, costs)
    training = Training(model, task.config, train=train, valid=valid, objective=objective)
    if task.resume is not None:
        training.restore(load_checkpoint(task.resume))
    with (task.folder / "train.log").open("w", encoding="utf-8") as log:
        _log_start(log, task, model)
        end = yield from _observed(training, task, log, started)

    predictions = Predictions(
        ids=split.valid.images,
        labels=valid.labels,
        probabilities=predict_probabilities(model, valid, batch_size=task.config.images_at_once),
        classes=split.classes,
        patients=split.valid.patients,
    )
    required = [requirement.name for requirement in task.requirements]
    if "latency" in (*task.objectives, *required):
        costs = {**costs, "latency": measure_latency(model, valid)}
    final = {
        name: measure(name, predictions.labels, predictions.probabilities, normal_class=task.normal_class, costs=costs)
        for name in (*task.objectives, *required)
    }
    _save(task.folder, training.history, several, predictions, model)
    return TrialResult(
        score=final[task.objectives[0]],
        values=tuple(final[name] for name in several),
        violations={str(requirement): requirement.violation(final[requirement.name]) for requirement in task.requirements},
        best_epoch=end.best_epoch,
        epochs=len(training.history),
        cut_short=end.cut_short,
        n_parameters=model.count_params(),
        weights_sha256="+".join(digest_pretrained(task.config, task.weights_folder)),
        sha256=digest_files(task.folder),
        seconds=time.monotonic() - started,
    )


def _refuse_unmet(requirements: Sequence[Requirement], costs: Mapping[str, float]) -> None:
    """Refuse a network whose configuration alone breaks a requirement.

    Raises:
        InfeasibleError: It does.
    """
    known = [requirement for requirement in requirements if requirement.is_known_before_training]
    violations = {str(requirement): requirement.violation(costs[requirement.name]) for requirement in known}
    broken = [requirement.explain(costs[requirement.name]) for requirement in known if violations[str(requirement)] > 0]
    if broken:
        raise InfeasibleError(
            "; ".join(broken),
            stopped_by="constraint",
            violations=violations,
            facts={"n_parameters": int(costs["parameters"])},
        )


def load_parts(images: Path, split: SplitRecord) -> tuple[LabelledPart, LabelledPart]:
    """Map the decoded training and validation images of a split."""
    pixels = np.load(images, mmap_mode="r", allow_pickle=False)
    n_train, n_valid = len(split.train.images), len(split.valid.images)
    return (
        LabelledPart(pixels, np.arange(n_train), np.asarray(split.train.labels, np.int64)),
        LabelledPart(pixels, np.arange(n_train, n_train + n_valid), np.asarray(split.valid.labels, np.int64)),
    )


def _observed(training: Training, task: TrialTask, log: TextIO, started: float) -> Generator[EpochRecord, None, TrainingEnd]:
    """Pass a training on, epoch by epoch; note each, and keep checkpoints, before it is passed."""
    is_repeated = task.resume is not None and task.resume == task.checkpoint
    for before in training.history:
        _log_epoch(log, before)
        if is_repeated:
            yield before  # whoever listened may have died before it heard of this epoch
    epochs = training.epochs(until=task.until, deadline=None if task.seconds is None else started + task.seconds)
    due = time.monotonic() + _CHECKPOINT_SECONDS
    while True:
        try:
            epoch = next(epochs)
        except StopIteration as end:
            return end.value
        _log_epoch(log, epoch)
        is_promotable = epoch.epoch == task.until
        if task.checkpoint is not None and (is_promotable or time.monotonic() >= due):
            save_checkpoint(training.checkpoint(), task.checkpoint)
            due = time.monotonic() + _CHECKPOINT_SECONDS
        yield epoch


def _save(
    folder: Path, history: Sequence[EpochRecord], several: Sequence[str], predictions: Predictions, model: keras.Model
) -> None:
    with (folder / "history.csv").open("w", newline="", encoding="utf-8") as file:
        names = [item.name for item in dataclasses.fields(EpochRecord) if item.name != "values"]
        writer = csv.DictWriter(file, [*names, *(name for name in several if name not in names)])
        writer.writeheader()
        for epoch in history:
            row = dataclasses.asdict(epoch)
            values = row.pop("values")
            writer.writerow({**row, **dict(zip(several, values, strict=True))})
    predictions.to_npz(folder / "valid.npz")
    model.compile()  # with an optimizer that has not run: the moments of the one that has would triple the file
    model.save(folder / "model.keras")
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())


def digest_files(folder: Path) -> dict[str, str]:
    """Give the SHA-256 of each file of a trial, by name."""
    digests = {}
    for path in sorted(folder.iterdir()):
        with path.open("rb") as file:
            digests[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return digests


def _log_start(log: TextIO, task: TrialTask, model: keras.Model) -> None:
    log.write(
        f"{time.strftime('%Y-%m-%d %H:%M:%S')} on {platform.node()}, process {os.getpid()}, "
        f"{backend_versions()}\n"
        f"{task.config.family}: {model.count_params():,} parameters, input {task.config.image_size} pixels\n"
    )
    for number, phase in enumerate(plan_phases(task.config), start=1):
        set_phase(model, task.config, frozen=phase.frozen)  # to count; training sets each phase again as it comes
        n_trained = sum(math.prod(weights.shape) for weights in model.trainable_weights)
        log.write(
            f"phase {number}: {n_trained:,} of them trained for at most {phase.n_epochs} epochs "
            f"from learning rate {phase.learning_rate:g}\n"
        )
    log.flush()


def _log_epoch(log: TextIO, epoch: EpochRecord) -> None:
    log.write(
        f"epoch {epoch.epoch}: score {epoch.score:.4f}, macro-F1 {epoch.macro_f1:.4f}, loss {epoch.loss:.4f}, "
        f"validation loss {epoch.valid_loss:.4f}, accuracy {epoch.valid_accuracy:.4f}, "
        f"learning rate {epoch.learning_rate:.3g}, {epoch.seconds:.1f} s\n"
    )
    log.flush()
