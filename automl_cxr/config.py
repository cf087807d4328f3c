"""The hyperparameters of a trial: default, valid values, effect and explanation of each."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple

from automl_cxr.architectures import (
    BACKBONES,
    FAMILIES,
    NAMED_WEIGHTS,
    NONE,
    TABLE,
    BackboneLayer,
    find_backbone,
    parse_backbone_layers,
)
from automl_cxr.conv_spec import parse_conv_spec
from automl_cxr.encoder_files import is_encoder
from automl_cxr.errors import ImpossibleModelError, UnknownNameError, UsageError
from automl_cxr.tasks import MULTICLASS, MULTILABEL, TASKS
from automl_cxr.text_records import parse_json_object

SCRATCH = "scratch"  # as a backbone of the family concat: a convolution stack instead of a published network
FITS = ("stretch", "pad", "crop")
SCALINGS = ("symmetric", "unit", "standard")
POOLINGS = ("average", "max", "flatten")
PROBE_KERNELS = ("linear", "rbf")
PROBE_POOLINGS = AVERAGE, AVERAGE_AND_DEVIATION = "average", "average+deviation"
ASYMMETRIC = "asymmetric"  # the loss that exists for several findings only
LOSSES = ("ce", "focal", ASYMMETRIC)
OPTIMIZERS = ("adam", "adamw", "rmsprop", "sgd", "adadelta")
SCHEDULES = ("cosine", "plateau", "constant")
MONITORS = ("score", "loss", "accuracy")
IMBALANCES = ("class_weights", "oversample", "undersample", "undersample+class_weights", "none")
IMBALANCES_OF_FINDINGS = ("class_weights", "none")
_UNCERTAIN_NAMES = {"ignore": None, "zeros": (0.0, 0.0), "ones": (1.0, 1.0)}  # with the target probability, from low to high
BRIGHTENINGS = ("add", "multiply")
FILLS = ("constant", "nearest", "reflect", "wrap")
PRECISIONS = ("auto", "float32", "mixed")
FEATURES = ("float32", "float16", "pixels")

EFFECTS: Mapping[str, str] = {
    "architecture": "the layers from the pixels to the feature vector: their shapes and number format, the pretrained weights "
    "that they start from, and which of them are trained",
    "head": "the layers from the feature vector to the class probabilities, and fitted weights that they start from",
    "loss": "the loss function that training minimises",
    "optimizer": "the optimizer, and its learning rate in each epoch",
    "augmentation": "the random changes of training images, and how often they are drawn",
    "training": "everything else that determines what training computes: how images become squares, the order, number and "
    "weight of the images of an epoch, batches, cached features, the number of epochs, the selected epoch, and the seed",
}
"""The parts of a training that a hyperparameter can affect, each with its definition."""

DEFAULTS_OF_TASK: Mapping[str, Mapping[str, Any]] = {MULTICLASS: {}, MULTILABEL: {"imbalance": "none"}}
"""Hyperparameters that studies of a task set if neither the space nor the user sets them.

