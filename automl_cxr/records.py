"""What a trial is asked to be and what it turned out to be: frozen records that cross process borders as JSON."""

from __future__ import annotations

import dataclasses
import enum
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from automl_cxr.errors import UnknownNameError, UsageError

FAMILIES = ("scratch", "fused")
POOLINGS = ("average", "max", "flatten")
LOSSES = ("ce", "focal")
OPTIMIZERS = ("adam", "adamw", "rmsprop", "sgd")
SCHEDULES = ("cosine", "constant")
IMBALANCES = ("class_weights", "none")


def _within(low: float, high: float, *, low_is_open: bool = False) -> Callable[[Any], str | None]:
    """Give a check that returns the broken rule, or None."""

    def check(value: Any) -> str | None:
        in_range = math.isfinite(value) and (low < value if low_is_open else low <= value) and value <= high
        rule = f"above {low:g} and at most {high:g}" if low_is_open else f"from {low:g} to {high:g}"
        return None if in_range else f"must be {rule}"

    return check


def _one_of(*names: str) -> Callable[[Any], str | None]:
    return lambda value: None if value in names else f"must be one of {', '.join(names)}"


def _anything(value: Any) -> None:
    """Accept what the type allows."""


def _taps_rule(value: Any) -> str | None:
    numbers = value.split("+")
    ordered = numbers == sorted(set(numbers))
    if ordered and numbers[-1] == "5" and set(numbers) <= {"1", "2", "5"}:
        return None
    return "must name pools 1, 2 and 5 in ascending order, joined by '+', and end in 5 (such as '1+2+5')"


def _hyperparameter(default: Any, rule: Callable[[Any], str | None]) -> Any:
    return field(default=default, metadata={"rule": rule})


@dataclass(frozen=True, kw_only=True)
class TrialConfig:
    """One point of a search: everything that decides what a trial computes.

    A search space may search or fix any field by its name. A field that a family or a loss does not use is ignored by it.

    Attributes:
        family: Which function builds the network.
        image_size: Height and width in pixels that an image is resized to before the network sees it.
        input_channels: How often the grey channel is repeated at the input (3 for networks published on RGB).
        n_blocks: scratch: convolution blocks, each ending in a 2x2 pool.
        convs_per_block: scratch: convolutions before the pool of a block.
        filters: Filters of the first convolution; the deeper ones follow from it.
        filter_growth: scratch: factor on the filters from one block to the next (at most 512 filters are used).
        kernel_size: scratch: height and width of the convolution kernels.
        batch_norm: scratch: batch normalisation after every convolution.
        block_dropout: scratch: dropout rate after each block.
        pooling: scratch: how the last feature maps become a vector.
        taps: fused: pools whose feature maps reach the classifier, such as "1+2+5"; "5" is the plain network.
        n_dense: Hidden dense layers of the head.
        dense_units: Units of each hidden dense layer.
        dropout: Dropout rate after each hidden dense layer, or before the output where there is none.
        loss: "ce" (cross-entropy) or "focal" (Lin et al. 2017).
        focal_gamma: focal: exponent on the miss of the true class.
        label_smoothing: Probability mass spread over all classes in the target.
        optimizer: Keras optimizer by name.
        learning_rate: Step size at the start.
        schedule: "cosine" lowers the learning rate epoch by epoch towards 0 (Loshchilov & Hutter 2017); or "constant".
        weight_decay: Decoupled decay per step, relative to the learning rate.
        batch_size: Images per gradient step.
        epochs: Passes over the training part at most.
        patience: Epochs without a better validation score after which training stops.
        imbalance: "class_weights" weighs each image by N / (K n_class).
        augmentation: Strength from 0 (none) to 1 of flips, rotation, zoom, shift, brightness and contrast.
        seed: Decides initial weights, shuffling, dropout and augmentation.
    """

    family: str = _hyperparameter("scratch", _one_of(*FAMILIES))
    image_size: int = _hyperparameter(112, _within(16, 2048))
    input_channels: int = _hyperparameter(1, _within(1, 3))
    n_blocks: int = _hyperparameter(4, _within(1, 8))
    convs_per_block: int = _hyperparameter(1, _within(1, 4))
    filters: int = _hyperparameter(32, _within(1, 1024))
    filter_growth: float = _hyperparameter(2.0, _within(0.5, 4.0))
    kernel_size: int = _hyperparameter(3, _within(1, 15))
    batch_norm: bool = _hyperparameter(True, _anything)
    block_dropout: float = _hyperparameter(0.0, _within(0.0, 0.9))
    pooling: str = _hyperparameter("average", _one_of(*POOLINGS))
    taps: str = _hyperparameter("1+2+5", _taps_rule)
    n_dense: int = _hyperparameter(1, _within(0, 5))
    dense_units: int = _hyperparameter(128, _within(1, 8192))
    dropout: float = _hyperparameter(0.3, _within(0.0, 0.9))
    loss: str = _hyperparameter("ce", _one_of(*LOSSES))
    focal_gamma: float = _hyperparameter(2.0, _within(0.0, 10.0))
    label_smoothing: float = _hyperparameter(0.0, _within(0.0, 0.5))
    optimizer: str = _hyperparameter("adam", _one_of(*OPTIMIZERS))
    learning_rate: float = _hyperparameter(1e-3, _within(0.0, 10.0, low_is_open=True))
    schedule: str = _hyperparameter("cosine", _one_of(*SCHEDULES))
    weight_decay: float = _hyperparameter(0.0, _within(0.0, 1.0))
    batch_size: int = _hyperparameter(32, _within(1, 4096))
    epochs: int = _hyperparameter(30, _within(1, 10_000))
    patience: int = _hyperparameter(10, _within(1, 10_000))
    imbalance: str = _hyperparameter("class_weights", _one_of(*IMBALANCES))
    augmentation: float = _hyperparameter(0.0, _within(0.0, 1.0))
    seed: int = _hyperparameter(0, _within(0, 2**31 - 1))

    def __post_init__(self) -> None:
        for item in fields(self):
            value = _cast(item.name, item.type, getattr(self, item.name))
            broken = item.metadata["rule"](value)
            if broken is not None:
                raise UsageError(f"Hyperparameter '{item.name}' {broken}; received {value!r}.")
            object.__setattr__(self, item.name, value)

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Name every hyperparameter."""
        return tuple(item.name for item in fields(cls))

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> TrialConfig:
        """Make a configuration from named values, the rest at their defaults.

        Raises:
            UnknownNameError: A name is no hyperparameter.
            UsageError: A value is of another type or out of its range.
        """
        for name in values:
            if name not in cls.names():
                raise UnknownNameError("hyperparameter", name, cls.names())
        return cls(**values)

    @classmethod
    def from_json(cls, text: str) -> TrialConfig:
        return cls.from_values(json.loads(text))

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=1)


def _cast(name: str, type_name: Any, value: Any) -> Any:
    """Take an int where a float is due and refuse every other change of type (NumPy scalars arrive as their Python twins)."""
    value = value.item() if hasattr(value, "item") else value
    if type_name == "float" and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value).__name__ != type_name:
        raise UsageError(f"Hyperparameter '{name}' must be of type {type_name}; received {value!r}.")
    return value


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
    named and nothing more, so that no trial can see its labels.

    Attributes:
        classes: Class names; a label is an index into them.
        train: The part that networks learn from.
        valid: The part that epochs, trials and ensemble weights are chosen by.
        test: Ids of the sealed images.
        seed: What the split was drawn with.
        grouped: Whether patients are known and kept on one side.
        origin: "made", or which parts were given with the data.
        unreadable: Images of train and valid that were left out, with the reason.
    """

    classes: tuple[str, ...]
    train: PartRecord
    valid: PartRecord
    test: tuple[str, ...]
    seed: int
    grouped: bool
    origin: str
    unreadable: Mapping[str, str]

    @classmethod
    def from_json(cls, text: str) -> SplitRecord:
        values = json.loads(text)
        for name in ("train", "valid"):
            values[name] = PartRecord(**{key: tuple(column) for key, column in values[name].items()})
        for name in ("classes", "test"):
            values[name] = tuple(values[name])
        return cls(**values)

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), ensure_ascii=False)


