"""One trial, from pixels to predictions."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import hashlib
import math
import os
import platform
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TextIO

import numpy as np

from automl_cxr.config import TrialConfig
from automl_cxr.data.downscaled import downscaled_images
from automl_cxr.errors import ImpossibleModelError, InfeasibleError
from automl_cxr.model.build import backend_versions, build_model, digest_pretrained
from automl_cxr.model.devices import describe_worker
from automl_cxr.model.freezing import set_phase
from automl_cxr.model.latency import BATCH_SIZE, measure_latency
from automl_cxr.model.memory_estimate import measure_size, refuse_oversized
from automl_cxr.records import EpochRecord, SplitRecord
from automl_cxr.scoring.metrics import metric
from automl_cxr.scoring.objectives import Requirement, measure
from automl_cxr.scoring.predictions import Predictions
from automl_cxr.training.checkpoint import Checkpoint, fits, load_checkpoint, save_checkpoint
from automl_cxr.training.datasets import LabelledPart
from automl_cxr.training.epoch_tracker import Objective
from automl_cxr.training.sampling import images_per_epoch
from automl_cxr.training.schedules import plan_phases
from automl_cxr.training.trainer import Training, TrainingEnd, n_steps

if TYPE_CHECKING:
    import keras

__all__ = [
    "TrainedNetwork",
    "TrialResult",
    "TrialTask",
    "build_network",
    "deadline_of",
    "describe_worker",
    "digest_files",
    "finish_trial",
    "inputs_read",
    "load_parts",
    "log_epoch",
    "log_start",
    "measure_costs",
    "objective_of",
    "observe_training",
    "run_trial",
    "save_trial",
    "train_network",
]

_SIZE_STEP = 16  # pixels
_CHECKPOINT_SECONDS = 60.0  # a search that dies loses about as much of each trial that it ran


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrialTask:
    """Everything that a trial reads, as values and paths that may cross to another process.

    Attributes:
        config: What is trained.
        images: The decoded array, uint8 (n, h, w): the split's training images, then its validation images if it has such.
            At least of the configuration's image size; a smaller one is made of it.
        split: split.json, a ``SplitRecord``.
        weights_folder: Where pretrained weights are looked for first, or None.
        folder: Where its files are written; exists and is empty.
        objectives: Metrics and costs that are optimised; the first, a metric, scores the trial and chooses its epoch.
        requirements: Bounds that it must keep.
        normal_class: Index of the class without a finding, for the metrics that need it.
        seconds: Wall seconds after which no further epoch begins; None for no limit.
        until: Epoch after which it ends, whatever its configuration has left; None for all of them.
        checkpoint: File that its state is written to, from time to time and after epoch ``until``, and whose name begins
            the names of the files of its folds; None for none.
        resume: Checkpoint that it goes on from: its own, left by a search that died, or another trial's; None to begin anew.
        reported: Epochs that the trials which it continues have reported.
        largest_image: Image size up to which it may go where the network cannot be built at the configuration's; None for
            that one alone.
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
    reported: int = 0
    largest_image: int | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrialResult:
    """What a trial that ran to its end came to.

    Attributes:
        score: The first objective on the validation part, or on the images of all folds, from the saved predictions.
        values: Every objective where there are several; else empty.
        violations: How far each requirement is broken, by its text: above 0 where it is.
        best_epoch: Epoch whose weights were kept; None with folds, where each network has its own.
        epochs: Epochs that were run, those of all folds together.
        cut_short: Whether its time kept it from epochs that it would have run.
        n_parameters: Parameters of the saved model, which with folds holds all their networks.
        multiply_adds: Multiplications with a parameter for one image, by all that the saved model holds.
        weight_bytes: Bytes of its weights in memory.
        image_sizes: Image sizes that its epochs ran at, in order, those before a checkpoint included.
        features: What its epochs read, in order, joined by "; " (see ``EpochRecord.features``).
        weights_sha256: Digests of the files that its backbones' weights came from, joined by "+"; "" where all are random.
        sha256: Digest of each of its files, by name.
        seconds: Wall seconds from start to saved files.
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainedNetwork:
    """A network with the weights of its best epoch, every epoch of its training, and how that ended.

    ``probabilities`` are what it says of the part that it was judged by, float32 (n, n_classes).
    """

    model: keras.Model
    probabilities: np.ndarray
    history: tuple[EpochRecord, ...]
    end: TrainingEnd


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
    costs = measure_costs(task, len(split.classes))
    task = _at_buildable_size(task, len(split.classes))
    train, valid = load_parts(downscaled_images(task.images, task.config.image_size), split)
    (task.folder / "config.json").write_text(task.config.to_json(), encoding="utf-8")

    with (task.folder / "train.log").open("w", encoding="utf-8") as log:
        trained = yield from train_network(
            task, train, valid, n_classes=len(split.classes), costs=costs, log=log, started=started
        )

    return finish_trial(task, split, valid, trained, costs=costs, started=started)


def finish_trial(
    task: TrialTask,
    split: SplitRecord,
    valid: LabelledPart,
    trained: TrainedNetwork,
    *,
    costs: Mapping[str, float],
    started: float,
    save_model: Callable[[keras.Model, Path], None] | None = None,
) -> TrialResult:
    """Write the files of a trial whose network is trained, by ``save_model`` if there is one; tell what it came to."""
    model = trained.model
    predictions = Predictions(
        ids=split.valid.images,
        labels=valid.labels,
        probabilities=trained.probabilities,
        classes=split.classes,
        patients=split.valid.patients,
    )
    save_trial(task.folder, history_rows(task, trained.history), predictions, model, save_model=save_model)
    return TrialResult(
        **score_trial(task, predictions, model, valid, costs=costs),
        best_epoch=trained.end.best_epoch,
        epochs=len(trained.history),
        cut_short=trained.end.cut_short,
        n_parameters=model.count_params(),
        multiply_adds=int(costs["multiply_adds"]),
        weight_bytes=int(costs["weight_bytes"]),
        image_sizes=tuple(dict.fromkeys(epoch.image_size for epoch in trained.history)),
        features=inputs_read(trained.history),
        weights_sha256="+".join(digest_pretrained(task.config, task.weights_folder)),
        sha256=digest_files(task.folder),
        seconds=time.monotonic() - started,
    )


def measure_costs(task: TrialTask, n_classes: int, *, n_networks: int = 1) -> dict[str, float]:
    """Count what a task's network costs, or several of them together, before it is built.

    Raises:
        InfeasibleError: It is known now to break a requirement, or one network does not fit in memory.
    """
    whole = dataclasses.replace(task.config, image_size=task.largest_image or task.config.image_size)
    size = measure_size(whole, n_classes)  # a lower rung must not begin what the last one is refused for
    costs = {name: float(n_networks * getattr(size, name)) for name in ("parameters", "multiply_adds", "weight_bytes")}
    _refuse_unmet(task.requirements, costs)
    refuse_oversized(size)
    return costs


def score_trial(
    task: TrialTask, predictions: Predictions, model: keras.Model, part: LabelledPart, *, costs: Mapping[str, float]
) -> dict[str, Any]:
    """Give the score, the values and the violations of a ``TrialResult``; the latency is measured on the images of a part."""
    required = [requirement.name for requirement in task.requirements]
    if "latency" in (*task.objectives, *required):
        costs = {**costs, "latency": measure_latency(model, part.batch(np.arange(min(BATCH_SIZE, len(part.rows)))))}
    final = {
        name: measure(name, predictions.labels, predictions.probabilities, normal_class=task.normal_class, costs=costs)
        for name in (*task.objectives, *required)
    }
    return {
        "score": final[task.objectives[0]],
        "values": tuple(final[name] for name in task.objectives) if len(task.objectives) > 1 else (),
        "violations": {str(bound): bound.violation(final[bound.name]) for bound in task.requirements},
    }


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


def _at_buildable_size(task: TrialTask, n_classes: int) -> TrialTask:
    """Give the task at the smallest image size, from the configuration's on, that the network can be built for."""
    largest = task.largest_image or task.config.image_size
    while task.config.image_size < largest:
        try:
            measure_size(task.config, n_classes)
        except ImpossibleModelError:
            larger = min(task.config.image_size + _SIZE_STEP, largest)
            task = dataclasses.replace(task, config=dataclasses.replace(task.config, image_size=larger))
        else:
            break
    return task