On 810 radiographs of NIH ChestX-ray14, six probes with class weights had the same mean AUC as without for the findings with
20 or more positives (differences of -0.001 to 0.003). Of all 13 findings it was higher by 0.004 to 0.015, less than its error.
The calibration error was 0.25 instead of 0.02, because most findings are rare.
"""

Rule = Callable[[Any], str | None]
_LARGEST_FLOAT = int(sys.float_info.max)


def _within(low: float, high: float, *, low_is_open: bool = False) -> Rule:
    """Return a check that returns the violated rule, or None."""

    def check(value: Any) -> str | None:
        in_range = (low < value if low_is_open else low <= value) and value <= high  # false for NaN and infinity
        rule = f"above {low:g} and at most {high:g}" if low_is_open else f"from {low:g} to {high:g}"
        return None if in_range else f"must be {rule}"

    return check


def _one_of(*names: Any) -> Rule:
    return lambda value: None if value in names else f"must be one of {', '.join(map(str, names))}"


def _any_value(value: Any) -> None:
    """Accept every value of the type."""


def _not_blank(value: Any) -> str | None:
    return None if value.strip() else "must not be empty"


def _taps_rule(value: Any) -> str | None:
    numbers = value.split("+")
    ordered = numbers == sorted(set(numbers))
    if ordered and numbers[-1] == "5" and set(numbers) <= {"1", "2", "5"}:
        return None
    return "must name pools 1, 2 and 5 in ascending order, joined by '+', and end in 5 (such as '1+2+5')"


def _layers_rule(value: Any) -> str | None:
    parse_backbone_layers(value)  # raises a UsageError that contains the invalid part
    return None


def _backbone_rule(value: Any) -> str | None:
    is_known = value in (*BACKBONES, SCRATCH, TABLE) or is_encoder(value)
    return None if is_known else f"must be one of {', '.join(BACKBONES)}, {SCRATCH}, or onnx:FILE"


def _conv_spec_rule(value: Any) -> str | None:
    if value:
        parse_conv_spec(value)  # raises a UsageError that contains the invalid word
    return None


def _resizer_rule(value: Any) -> str | None:
    return None if value == 0 or 0.1 <= value <= 4 else "must be 0 (none) or from 0.1 to 4"


def _alphas_rule(value: Any) -> str | None:
    try:
        is_valid = all(0 < float(number) <= 100 for number in value.split(","))
    except ValueError:
        is_valid = False
    return None if is_valid else "must be a number above 0, or one for each class joined by commas (such as '0.25,0.5,0.25')"


def _uncertain_rule(value: Any) -> str | None:
    try:
        _parse_uncertain_targets(value)
    except ValueError:
        return (
            'must be "ignore", "zeros", "ones" or a range of target probabilities (such as "0.55-0.85"), or one of these for '
            "each finding, joined by commas"
        )
    return None


def _parse_uncertain_targets(text: str) -> list[tuple[float, float] | None]:
    """Parse ``uncertain_targets``: for each entry the range of the target probability, or None for "ignore".

    Raises:
        ValueError: An entry is not valid.
    """
    ranges: list[tuple[float, float] | None] = []
    for word in map(str.strip, text.split(",")):
        if word in _UNCERTAIN_NAMES:
            ranges.append(_UNCERTAIN_NAMES[word])
            continue
        low, high = map(float, word.split("-"))
        if not 0 <= low <= high <= 1:
            raise ValueError(word)
        ranges.append((low, high))
    return ranges


_NEED_PIXELS = ("augmentation", "views", "resizer", "otsu", "downsample", "unfreeze", "unfreeze_from", "probe_mirrored")
_GRADIENT_FAMILIES = tuple(name for name, family in FAMILIES.items() if family.has_gradient_steps)


@dataclass(frozen=True)
class UsedBy:
    """The networks in which a hyperparameter has an effect.

    Attributes:
        families: Families that use it.
        condition: The condition under which they use it, as text; "" if they always use it.
        depends_on: Hyperparameters that determine whether the condition holds.
        holds: Evaluates the condition for a configuration of one of the families.
    """

    families: tuple[str, ...] = tuple(FAMILIES)
    condition: str = ""
    depends_on: tuple[str, ...] = ()
    holds: Callable[[TrialConfig], bool] = lambda config: True

    def __str__(self) -> str:
        """Describe the networks, such as "the families transfer and concat, if augmentation is above 0"."""
        *others, last = self.families
        names = f"families {', '.join(others)} and {last}" if others else f"family {last}"
        text = f"the {names}"
        if self.families == tuple(FAMILIES):
            text = "every family"
        elif self.families == _GRADIENT_FAMILIES:
            text = f"every family except {' and '.join(name for name in FAMILIES if name not in self.families)}"
        return f"{text}, {self.condition}" if self.condition else text

    def under(self, condition: str, *depends_on: str, holds: Callable[[TrialConfig], bool]) -> UsedBy:
        """Return the same families under a further condition."""
        both = " and ".join(text for text in (condition, self.condition) if text)
        return UsedBy(self.families, both, (*self.depends_on, *depends_on), lambda c: self.holds(c) and holds(c))


def _has_stack(config: TrialConfig) -> bool:
    return config.family != "concat" or SCRATCH in (config.backbone, config.second_backbone)


_EVERY = UsedBy()
_GRADIENT = UsedBy(_GRADIENT_FAMILIES)
_PROBE = UsedBy(("probe",))
_PROBE_WITH_POSITIONS = _PROBE.under(
    "if a layer of probe_layers has several positions (those of hog have one)",
    "probe_layers",
    holds=lambda c: any(find_backbone(layer.backbone).has_positions for layer in c.probed),
)
_PRETRAINED = UsedBy(tuple(name for name, family in FAMILIES.items() if family.n_branches > 0))
_CONCAT = UsedBy(("concat",))
_WITH_TABLE = UsedBy(("transfer", "probe")).under(
    f"if the backbone is {TABLE}", "backbone", "probe_layers", holds=lambda c: c.takes_features
)
_WITH_WEIGHTS = UsedBy((*_PRETRAINED.families, "probe"))
_STACK_CONDITION = "in concat only if a branch is scratch"
_STACK = UsedBy(("scratch", "concat"), _STACK_CONDITION, ("backbone", "second_backbone"), _has_stack)
_BLOCKS = _STACK.under("if layers is empty", "layers", holds=lambda c: c.layers == "")
_OWN_INPUT = UsedBy(("scratch", "fused", "concat"), _STACK_CONDITION, ("backbone", "second_backbone"), _has_stack)
_FILTERS = _OWN_INPUT.under(
    "in scratch and concat only if layers is empty,", "layers", holds=lambda c: c.family == "fused" or c.layers == ""
)
_UNFROZEN = _PRETRAINED.under(
    "if layers of a backbone are unfrozen",
    *("unfreeze", "unfreeze_from"),
    holds=lambda c: c.unfreeze > 0 or c.unfreeze_from != "",
)
_TWO_PHASES = _UNFROZEN.under("if frozen_share is above 0", "frozen_share", holds=lambda c: c.frozen_share > 0)
_MULTILABEL = _EVERY.under("if task=multilabel", "task", holds=lambda c: c.is_multilabel)
_ASYMMETRIC = _GRADIENT.under(
    f"if loss={ASYMMETRIC} and task=multilabel", "loss", "task", holds=lambda c: c.loss == ASYMMETRIC and c.is_multilabel
)
_FOCAL = _GRADIENT.under("if loss=focal", "loss", holds=lambda c: c.loss == "focal")
_PLATEAU = _GRADIENT.under("if schedule=plateau", "schedule", holds=lambda c: c.schedule == "plateau")
_BY_STEP = _GRADIENT.under("unless schedule=plateau", "schedule", holds=lambda c: c.schedule != "plateau")
_AUGMENTED = _GRADIENT.under("if augmentation is above 0", "augmentation", holds=lambda c: c.augmentation > 0)


def _hyperparameter(default: Any, rule: Rule, affects: str, help_text: str, *, used_by: UsedBy = _GRADIENT) -> Any:
    """Declare a hyperparameter.

    Args:
        default: Its default value.
        rule: Returns the rule that a value violates, or None.
        affects: Names of ``EFFECTS``, separated by blanks.
        help_text: Its explanation for users, in Markdown.
        used_by: Networks in which it has an effect.
    """
    names = tuple(affects.split())
    if not names or not set(names) <= EFFECTS.keys():
        raise ValueError(f"A hyperparameter must affect one or more of {', '.join(EFFECTS)}; received '{affects}'.")
    metadata = {"rule": rule, "affects": names, "used_by": used_by, "help": help_text}
    return field(default=default, metadata=metadata)


class BranchConfig(NamedTuple):
    """A convolutional part of a network that may be pretrained: a published network or a convolution stack."""

    backbone: str
    cut: str
    weights: str

    @property
    def label(self) -> str:
        """A short name of the backbone for tables: without the path of an encoder."""
        return self.backbone if self.backbone == SCRATCH else find_backbone(self.backbone).label

    @property
    def is_pretrained(self) -> bool:
        """Whether training starts with it frozen: a published network, or a convolution stack with weights from a file."""
        return self.backbone != SCRATCH or self.weights not in NAMED_WEIGHTS


@dataclass(frozen=True, kw_only=True)
class TrialConfig:
    """The hyperparameters of a trial, which together determine its result.

    A search space may search or fix each of them by its name, except those that belong to a whole study (task, fit, epochs,
    seed).
    Images can be smaller than those of the study, but not larger.
    """

    family: str = _hyperparameter(
        "scratch",
        _one_of(*FAMILIES),
        "architecture",
        'Kind of network: "scratch" (a convolution stack with random weights), "fused" (shallow and deep feature '
        'maps joined), "transfer" (a pretrained backbone), "concat" (two branches joined) or "probe" (a logistic regression '
        "on the outputs of pretrained backbones).",
        used_by=_EVERY,
    )

    task: str = _hyperparameter(
        MULTICLASS,
        _one_of(*TASKS),
        "head loss training",
        'What a network predicts: "multiclass" (one class for each image; softmax) or "multilabel" (a probability for each '
        "finding; sigmoid). A study sets it from its data.",
        used_by=_EVERY,
    )
    image_size: int = _hyperparameter(
        112,
        _within(16, 2048),
        "architecture",
        "Height and width of the square input images in pixels.",
        used_by=_EVERY,
    )
    fit: str = _hyperparameter(
        "stretch",
        _one_of(*FITS),
        "training",
        'How an image becomes a square: "stretch" changes its aspect ratio, "pad" adds black borders at the short '
        'side, "crop" keeps the centre.',
        used_by=_EVERY,
    )
    n_features: int = _hyperparameter(
        0,
        _within(0, 1e6),
        "architecture",
        "Number of columns of the table of features that the images are replaced by. A study sets it from its table.",
        used_by=_WITH_TABLE,
    )
    input_channels: int = _hyperparameter(
        1,
        _one_of(1, 3),
        "architecture",
        "Number of channels that the grey channel is repeated to, 1 or 3. Published backbones always take 3.",
        used_by=_OWN_INPUT,
    )
    scaling: str = _hyperparameter(
        "symmetric",
        _one_of(*SCALINGS),
        "architecture",
        'How pixels are scaled: "symmetric" to -1..1, "unit" to 0..1, "standard" to mean 0 and variance 1 in each image, which '
        "removes differences of exposure. Published backbones have their own preprocessing.",
        used_by=_OWN_INPUT,
    )
    otsu: bool = _hyperparameter(
        False,
        _any_value,
        "architecture",
        "Whether to keep only the pixels that are, after blurring, below the Otsu threshold of their image. The "
        "other pixels become black.",
    )
    resizer: float = _hyperparameter(
        0.0,
        _resizer_rule,
        "architecture",
        "Size ratio of a learnable resizer (Talebi & Milanfar 2021) in front of the network; 0 for none.",
    )
    downsample: int = _hyperparameter(
        1,
        _within(1, 64),
        "architecture augmentation",
        "Factor by which the height and width of the image are averaged down in front of the network; 1 for none. With it, "
        "small networks can share the images of pretrained ones, which need more pixels.",
    )

    layers: str = _hyperparameter(
        "",
        _conv_spec_rule,
        "architecture",
        'The whole convolution stack in the notation of ``conv_spec.py``, such as "conv32k3 bn pool2". If empty, '
        "n_blocks to block_dropout describe the stack.",
        used_by=_STACK,
    )
    n_blocks: int = _hyperparameter(
        4,
        _within(1, 8),
        "architecture",
        "Number of convolution blocks. Each block ends in a 2x2 pool.",
        used_by=_BLOCKS,
    )
    convs_per_block: int = _hyperparameter(
        1,
        _within(1, 4),
        "architecture",
        "Number of convolutions before the pool of a block.",
        used_by=_BLOCKS,
    )
    filters: int = _hyperparameter(
        32,
        _within(1, 1024),
        "architecture",
        "Number of filters of the first convolution. The numbers of the later convolutions are derived from it: by "
        "filter_growth in a stack, in the published ratio 96 : 256 : 384 : 384 : 256 in fused.",
        used_by=_FILTERS,
    )
    filter_growth: float = _hyperparameter(
        2.0,
        _within(0.5, 4.0),
        "architecture",
        "Factor on the number of filters from one block to the next. At most 512 filters are used.",
        used_by=_BLOCKS,
    )
    kernel_size: int = _hyperparameter(
        3,
        _within(1, 15),
        "architecture",
        "Height and width of the convolution kernels in pixels.",
        used_by=_BLOCKS,
    )
    batch_norm: bool = _hyperparameter(
        True,
        _any_value,
        "architecture",
        "Whether batch normalisation follows each convolution.",
        used_by=_BLOCKS,
    )
    block_dropout: float = _hyperparameter(
        0.0,
        _within(0.0, 0.9),
        "architecture",
        "Dropout rate after each block.",
        used_by=_BLOCKS,
    )
    taps: str = _hyperparameter(
        "1+2+5",
        _taps_rule,
        "architecture",
        'Pools whose feature maps are joined before the head, such as "1+2+5". "5" is the network without shallow '
        "feature maps.",
        used_by=UsedBy(("fused",)),
    )

    backbone: str = _hyperparameter(
        "densenet121",
        _backbone_rule,
        "architecture",
        "The published network, or onnx:FILE, an encoder in an ONNX file, which is not trained. In concat, "
        '"scratch" is possible too: a convolution stack that layers, or n_blocks to block_dropout, describe.',
        used_by=_PRETRAINED,
    )
    cut: str = _hyperparameter(
        "",
        _any_value,
        "architecture",
        "Last layer of the backbone that is used: the name of a layer, the number of a splice point (`automl-cxr "
        'describe` lists them), or "" for the whole backbone.',
        used_by=_PRETRAINED,
    )
    weights: str = _hyperparameter(
        "imagenet",
        _not_blank,
        "architecture",
        'Initial weights of the backbone: "imagenet", "chexnet", "none" (random) or the path of a file, which may '
        "be a trained network of this program. A scratch branch takes only the path of such a network; with a "
        "name, its weights are random.",
        used_by=_WITH_WEIGHTS,
    )
    second_backbone: str = _hyperparameter(
        SCRATCH,
        _backbone_rule,
        "architecture",
        "The network of the second branch; see backbone.",
        used_by=_CONCAT,
    )
    second_cut: str = _hyperparameter(
        "",
        _any_value,
        "architecture",
        "Last layer of the second branch that is used; see cut.",
        used_by=_CONCAT,
    )
    second_weights: str = _hyperparameter(
        "imagenet",
        _not_blank,
        "architecture",
        "Initial weights of the second branch; see weights.",
        used_by=_CONCAT,
    )
    heads: str = _hyperparameter(
        "",
        _any_value,
        "head",
        "Folder of the output layers that a splice search has fitted to pairs of cuts. The features are "
        'standardised as for the fit, and training starts from the fitted layer. "" starts from random weights.',
        used_by=_CONCAT.under(
            "if projection=0 and n_dense=0", "projection", "n_dense", holds=lambda c: c.projection == 0 and c.n_dense == 0
        ),
    )
    projection: int = _hyperparameter(
        0,
        _within(0, 8192),
        "architecture",
        "Units of a dense layer that is applied at each position of the feature maps of a branch; 0 for none.",
        used_by=_CONCAT,
    )
    probe_layers: str = _hyperparameter(
        "efficientnetlite0@11",
        _layers_rule,
        "architecture",
        "Layers whose outputs, pooled over all positions, are the features of a probe: backbone@splice point (its name, or "
        'its number from 1), joined by "+", such as "efficientnetlite0@11+squeezenet@6".',
        used_by=_PROBE,
    )
    probe_pooling: str = _hyperparameter(
        AVERAGE,
        _one_of(*PROBE_POOLINGS),
        "architecture",
        'What the features of a probe are, over all positions of a layer: "average", or "average+deviation" for averages and '
        "standard deviations.",
        used_by=_PROBE_WITH_POSITIONS,
    )
    probe_kernel: str = _hyperparameter(
        "linear",
        _one_of(*PROBE_KERNELS),
        "architecture",
        'Input of a probe\'s logistic regression: "linear" (standardised features) or "rbf" (their radial basis function '
        "kernel with up to 512 training images).",
        used_by=_PROBE,
    )
    probe_mirrored: bool = _hyperparameter(
        False,
        _any_value,
        "architecture",
        "Whether the features of a probe are averaged over an image and its mirror image.",
        used_by=_PROBE,
    )
    logistic_c: float = _hyperparameter(
        0.0,
        _within(0.0, 1e6),
        "head",
        "Inverse of the regularisation strength of a probe's logistic regression; 0 chooses it out of fold by patient among "
        "the training images.",
        used_by=_PROBE,
    )
    unfreeze: int = _hyperparameter(
        0,
        _within(0, 10_000),
        "architecture",
        "Number of layers with weights that are trained in each backbone, counted back from its cut. 0 trains "
        "none; a number above the number of layers trains all.",
        used_by=_PRETRAINED.under("if unfreeze_from is empty", "unfreeze_from", holds=lambda c: c.unfreeze_from == ""),
    )
    unfreeze_from: str = _hyperparameter(
        "",
        _any_value,
        "architecture",
        "Name of the first backbone layer that is trained; replaces unfreeze.",
        used_by=_PRETRAINED,
    )
    frozen_share: float = _hyperparameter(
        0.0,
        _within(0.0, 1.0),
        "training",
        "Share of the epochs, rounded up, in which the backbones are frozen before unfreeze or unfreeze_from takes effect.",
        used_by=_UNFROZEN,
    )
    fine_tune_rate: float = _hyperparameter(
        1e-5,
        _within(0.0, 10.0, low_is_open=True),
        "optimizer",
        "Highest learning rate of the epochs after the frozen ones.",
        used_by=_TWO_PHASES,
    )
    freeze_norm: bool = _hyperparameter(
        False,
        _any_value,
        "architecture",
        "Whether batch normalisation in backbones keeps its pretrained averages and weights while the layers "
        "around it are trained. A head that a splice search fitted requires it.",
        used_by=_UNFROZEN,
    )

    pooling: str = _hyperparameter(
        "average",
        _one_of(*POOLINGS),
        "architecture",
        'How the last feature maps become the feature vector: "average" or "max" over all positions, or "flatten".',
        used_by=UsedBy(("scratch", "fused", "transfer")),
    )
    normalise: bool = _hyperparameter(
        False,
        _any_value,
        "architecture",
        "Whether the feature vector of each image, or of each branch in concat, is normalised to mean 0 and variance 1 before "
        "the head (layer normalisation without weights). The scale of features differs between networks, and no learning rate "
        "suits all scales.",
        used_by=_GRADIENT.under(
            "unless training starts from a fitted head of heads", "heads", holds=lambda c: c.head_file is None
        ),
    )
    n_dense: int = _hyperparameter(
        1,
        _within(0, 5),
        "head",
        "Number of hidden dense layers of the head.",
    )
    dense_units: int = _hyperparameter(
        128,
        _within(1, 8192),
        "head",
        "Units of the first hidden dense layer.",
        used_by=_EVERY.under("if n_dense is above 0", "n_dense", holds=lambda c: c.n_dense > 0),
    )
    dense_growth: float = _hyperparameter(
        1.0,
        _within(0.1, 4.0),
        "head",
        "Factor on the units from one hidden dense layer to the next.",
        used_by=_EVERY.under("if n_dense is above 1", "n_dense", holds=lambda c: c.n_dense > 1),
    )
    dropout: float = _hyperparameter(
        0.3,
        _within(0.0, 0.9),
        "head",
        "Dropout rate after each hidden dense layer, or before the output layer if there is no hidden layer.",
    )

    loss: str = _hyperparameter(
        "ce",
        _one_of(*LOSSES),
        "loss",
        'Training loss: "ce" (cross-entropy; for findings, binary cross-entropy), "focal" (Lin et al. 2017) or, for findings '
        'only, "asymmetric" (Ridnik et al. 2021).',
    )
    focal_gamma: float = _hyperparameter(
        2.0,
        _within(0.0, 10.0),
        "loss",
        "Exponent on one minus the probability of the true class, or of the true state of a finding; 0 gives cross-entropy.",
        used_by=_FOCAL,
    )
    focal_alpha: str = _hyperparameter(
        "1",
        _alphas_rule,
        "loss",
        "Weight of the classes or findings: one number for all, or one for each in their order, joined by commas. It "
        "multiplies the class weights of imbalance.",
        used_by=_FOCAL,
    )
    asymmetric_gamma_positive: float = _hyperparameter(
        0.0,
        _within(0.0, 10.0),
        "loss",
        "Exponent on one minus the probability of a finding that is present.",
        used_by=_ASYMMETRIC,
    )
    asymmetric_gamma_negative: float = _hyperparameter(
        4.0,
        _within(0.0, 10.0),
        "loss",
        "Exponent on the probability, less the margin, of a finding that is absent.",
        used_by=_ASYMMETRIC,
    )
    asymmetric_margin: float = _hyperparameter(
        0.05,
        _within(0.0, 0.9),
        "loss",
        "Probability below which a finding that is absent has no loss. It is subtracted from the probabilities of absent "
        "findings.",
        used_by=_ASYMMETRIC,
    )
    label_smoothing: float = _hyperparameter(
        0.0,
        _within(0.0, 0.5),
        "loss",
        "Share of the target probability that is spread evenly over all classes, or over the two states of a finding.",
    )
    optimizer: str = _hyperparameter(
        "adam",
        _one_of(*OPTIMIZERS),
        "optimizer",
        'Keras optimizer: "adam", "adamw", "rmsprop", "sgd" (Nesterov momentum 0.9) or "adadelta".',
    )
    learning_rate: float = _hyperparameter(
        1e-3,
        _within(0.0, 10.0, low_is_open=True),
        "optimizer",
        "Highest learning rate; see warmup, schedule and scaled_rate.",
    )
    scaled_rate: bool = _hyperparameter(
        False,
        _any_value,
        "optimizer",
        "Whether learning_rate and fine_tune_rate are meant for Adam with 32 images per step. They are then multiplied by a "
        "factor of the optimizer (adam, adamw and rmsprop 1, sgd 10, adadelta 300) and by the square root of batch_size / "
        "32 (for sgd, by batch_size / 32), so that one range suits all optimizers and batch sizes.",
    )
    warmup: float = _hyperparameter(
        0.0,
        _within(0.0, 0.5),
        "optimizer",
        "Share of the gradient steps of a phase, at its start, in which the learning rate rises from 0 to its highest value.",
        used_by=_BY_STEP,
    )
    schedule: str = _hyperparameter(
        "cosine",
        _one_of(*SCHEDULES),
        "optimizer",
        'Learning rate over a phase: "cosine" lowers it in each step, to 0 at the end of the last epoch (Loshchilov & Hutter '
        '2017), "plateau" multiplies it by plateau_factor when the monitored value stops improving, "constant" leaves it '
        "unchanged.",
    )
    plateau_factor: float = _hyperparameter(
        0.5,
        _within(0.01, 0.99),
        "optimizer",
        "Factor on the learning rate at each plateau.",
        used_by=_PLATEAU,
    )
    plateau_share: float = _hyperparameter(
        0.6,
        _within(0.0, 1.0, low_is_open=True),
        "optimizer",
        "Length of a plateau as a share of patience: epochs without improvement after which the learning rate is lowered.",
        used_by=_PLATEAU,
    )
    weight_decay: float = _hyperparameter(
        0.0,
        _within(0.0, 1.0),
        "optimizer",
        "Decoupled weight decay (Loshchilov & Hutter 2019): each step multiplies the weights by 1 - learning rate "
        "* weight_decay. It works with every optimizer.",
    )
    gradient_clip: float = _hyperparameter(
        0.0,
        _within(0.0, 1000.0),
        "optimizer",
        "Largest norm of the gradient of all weights together; a longer gradient is scaled to it. 0 for no limit.",
    )
    weight_average: float = _hyperparameter(
        0.0,
        _within(0.0, 1.0),
        "optimizer",
        "Share of the gradient steps of a phase over which weights are averaged (exponential moving average). The averages are "
        "validated and saved, while training continues from the weights themselves. 0 for no averages.",
    )
    batch_size: int = _hyperparameter(
        32,
        _within(1, 4096),
        "training",
        "Images per gradient step.",
    )
    gradient_accumulation: int = _hyperparameter(
        1,
        _within(1, 64),
        "training optimizer",
        "Number of parts that a batch is computed in, one after the other, if it does not fit into memory. Their "
        "gradients are averaged. Batch normalisation uses the statistics of one part.",
    )
    epochs: int = _hyperparameter(
        30,
        _within(1, 10_000),
        "training",
        "Maximum number of passes over the training images.",
    )
    patience: int = _hyperparameter(
        10,
        _within(1, 10_000),
        "training",
        "Number of epochs without improvement of the monitored value after which training, or its frozen phase, stops early.",
    )
    monitor: str = _hyperparameter(
        "score",
        _one_of(*MONITORS),
        "training",
        'Validation value that selects the epoch and triggers early stopping: the "score" of the study, "loss" '
        '(always the cross-entropy) or "accuracy".',
    )
    imbalance: str = _hyperparameter(
        "class_weights",
        _one_of(*IMBALANCES),
        "training",
        'Treatment of unequal class sizes: "class_weights" weights each of N images by N / (number of classes * '
        'size of its class), "oversample" repeats images of the smaller classes until all are as large as the '
        'largest, "undersample" uses in each epoch another part of the larger classes, "undersample+class_weights" '
        'weights that part, "none" uses the images as they are. For findings, "class_weights" weights the labels of each '
        "finding by the share of the opposite label, so that both labels have the same sum of weights (Rajpurkar et al. 2017), "
        'and only "none" is possible besides.',
        used_by=_EVERY,
    )
    undersample_ratio: float = _hyperparameter(
        1.0,
        _within(1.0, 1000.0),
        "training",
        "Maximum number of images of a class per epoch, as a multiple of the size of the smallest class.",
        used_by=_EVERY.under("if imbalance undersamples", "imbalance", holds=lambda c: "undersample" in c.imbalance),
    )
    uncertain_targets: str = _hyperparameter(
        "ignore",
        _uncertain_rule,
        "training",
        'What training uses for uncertain labels of findings: "ignore" (no target), "zeros", "ones" or a range such as '
        '"0.55-0.85", from which the target probability of each label is drawn with the seed (Pham et al. 2021); one for all '
        "findings, or one for each in their order, joined by commas.",
        used_by=_MULTILABEL,
    )
    precision: str = _hyperparameter(
        "auto",
        _one_of(*PRECISIONS),
        "architecture head",
        'Number format of the layers: "float32"; "mixed" for bfloat16 on a GPU, with weights, probabilities and losses in '
        'float32; or "auto" for "mixed" where the device is faster with it (a TPU, or an NVIDIA GPU from Ampere on) and more '
        'than a head is trained, else "float32". Trials record the format that they used. On a CPU it is "float32".',
        used_by=_EVERY,
    )
    features: str = _hyperparameter(
        "float32",
        _one_of(*FEATURES),
        "training",
        'Whether the outputs of frozen layers are computed once and cached, as "float32" or as "float16" (half the '
        'disk space, three significant digits), or computed again in each epoch from "pixels".',
        used_by=_PRETRAINED,
    )

    augmentation: float = _hyperparameter(
        0.0,
        _within(0.0, 1.0),
        "augmentation",
        "Strength of the augmentation from 0 (none) to 1. It multiplies each of the ranges below. An image is mirrored, "
        "rotated, shifted, zoomed and sheared in one interpolation; then its brightness and contrast are changed. Training "
        "images only.",
    )
    views: int = _hyperparameter(
        0,
        _within(0, 100),
        "augmentation",
        "Number of augmented views of each image that are drawn once, so that features of frozen layers can be "
        "cached; epochs use them in rotation. 0 draws new views in each epoch and computes from pixels.",
        used_by=_PRETRAINED.under(
            "if augmentation is above 0 and features are cached",
            *("augmentation", "features"),
            holds=lambda c: c.augmentation > 0 and c.features != "pixels",
        ),
    )
    flip: bool = _hyperparameter(
        True,
        _any_value,
        "augmentation",
        "Whether images are mirrored left to right at random, regardless of the strength.",
        used_by=_AUGMENTED,
    )
    rotation_low: float = _hyperparameter(
        -18.0,
        _within(-180.0, 0.0),
        "augmentation",
        "Lower end of the range of rotations, in degrees counter-clockwise.",
        used_by=_AUGMENTED,
    )
    rotation_high: float = _hyperparameter(
        18.0,
        _within(0.0, 180.0),
        "augmentation",
        "Upper end of the range of rotations, in degrees counter-clockwise.",
        used_by=_AUGMENTED,
    )
    shear: float = _hyperparameter(
        0.0,
        _within(0.0, 45.0),
        "augmentation",
        "Largest horizontal shear to either side, in degrees.",
        used_by=_AUGMENTED,
    )
    shift: float = _hyperparameter(
        0.1,
        _within(0.0, 0.5),
        "augmentation",
        "Largest shift in each direction, as a share of the image size.",
        used_by=_AUGMENTED,
    )
    zoom: float = _hyperparameter(
        0.1,
        _within(0.0, 0.5),
        "augmentation",
        "Largest zoom in or out, as a share of the image size.",
        used_by=_AUGMENTED,
    )
    brightness: float = _hyperparameter(
        0.2,
        _within(0.0, 1.0),
        "augmentation",
        "Largest change of brightness up or down, as a share; see brightening.",
        used_by=_AUGMENTED,
    )
    brightening: str = _hyperparameter(
        "add",
        _one_of(*BRIGHTENINGS),
        "augmentation",
        'What brightness is a share of: "add" adds a share of the range from black to white, "multiply" changes '
        "each pixel by a share of its value.",
        used_by=_AUGMENTED.under("if brightness is above 0", "brightness", holds=lambda c: c.brightness > 0),
    )
    contrast: float = _hyperparameter(
        0.3,
        _within(0.0, 1.0),
        "augmentation",
        "Largest change of contrast, as a share of the distance of each pixel from the mean.",
        used_by=_AUGMENTED,
    )
    fill: str = _hyperparameter(
        "constant",
        _one_of(*FILLS),
        "augmentation",
        'Pixels beyond the edge of a rotated, sheared, shifted or zoomed image: "constant" (black), "nearest", '
        '"reflect" or "wrap".',
        used_by=_AUGMENTED,
    )

    seed: int = _hyperparameter(
        0,
        _within(0, 2**31 - 1),
        "training",
        "Seed of the initial weights, the order of the images, dropout and augmentation, and the folds of a probe.",
        used_by=_EVERY,
    )

    def __post_init__(self) -> None:
        for item in fields(self):
            value = _cast(item.name, item.type, getattr(self, item.name))
            violated = item.metadata["rule"](value)
            if violated is not None:
                raise UsageError(f"Hyperparameter '{item.name}' {violated}; received {value!r}.")
            object.__setattr__(self, item.name, value)

    @property
    def is_multilabel(self) -> bool:
        """Whether the network predicts a probability for each finding, instead of one class."""
        return self.task == MULTILABEL

    def uncertain_ranges(self, n_findings: int) -> list[tuple[float, float] | None]:
        """Return the range of the target probabilities of uncertain labels of each finding; None if they are not used.

        Raises:
            ImpossibleModelError: ``uncertain_targets`` contains neither one entry nor one for each finding.
        """
        ranges = _parse_uncertain_targets(self.uncertain_targets)
        if len(ranges) not in (1, n_findings):
            raise ImpossibleModelError(
                f"Hyperparameter 'uncertain_targets' must contain 1 entry or {n_findings}, one for each finding; received "
                f"{len(ranges)} ('{self.uncertain_targets}'). `automl-cxr data inspect` shows the findings of the data."
            )
        return ranges * (n_findings // len(ranges))

    def focal_alphas(self, n_classes: int) -> list[float]:
        """Return the weight of each class or finding in the focal loss.

        Raises:
            ImpossibleModelError: ``focal_alpha`` contains neither one number nor one number for each class.
        """
        alphas = [float(number) for number in self.focal_alpha.split(",")]
        if len(alphas) not in (1, n_classes):
            raise ImpossibleModelError(
                f"Hyperparameter 'focal_alpha' must contain 1 number or {n_classes}, one for each class; "
                f"received {len(alphas)} ('{self.focal_alpha}'). `automl-cxr data inspect` shows the classes of the data."
            )
        return alphas * (n_classes // len(alphas))

    def refuse_conflicts(self, n_classes: int) -> None:
        """Refuse values that are not possible for the task or for the number of classes or findings.

        Raises:
            ImpossibleModelError: The loss or the treatment of imbalance does not exist for the task, ``focal_alpha`` or
                ``uncertain_targets`` is used and has another number of entries, or layers of an encoder would be trained.
        """
        self._refuse_pixels()
        if self.reads("unfreeze") and (self.unfreeze or self.unfreeze_from) and self._has_only_encoders:
            raise ImpossibleModelError(
                "An encoder in an ONNX file has no gradients and is not trained; received "
                f"unfreeze={self.unfreeze}, unfreeze_from='{self.unfreeze_from}'. Use unfreeze=0."
            )
        if self.loss == ASYMMETRIC and not self.is_multilabel:
            raise ImpossibleModelError(
                f"loss={ASYMMETRIC} needs several findings; received task={self.task}. Use loss=ce or loss=focal."
            )
        if self.is_multilabel and self.imbalance not in IMBALANCES_OF_FINDINGS:
            raise ImpossibleModelError(
                f"With several findings, imbalance must be {' or '.join(IMBALANCES_OF_FINDINGS)}, because an image that is "
                f"repeated or left out changes the counts of all findings; received {self.imbalance}. Use imbalance=none."
            )
        if self.reads("focal_alpha"):
            self.focal_alphas(n_classes)
        if self.reads("uncertain_targets"):
            self.uncertain_ranges(n_classes)

    def _refuse_pixels(self) -> None:
        """Refuse values that need pixels if the input is a row of a table of features.

        Raises:
            ImpossibleModelError: There is such a value, or another backbone.
        """
        names = {branch.backbone for branch in self.branches}
        if TABLE not in names:
            return
        if len(names) > 1 or self.family == "concat":
            raise ImpossibleModelError(
                f"A network with the table of features takes no images; received {', '.join(sorted(names))} in family "
                f"{self.family}. Use backbone={TABLE} in family transfer, or probe_layers={TABLE}@{TABLE}."
            )
        changed = [name for name in _NEED_PIXELS if self.reads(name) and getattr(self, name) != getattr(TrialConfig, name)]
        if changed:
            raise ImpossibleModelError(
                f"Hyperparameters of images and of their network have no effect on a table of features; received "
                f"{', '.join(f'{name}={getattr(self, name)}' for name in changed)}. Omit them."
            )

    @property
    def takes_features(self) -> bool:
        """Whether the input of the network is a row of a table of features instead of an image."""
        return any(branch.backbone == TABLE for branch in self.branches)

    @property
    def input_size(self) -> int:
        """Height and width of the input images in pixels, or the number of features."""
        return self.n_features if self.takes_features else self.image_size

    @property
    def _has_only_encoders(self) -> bool:
        return all(is_encoder(branch.backbone) for branch in self.branches)

    @property
    def frozen_epochs(self) -> int:
        """Maximum number of epochs before ``unfreeze`` takes effect; 0 if there is one phase only."""
        is_pretrained = any(branch.is_pretrained for branch in self.branches)
        is_unfrozen = is_pretrained and (self.unfreeze > 0 or self.unfreeze_from != "")
        return math.ceil(round(self.frozen_share * self.epochs, 9)) if is_unfrozen else 0  # 0.07 * 100 is just above 7

    @property
    def trains_head_only(self) -> bool:
        """Whether only the head is trained, on features that are the same in every epoch and for every seed."""
        is_frozen = self.unfreeze == 0 and self.unfreeze_from == "" and self.resizer == 0
        is_projected = self.family == "concat" and self.projection > 0
        is_cached = self.features != "pixels" and (self.augmentation == 0 or self.views > 0)
        is_plain = self.gradient_accumulation == 1 and self.precision != "mixed"
        has_weights = bool(self.branches) and all(
            branch.backbone != SCRATCH and branch.weights != NONE for branch in self.branches
        )
        has_epochs = FAMILIES[self.family].has_gradient_steps and self.head_file is None
        return has_epochs and has_weights and is_frozen and not is_projected and is_cached and is_plain

    @property
    def branches(self) -> tuple[BranchConfig, ...]:
        """The parts of the network that may be pretrained, in order; empty for a family without any."""
        if self.family == "probe":
            names = dict.fromkeys(layer.backbone for layer in self.probed)
            return tuple(BranchConfig(name, "", self.weights) for name in names)
        first = BranchConfig(self.backbone, self.cut, self.weights)
        second = BranchConfig(self.second_backbone, self.second_cut, self.second_weights)
        return (first, second)[: FAMILIES[self.family].n_branches]

    @property
    def kind(self) -> str:
        """The family, with the names of the backbones. Networks of different kinds make different errors."""
        return "+".join([self.family, *sorted(branch.label for branch in self.branches)])

    @property
    def probed(self) -> tuple[BackboneLayer, ...]:
        """The layers of ``probe_layers``, those of each backbone together."""
        named = parse_backbone_layers(self.probe_layers)
        backbones = list(dict.fromkeys(layer.backbone for layer in named))
        return tuple(sorted(named, key=lambda layer: backbones.index(layer.backbone)))

    def has_deviations(self, backbone: str) -> bool:
        """Return whether the features of a probe contain standard deviations over the positions of a backbone's layers."""
        return self.probe_pooling == AVERAGE_AND_DEVIATION and find_backbone(backbone).has_positions

    @property
    def head_file(self) -> Path | None:
        """File of the output layer that training starts from; None for random weights."""
        is_used = self.family == "concat" and self.heads != "" and self.projection == 0 and self.n_dense == 0
        return Path(self.heads) / f"{self.cut}+{self.second_cut}.npz" if is_used else None

    @property
    def images_at_once(self) -> int:
        """Number of images that are computed together: a batch, or a part of one."""
        return math.ceil(self.batch_size / self.gradient_accumulation)

    def reads(self, name: str) -> bool:
        """Return whether a hyperparameter has an effect in this configuration."""
        used_by = used_by_of(name)
        return self.family in used_by.families and used_by.holds(self)

    def effective(self, names: Iterable[str]) -> dict[str, Any]:
        """Return the values of those hyperparameters that have an effect in this configuration.

        Two configurations with the same values give the same network and the same training.
        """
        return {name: getattr(self, name) for name in names if self.reads(name)}

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Return the name of every hyperparameter."""
        return tuple(item.name for item in fields(cls))

    @classmethod
    def names_affecting(cls, *effects: str) -> tuple[str, ...]:
        """Return the names of the hyperparameters that affect one or more of some ``EFFECTS``."""
        return tuple(item.name for item in fields(cls) if set(effects) & set(item.metadata["affects"]))

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> TrialConfig:
        """Create a configuration from named values, with defaults for the others.

        Raises:
            UnknownNameError: A name is not a hyperparameter.
            UsageError: A value has another type or is out of its range.
        """
        for name in values:
            if name not in cls.names():
                raise UnknownNameError("hyperparameter", name, cls.names())
        return cls(**values)

    @classmethod
    def from_json(cls, text: str) -> TrialConfig:
        """Restore a configuration from ``to_json``.

        Raises:
            ValueError: The text is not such a record, or a value is impossible.
        """
        return cls.from_values(parse_json_object(text))

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=1)


def used_by_of(name: str) -> UsedBy:
    """Return the networks in which a hyperparameter has an effect.

    Raises:
        UnknownNameError: The name is not a hyperparameter.
    """
    return _metadata_of(name)["used_by"]


def read_value(name: str, text: str) -> Any:
    """Parse the value of a hyperparameter from the command line, such as "3", "0.5", "true" or "focal".

    Raises:
        UnknownNameError: The name is not a hyperparameter.
        UsageError: The text is not a value of its type.
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