@dataclass(frozen=True, kw_only=True)
class EpochRecord:
    """One epoch of training, as the rows of history.csv.

    Attributes:
        epoch: Number from 1.
        score: The study's objective on the whole validation part after the epoch.
        macro_f1: Macro-F1 on the same, whatever the objective.
        loss: Mean training loss over the epoch's batches, weights and smoothing included.
        valid_loss: Mean negative log-probability of the true class on the validation part, whatever the training loss.
        valid_accuracy: Share of validation images with the right class.
        seconds: Wall seconds of training and validating.
        n_parameters: Parameters of the network that is trained.
    """

    epoch: int
    score: float
    macro_f1: float
    loss: float
    valid_loss: float
    valid_accuracy: float
    seconds: float
    n_parameters: int


@dataclass(frozen=True, kw_only=True, repr=False)
class TrialRecord:
    """What the study's storage knows about one trial.

    Attributes:
        number: Position in the study, from 0; names the trial's folder.
        state: How far it has come.
        params: The searched hyperparameters that were active.
        score: Final validation score (COMPLETE), last score (PRUNED), None otherwise.
        scores: Validation score of each epoch, from epoch 1.
        n_parameters: Parameters of the network, None until it was built.
        seconds: Wall seconds of training, None until finished.
        error: Why it failed.
        seed: Seed of its configuration.
        best_epoch: Epoch whose weights were kept (COMPLETE), from 1.
        attempts: How often it was begun; more than once where searches died.
    """

    number: int
    state: TrialState
    params: Mapping[str, Any]
    score: float | None = None
    scores: Mapping[int, float] = field(default_factory=dict)
    n_parameters: int | None = None
    seconds: float | None = None
    error: str | None = None
    seed: int | None = None
    best_epoch: int | None = None
    attempts: int = 1

    def __repr__(self) -> str:
        """Say it in a line, as a notebook shows it."""
        score = "" if self.score is None else f", score {self.score:.4f}"
        epochs = "" if not self.scores else f" after {max(self.scores)} epochs"
        params = ", ".join(
            f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}" for name, value in self.params.items()
        )
        error = "" if self.error is None else f" ({self.error})"
        return f"Trial {self.number}: {self.state}{score}{epochs}{error}; {params}"