def _can_resume(checkpoint: Checkpoint, model: keras.Model, config: TrialConfig) -> bool:
    """Tell whether a training can go on; only another image size excuses weights that do not fit."""
    return checkpoint.history[-1].image_size == config.image_size or fits(checkpoint, model)


def load_parts(images: Path, split: SplitRecord) -> tuple[LabelledPart, LabelledPart]:
    """Map the decoded training and validation images of a split."""
    pixels = np.load(images, mmap_mode="r", allow_pickle=False)
    n_train, n_valid = len(split.train.images), len(split.valid.images)
    return (
        LabelledPart(pixels, np.arange(n_train), np.asarray(split.train.labels, np.int64)),
        LabelledPart(pixels, np.arange(n_train, n_train + n_valid), np.asarray(split.valid.labels, np.int64)),
    )


def train_network(
    task: TrialTask,
    train: LabelledPart,
    valid: LabelledPart,
    *,
    n_classes: int,
    costs: Mapping[str, float],
    log: TextIO,
    started: float,
) -> Generator[EpochRecord, None, TrainedNetwork]:
    """Train the network of a task, yielding each epoch; those before its checkpoint again, if that is its own.

    Args:
        task: What is trained, and for how long.
        train: The images to learn from.
        valid: The images that epochs are judged by.
        n_classes: Number of classes.
        costs: What is known of the network's costs, from ``measure_costs``.
        log: The trial's train.log.
        started: ``time.monotonic()`` when the trial began, which ``task.seconds`` counts from.

    Raises:
        TrialError: The network cannot be built or diverges.
    """
    model = build_network(task, train, n_classes=n_classes)
    training = Training(model, task.config, train=train, valid=valid, objective=objective_of(task, costs))
    checkpoint = None if task.resume is None else load_checkpoint(task.resume)
    log_start(log, task, model)
    if checkpoint is not None and _can_resume(checkpoint, model, task.config):
        training.restore(checkpoint)
    elif checkpoint is not None:
        log.write("begun anew: the weights of the smaller image size do not fit this network\n")
    epochs = training.epochs(until=task.until, deadline=deadline_of(task, started))
    end = yield from observe_training(training, epochs, task, log)
    probabilities, note = training.best_probabilities()
    log.write(f"{note}\n" if note else "")
    return TrainedNetwork(model=model, probabilities=probabilities, history=training.history, end=end)


