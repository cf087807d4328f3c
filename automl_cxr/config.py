"""What a trial is asked to be: every hyperparameter that there is, with its default and its rule."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple

from automl_cxr.architectures import BACKBONES, FAMILIES
from automl_cxr.conv_spec import parse_conv_spec
from automl_cxr.errors import UnknownNameError, UsageError

SCRATCH = "scratch"  # a branch of a concat network that is no backbone
NONE, IMAGENET, CHEXNET = NAMED_WEIGHTS = ("none", "imagenet", "chexnet")  # weights that are no file
FITS = ("stretch", "pad", "crop")
SCALINGS = ("symmetric", "unit")
POOLINGS = ("average", "max", "flatten")
LOSSES = ("ce", "focal")
OPTIMIZERS = ("adam", "adamw", "rmsprop", "sgd", "adadelta")
SCHEDULES = ("cosine", "plateau", "constant")
MONITORS = ("score", "loss", "accuracy")
IMBALANCES = ("class_weights", "oversample", "undersample", "undersample+class_weights", "none")
BRIGHTENINGS = ("add", "multiply")
FILLS = ("constant", "nearest", "reflect", "wrap")
PRECISIONS = ("float32", "mixed")
FEATURES = ("float32", "float16", "pixels")

Rule = Callable[[Any], str | None]


def _within(low: float, high: float, *, low_is_open: bool = False) -> Rule:
    """Give a check that returns the broken rule, or None."""

    def check(value: Any) -> str | None:
        in_range = math.isfinite(value) and (low < value if low_is_open else low <= value) and value <= high
        rule = f"above {low:g} and at most {high:g}" if low_is_open else f"from {low:g} to {high:g}"
        return None if in_range else f"must be {rule}"

    return check


def _one_of(*names: Any) -> Rule:
    return lambda value: None if value in names else f"must be one of {', '.join(map(str, names))}"


def _anything(value: Any) -> None:
    """Accept what the type allows."""


def _named(value: Any) -> str | None:
    return None if value.strip() else "must name something"


def _taps_rule(value: Any) -> str | None:
    numbers = value.split("+")
    ordered = numbers == sorted(set(numbers))
    if ordered and numbers[-1] == "5" and set(numbers) <= {"1", "2", "5"}:
        return None
    return "must name pools 1, 2 and 5 in ascending order, joined by '+', and end in 5 (such as '1+2+5')"


def _conv_spec_rule(value: Any) -> str | None:
    if value:
        parse_conv_spec(value)  # raises with the word that is none
    return None


def _resizer_rule(value: Any) -> str | None:
    return None if value == 0 or 0.1 <= value <= 4 else "must be 0 (none) or from 0.1 to 4"


def _alphas_rule(value: Any) -> str | None:
    try:
        good = all(0 < float(number) <= 100 for number in value.split(","))
    except ValueError:
        good = False
    return None if good else "must be a number above 0, or one for each class joined by commas (such as '0.25,0.5,0.25')"


def _hyperparameter(default: Any, rule: Rule) -> Any:
    return field(default=default, metadata={"rule": rule})


class BranchConfig(NamedTuple):
    """A convolutional part of a network that may be pretrained: a published network or a convolution stack."""

    backbone: str
    cut: str
    weights: str

    @property
    def is_pretrained(self) -> bool:
        """Whether it is frozen first: a published network, or a convolution stack with weights from a file."""
        return self.backbone != SCRATCH or self.weights not in NAMED_WEIGHTS


@dataclass(frozen=True, kw_only=True)
class TrialConfig:
    """One point of a search: everything that decides what a trial computes.

    A search space may search or fix any field by its name, except those that belong to a whole study. A field that a
    family, a loss or another choice does not use is ignored by it.

    Attributes:
        family: Which function builds the network.

        image_size: Height and width in pixels of the squares that images become.
        fit: How an image meets its square: "stretch" it, "pad" its short side with black, or "crop" its centre.
        input_channels: How often the grey channel is repeated at the input, 1 or 3. Backbones take 3 whatever this says.
        scaling: "symmetric" scales pixels to -1..1, "unit" to 0..1. Backbones have a preprocessing of their own.
        otsu: Keep only the pixels that lie, blurred, below Otsu's threshold of their image; the others become black.
        resizer: Size ratio of a learnable resizer (Talebi & Milanfar 2021) before the network; 0 for none.

        layers: scratch: the whole stack of convolutions in the words of ``conv_spec.py``; where it is empty, n_blocks to
            block_dropout describe one.
        n_blocks: scratch: convolution blocks, each ending in a 2x2 pool.
        convs_per_block: scratch: convolutions before the pool of a block.
        filters: Filters of the first convolution; the deeper ones follow from it.
        filter_growth: scratch: factor on the filters from one block to the next (at most 512 filters are used).
        kernel_size: scratch: height and width of the convolution kernels.
        batch_norm: scratch: batch normalisation after every convolution.
        block_dropout: scratch: dropout rate after each block.
        taps: fused: pools whose feature maps reach the classifier, such as "1+2+5"; "5" is the plain network.

        backbone: transfer, concat: the published network; in concat also "scratch", described as above.
        cut: Where the backbone ends: a layer's name, the number of a splice point (see `automl-cxr describe`), or "" for
            its own end.
        weights: Weights of the backbone: "imagenet", "chexnet", "none" (random) or the path of a file, which may be a trained
            network of this program. A scratch branch takes the path of such a network alone, and else begins at random.
        second_backbone, second_cut, second_weights: concat: the same for the other branch.
        heads: concat: folder of the softmax layers that a splice search has fitted to pairs of cuts; where there is neither a
            projection nor a hidden layer, the features are standardised for the one of its cuts and training begins with it.
            "" begins at random.
        projection: concat: units of a dense layer at each position of a branch's feature maps; 0 for none.
        unfreeze: Weight-bearing layers of each backbone, counted from its cut, that are trained; more than there are means
            all, 0 none.
        unfreeze_from: Name of the first backbone layer that is trained, instead of their number.
        frozen_share: Share of the epochs, rounded up, that the backbones spend frozen before ``unfreeze`` takes effect.
        fine_tune_rate: Learning rate from then on.
        freeze_norm: Whether the batch normalisation of backbones keeps the averages that it was trained to while layers around
            it train. A head that was fitted on what it says with these needs it.

        pooling: How the last feature maps become a vector.
        n_dense: Hidden dense layers of the head.
        dense_units: Units of the first hidden dense layer.
        dense_growth: Factor on the units from one hidden dense layer to the next.
        dropout: Dropout rate after each hidden dense layer, or before the output where there is none.

        loss: "ce" (cross-entropy) or "focal" (Lin et al. 2017).
        focal_gamma: focal: exponent on the miss of the true class.
        focal_alpha: focal: weight of the classes, one number for all or one each, joined by commas.
        label_smoothing: Probability mass spread over all classes in the target.
        optimizer: Keras optimizer by name.
        learning_rate: Step size at the start.
        schedule: "cosine" lowers the learning rate epoch by epoch towards 0 (Loshchilov & Hutter 2017), "plateau" multiplies
            it by ``plateau_factor`` when the monitored figure stands still, "constant" leaves it.
        plateau_factor: plateau: what the learning rate is multiplied by.
        plateau_share: plateau: share of ``patience`` after which it is.
        weight_decay: Decoupled decay per step, relative to the learning rate.
        batch_size: Images per gradient step.
        gradient_accumulation: Parts that a batch is computed in, one after the other, where it does not fit into memory at
            once; their gradients are averaged. Batch normalisation sees a part at a time.
        epochs: Passes over the training part at most.
        patience: Epochs without a better monitored figure after which training (or its frozen phase) stops.
        monitor: What chooses the epoch and stops training: the study's "score", or validation "loss" (the cross-entropy,
            whatever ``loss`` trains with) or "accuracy".
        imbalance: "class_weights" weighs each image by N / (K n_class), "oversample" repeats images of the smaller classes
            until all are as large as the largest, "undersample" draws part of the larger ones anew in each epoch,
            "undersample+class_weights" weighs what is drawn.
        undersample_ratio: undersample: images of a class in an epoch at most, as a multiple of the smallest class.
        precision: "mixed" computes in 16 bits where there is a GPU.
        features: What layers that stand still say of the images is computed once and kept as "float32" or, in half the room and
            with three digits, as "float16"; "pixels" computes it anew in each epoch.

        augmentation: Strength from 0 (none) to 1, a factor on each of the following.
        views: Augmented views of each image that are drawn once, for features of frozen layers; epochs take them in turn. 0
            draws anew in each epoch, and computes from pixels.
        flip: Mirror left and right at random, at any strength above 0.
        rotation_low, rotation_high: Degrees, counter-clockwise.
        shear: Degrees to either side, horizontally.
        shift: Share of the image's size, in each direction.
        zoom: Share of the image's size, in and out.
        brightness: Share by which pixels become brighter or darker.
        brightening: Whether it is a share of the range from black to white, to "add", or of the pixel, to "multiply".
        contrast: Share of each pixel's distance from the mean.
        fill: What comes in from outside of the image: "constant" is black.

        seed: Decides initial weights, shuffling, dropout and augmentation.
    """

    family: str = _hyperparameter("scratch", _one_of(*FAMILIES))

    image_size: int = _hyperparameter(112, _within(16, 2048))
    fit: str = _hyperparameter("stretch", _one_of(*FITS))
    input_channels: int = _hyperparameter(1, _one_of(1, 3))
    scaling: str = _hyperparameter("symmetric", _one_of(*SCALINGS))
    otsu: bool = _hyperparameter(False, _anything)
    resizer: float = _hyperparameter(0.0, _resizer_rule)

    layers: str = _hyperparameter("", _conv_spec_rule)
    n_blocks: int = _hyperparameter(4, _within(1, 8))
    convs_per_block: int = _hyperparameter(1, _within(1, 4))
    filters: int = _hyperparameter(32, _within(1, 1024))
    filter_growth: float = _hyperparameter(2.0, _within(0.5, 4.0))
    kernel_size: int = _hyperparameter(3, _within(1, 15))
    batch_norm: bool = _hyperparameter(True, _anything)
    block_dropout: float = _hyperparameter(0.0, _within(0.0, 0.9))
    taps: str = _hyperparameter("1+2+5", _taps_rule)

    backbone: str = _hyperparameter("densenet121", _one_of(*BACKBONES, SCRATCH))
    cut: str = _hyperparameter("", _anything)
    weights: str = _hyperparameter("imagenet", _named)
    second_backbone: str = _hyperparameter(SCRATCH, _one_of(*BACKBONES, SCRATCH))
    second_cut: str = _hyperparameter("", _anything)
    second_weights: str = _hyperparameter("imagenet", _named)
    heads: str = _hyperparameter("", _anything)
    projection: int = _hyperparameter(0, _within(0, 8192))
    unfreeze: int = _hyperparameter(0, _within(0, 10_000))
    unfreeze_from: str = _hyperparameter("", _anything)
    frozen_share: float = _hyperparameter(0.0, _within(0.0, 1.0))
    fine_tune_rate: float = _hyperparameter(1e-5, _within(0.0, 10.0, low_is_open=True))
    freeze_norm: bool = _hyperparameter(False, _anything)

    pooling: str = _hyperparameter("average", _one_of(*POOLINGS))
    n_dense: int = _hyperparameter(1, _within(0, 5))
    dense_units: int = _hyperparameter(128, _within(1, 8192))
    dense_growth: float = _hyperparameter(1.0, _within(0.1, 4.0))
    dropout: float = _hyperparameter(0.3, _within(0.0, 0.9))

    loss: str = _hyperparameter("ce", _one_of(*LOSSES))
    focal_gamma: float = _hyperparameter(2.0, _within(0.0, 10.0))
    focal_alpha: str = _hyperparameter("1", _alphas_rule)
    label_smoothing: float = _hyperparameter(0.0, _within(0.0, 0.5))
    optimizer: str = _hyperparameter("adam", _one_of(*OPTIMIZERS))
    learning_rate: float = _hyperparameter(1e-3, _within(0.0, 10.0, low_is_open=True))
    schedule: str = _hyperparameter("cosine", _one_of(*SCHEDULES))
    plateau_factor: float = _hyperparameter(0.5, _within(0.01, 0.99))
    plateau_share: float = _hyperparameter(0.6, _within(0.0, 1.0, low_is_open=True))
    weight_decay: float = _hyperparameter(0.0, _within(0.0, 1.0))
    batch_size: int = _hyperparameter(32, _within(1, 4096))
    gradient_accumulation: int = _hyperparameter(1, _within(1, 64))
    epochs: int = _hyperparameter(30, _within(1, 10_000))
    patience: int = _hyperparameter(10, _within(1, 10_000))
    monitor: str = _hyperparameter("score", _one_of(*MONITORS))
    imbalance: str = _hyperparameter("class_weights", _one_of(*IMBALANCES))
    undersample_ratio: float = _hyperparameter(1.0, _within(1.0, 1000.0))
    precision: str = _hyperparameter("float32", _one_of(*PRECISIONS))
    features: str = _hyperparameter("float32", _one_of(*FEATURES))

    augmentation: float = _hyperparameter(0.0, _within(0.0, 1.0))
    views: int = _hyperparameter(0, _within(0, 100))
    flip: bool = _hyperparameter(True, _anything)
    rotation_low: float = _hyperparameter(-18.0, _within(-180.0, 0.0))
    rotation_high: float = _hyperparameter(18.0, _within(0.0, 180.0))
    shear: float = _hyperparameter(0.0, _within(0.0, 45.0))
    shift: float = _hyperparameter(0.1, _within(0.0, 0.5))
    zoom: float = _hyperparameter(0.1, _within(0.0, 0.5))
    brightness: float = _hyperparameter(0.2, _within(0.0, 1.0))
    brightening: str = _hyperparameter("add", _one_of(*BRIGHTENINGS))
    contrast: float = _hyperparameter(0.3, _within(0.0, 1.0))
    fill: str = _hyperparameter("constant", _one_of(*FILLS))

    seed: int = _hyperparameter(0, _within(0, 2**31 - 1))

    def __post_init__(self) -> None:
        for item in fields(self):
            value = _cast(item.name, item.type, getattr(self, item.name))
            broken = item.metadata["rule"](value)
            if broken is not None:
                raise UsageError(f"Hyperparameter '{item.name}' {broken}; received {value!r}.")
            object.__setattr__(self, item.name, value)

    @property
    def frozen_epochs(self) -> int:
        """Count the epochs, at most, before ``unfreeze`` takes effect; 0 where there are not two phases."""
        is_pretrained = any(branch.is_pretrained for branch in self.branches)
        thaws = is_pretrained and (self.unfreeze > 0 or self.unfreeze_from != "")
        return math.ceil(round(self.frozen_share * self.epochs, 9)) if thaws else 0  # 0.07 * 100 is a little more than 7

    @property
    def trains_head_only(self) -> bool:
        """Whether nothing but a head learns, on features that are the same in every epoch and for every seed."""
        is_frozen = self.unfreeze == 0 and self.unfreeze_from == "" and self.resizer == 0
        is_projected = self.family == "concat" and self.projection > 0
        is_kept = self.features != "pixels" and (self.augmentation == 0 or self.views > 0)
        is_plain = self.gradient_accumulation == 1 and self.precision == "float32"
        has_weights = bool(self.branches) and all(
            branch.backbone != SCRATCH and branch.weights != NONE for branch in self.branches
        )
        return has_weights and is_frozen and not is_projected and is_kept and is_plain and self.head_file is None

    @property
    def branches(self) -> tuple[BranchConfig, ...]:
        """The parts of the network that may be pretrained, in order; empty for a family without any."""
        first = BranchConfig(self.backbone, self.cut, self.weights)
        second = BranchConfig(self.second_backbone, self.second_cut, self.second_weights)
        return (first, second)[: FAMILIES[self.family].n_branches]

    @property
    def head_file(self) -> Path | None:
        """File of the softmax layer that training begins with; None where it begins at random."""
        takes_it = self.family == "concat" and self.heads != "" and self.projection == 0 and self.n_dense == 0
        return Path(self.heads) / f"{self.cut}+{self.second_cut}.npz" if takes_it else None

    @property
    def images_at_once(self) -> int:
        """Images that are computed together: a batch, or a part of one."""
        return math.ceil(self.batch_size / self.gradient_accumulation)

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


def read_value(name: str, text: str) -> Any:
    """Read the value of a hyperparameter as it is typed, such as "3", "0.5", "true" or "focal".

    Raises:
        UnknownNameError: The name is no hyperparameter.
        UsageError: The text is none of its type.
    """
    types = {item.name: item.type for item in fields(TrialConfig)}
    if name not in types:
        raise UnknownNameError("hyperparameter", name, types)
    if types[name] == "str":
        return text
    if types[name] == "bool" and text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        return {"int": int, "float": float}[str(types[name])](text)
    except (KeyError, ValueError):
        raise UsageError(f"Hyperparameter '{name}' must be of type {types[name]}; received '{text}'.") from None


def _cast(name: str, type_name: Any, value: Any) -> Any:
    """Take an int where a float is due and refuse every other change of type (NumPy scalars arrive as their Python twins)."""
    value = value.item() if hasattr(value, "item") else value
    if type_name == "float" and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value).__name__ != type_name:
        raise UsageError(f"Hyperparameter '{name}' must be of type {type_name}; received {value!r}.")
    return value