def _metadata_of(name: str) -> Mapping[str, Any]:
    metadata = {item.name: item.metadata for item in fields(TrialConfig)}
    if name not in metadata:
        raise UnknownNameError("hyperparameter", name, metadata)
    return metadata[name]


def _cast(name: str, type_name: Any, value: Any) -> Any:
    """Convert an int to a float where a float is required, and NumPy scalars to Python numbers; refuse all other types."""
    value = value.item() if hasattr(value, "item") else value
    if type_name == "float" and isinstance(value, int) and not isinstance(value, bool):
        return float(value) if abs(value) < _LARGEST_FLOAT else math.inf
    if type(value).__name__ != type_name:
        raise UsageError(f"Hyperparameter '{name}' must be of type {type_name}; received {value!r}.")
    return value


def _reference() -> str:
    """Write the attributes of ``TrialConfig`` as a section of its docstring, from the metadata of its fields."""
    lines = ["    Attributes:"]
    for item in fields(TrialConfig):
        used_by, affects = item.metadata["used_by"], ", ".join(item.metadata["affects"])
        notes = [f"Affects: {affects}."] + ([] if used_by == _EVERY else [f"Used by {used_by}."])
        default = json.dumps(item.default)
        lines.append(f"        {item.name}: {item.metadata['help']} Default: {default}. {' '.join(notes)}")
    return "\n".join(lines)


def _effects() -> str:
    """Write the definitions of ``EFFECTS`` as sentences."""
    definitions = "; ".join(f"{name} ({text})" for name, text in EFFECTS.items())
    return f"    Each hyperparameter affects one or more parts of a training: {definitions}."


if TrialConfig.__doc__ is not None:  # python -OO removes docstrings
    TrialConfig.__doc__ = f"{TrialConfig.__doc__.rstrip()}\n\n{_effects()}\n\n{_reference()}\n"