def inputs_read(history: Sequence[EpochRecord]) -> str:
    """Join what the epochs of a training read."""
    return "; ".join(dict.fromkeys(epoch.features for epoch in history if epoch.features))


def build_network(task: TrialTask, train: LabelledPart, *, n_classes: int) -> keras.Model:
    """Build the untrained network of a task, for the images that it is to learn from.

    Raises:
        TrialError: It cannot be built.
    """
    n_images = images_per_epoch(train.labels, n_classes, task.config).sum()
    return build_model(
        task.config,
        n_classes,
        steps_per_epoch=n_steps(n_images, task.config.images_at_once),
        weights_folder=task.weights_folder,
    )


def objective_of(task: TrialTask, costs: Mapping[str, float]) -> Objective:
    """Find what a task's epochs and folds are judged by."""
    several = task.objectives if len(task.objectives) > 1 else ()
    return Objective(metric(task.objectives[0]), task.normal_class, several, costs)


def deadline_of(task: TrialTask, started: float) -> float | None:
    """Give the ``time.monotonic()`` after which no further epoch of a trial begins; None for no limit."""
    return None if task.seconds is None else started + task.seconds


class Resumable(Protocol):
    """A training that can tell where it is."""

    @property
    def history(self) -> tuple[EpochRecord, ...]:
        """Every epoch so far, those before a checkpoint too."""

    def checkpoint(self) -> Checkpoint:
        """Copy its state."""


def observe_training(
    training: Resumable, epochs: Generator[EpochRecord, None, TrainingEnd], task: TrialTask, log: TextIO
) -> Generator[EpochRecord, None, TrainingEnd]:
    """Pass the epochs of a training on; note each, and keep checkpoints, before it is passed."""
    is_repeated = task.resume is not None and task.resume == task.checkpoint
    for before in training.history:
        log_epoch(log, before)
        if is_repeated and before.epoch > task.reported:
            yield before  # whoever listened may have died before it heard of this epoch
    due = time.monotonic() + _CHECKPOINT_SECONDS
    while True:
        try:
            epoch = next(epochs)
        except StopIteration as end:
            ended_early = task.until is not None and training.history[-1].epoch < task.until
            if task.checkpoint is not None and ended_early and not end.value.cut_short:
                save_checkpoint(training.checkpoint(), task.checkpoint)  # for want of patience; it may be promoted all the same
            return end.value
        if epoch.features and epoch.features not in (before.features for before in training.history[:-1]):
            log.write(f"phase {epoch.phase} reads {epoch.features}\n")
        log_epoch(log, epoch)
        if task.checkpoint is not None and epoch.epoch == task.until:
            save_checkpoint(training.checkpoint(), task.checkpoint)
        elif task.checkpoint is not None and time.monotonic() >= due:
            with contextlib.suppress(OSError):  # a disk that is full now is no reason to lose the trial; the next may succeed
                save_checkpoint(training.checkpoint(), task.checkpoint)
            due = time.monotonic() + _CHECKPOINT_SECONDS
        yield epoch


def history_rows(task: TrialTask, history: Sequence[EpochRecord]) -> list[dict[str, Any]]:
    """Make the rows of history.csv: what an epoch came to, and each objective of several under its own name."""
    rows = []
    for epoch in history:
        row = dataclasses.asdict(epoch)
        values = row.pop("values")
        rows.append({**row, **dict(zip(task.objectives if values else (), values, strict=True))})
    return rows


def save_trial(
    folder: Path,
    epochs: Sequence[Mapping[str, Any]],
    predictions: Predictions,
    model: keras.Model,
    *,
    save_model: Callable[[keras.Model, Path], None] | None = None,
) -> None:
    """Write history.csv, valid.npz and model.keras, and flush all files of the trial to disk.

    Args:
        folder: The trial's folder.
        epochs: The rows of history.csv, at least one.
        predictions: What valid.npz holds.
        model: What model.keras holds.
        save_model: How it is written; None for Keras' own way.
    """
    with (folder / "history.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(epochs[0]))
        writer.writeheader()
        writer.writerows(epochs)
    predictions.to_npz(folder / "valid.npz")
    if model.compiled:
        model.compile()  # with an optimizer that has not run: the moments of the one that has would triple the file
    if save_model is None:
        model.save(folder / "model.keras")
    else:
        save_model(model, folder / "model.keras")
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


def log_start(log: TextIO, task: TrialTask, model: keras.Model) -> None:
    """Begin train.log with where and what is trained."""
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


def log_epoch(log: TextIO, epoch: EpochRecord) -> None:
    """Note an epoch in train.log."""
    log.write(
        f"epoch {epoch.epoch}: score {epoch.score:.4f}, macro-F1 {epoch.macro_f1:.4f}, loss {epoch.loss:.4f}, "
        f"validation loss {epoch.valid_loss:.4f}, accuracy {epoch.valid_accuracy:.4f}, "
        f"learning rate {epoch.learning_rate:.3g}, {epoch.seconds:.1f} s\n"
    )
    log.flush()
