"""What training a network needs of memory, and refusing what cannot fit before it is built."""

from __future__ import annotations

import dataclasses
import functools
import math
from dataclasses import dataclass

from automl_cxr.config import SCRATCH, TrialConfig
from automl_cxr.errors import InfeasibleError
from automl_cxr.model.available_memory import available_memory_bytes
from automl_cxr.model.summary import ModelSummary, describe_model, describe_with_head

MEMORY = "memory"  # name of the constraint, and what a refused trial says it was stopped by

_FLOAT_BYTES = 4  # of weights, gradients and moments, in mixed precision too
_MOMENTS = {"adam": 2, "adamw": 2, "rmsprop": 1, "sgd": 1, "adadelta": 2}  # numbers for each that is trained
# Hyperparameters that change no shape; networks that differ in these alone are counted once.
_SHAPELESS = (
    *("fit", "scaling", "heads", "fine_tune_rate", "loss", "focal_gamma", "focal_alpha"),
    *("label_smoothing", "optimizer", "learning_rate", "schedule", "plateau_factor", "plateau_share", "weight_decay"),
    *("batch_size", "gradient_accumulation", "patience", "monitor", "imbalance", "undersample_ratio", "seed", "dropout"),
    *("flip", "rotation_low", "rotation_high", "shear", "shift", "zoom", "brightness", "brightening", "contrast", "fill"),
    *("features", "views"),
)
_HEAD = ("n_dense", "dense_units", "dense_growth")  # what shapes a head


@dataclass(frozen=True, kw_only=True)
class TrainingSize:
    """What a network costs, known without building it.

    Attributes:
        parameters: Numbers that it holds.
        multiply_adds: Multiplications with a parameter for one image.
        weight_bytes: Bytes of the weights.
        gradient_bytes: Bytes of the gradients.
        moment_bytes: Bytes that the optimizer keeps.
        activation_bytes: Bytes of the layers' outputs for one image.
    """

    parameters: int
    multiply_adds: int
    weight_bytes: int
    gradient_bytes: int
    moment_bytes: int
    activation_bytes: int

    def needed(self, batch_size: int) -> int:
        """Bytes that training takes; the process itself, its libraries and their buffers come on top."""
        return self.weight_bytes + self.gradient_bytes + self.moment_bytes + batch_size * self.activation_bytes


def measure_size(config: TrialConfig, n_classes: int) -> TrainingSize:
    """Count what training a configuration needs.

    Takes 20 ms for a network from scratch and half a second for DenseNet121, once for each that differs in shape. Where only
    heads are trained, all on one trunk are counted with the first of them.

    Raises:
        ImpossibleModelError: The configuration describes no network.
    """
    plain = TrialConfig()
    shape = dataclasses.replace(config, **{name: getattr(plain, name) for name in _SHAPELESS})
    if config.backbone != SCRATCH:  # a scratch branch is frozen at first where it has weights
        shape = dataclasses.replace(shape, weights=plain.weights)
    if config.second_backbone != SCRATCH:
        shape = dataclasses.replace(shape, second_weights=plain.second_weights)
    if not config.trains_head_only:
        return size_of(_count(shape, n_classes), config)
    trunk = dataclasses.replace(shape, **{name: getattr(plain, name) for name in _HEAD})
    return size_of(describe_with_head(_count(trunk, n_classes), config, n_classes), config)


_count = functools.lru_cache(maxsize=256)(describe_model)


def size_of(counted: ModelSummary, config: TrialConfig) -> TrainingSize:
    """Tell what training a counted network needs, in the phase that trains most of it."""
    gradient_bytes = _FLOAT_BYTES * counted.trainable
    sums = 1 if config.gradient_accumulation > 1 else 0  # of gradients, kept until the batch is complete
    return TrainingSize(
        parameters=counted.parameters,
        multiply_adds=counted.multiply_adds,
        weight_bytes=counted.weight_bytes,
        gradient_bytes=gradient_bytes,
        moment_bytes=(_MOMENTS[config.optimizer] + sums) * gradient_bytes,
        activation_bytes=counted.activation_bytes,
    )


def refuse_oversized(size: TrainingSize) -> None:
    """Refuse a network that cannot be trained here even one image at a time.

    Raises:
        InfeasibleError: It needs more memory than this process has. Its violation is the logarithm of the ratio.
    """
    there = available_memory_bytes()
    needed = size.needed(batch_size=1)
    if there is not None and needed > there:
        raise InfeasibleError(
            f"memory: training needs about {show_bytes(needed)} with one image at a time, {size.parameters:,} parameters; "
            f"there are {show_bytes(there)}",
            stopped_by=MEMORY,
            violations={MEMORY: math.log(needed / there)},
            facts={"n_parameters": size.parameters},
        )


@dataclass(frozen=True, kw_only=True)
class MemoryEstimate:
    """What a training needs beside what there is, in bytes.

    Attributes:
        one_image: With one image at a time.
        each_image: For each further image of a batch.
        batch_size: Images that are computed together.
        batch: With so many at a time.
        there: What this process may use; None where the system does not tell.
    """

    one_image: int
    each_image: int
    batch_size: int
    batch: int
    there: int | None

    @property
    def fits(self) -> bool:
        """Whether it can be trained here, at least one image at a time."""
        return self.there is None or self.one_image <= self.there


def estimate_memory(counted: ModelSummary, config: TrialConfig) -> MemoryEstimate:
    """Compare what a counted network needs with what there is."""
    size = size_of(counted, config)
    return MemoryEstimate(
        one_image=size.needed(1),
        each_image=size.activation_bytes,
        batch_size=config.images_at_once,
        batch=size.needed(config.images_at_once),
        there=available_memory_bytes(),
    )


def show_bytes(n: float) -> str:
    """Write bytes for people, such as "3.2 GB"."""
    for unit in ("B", "kB", "MB", "GB"):
        if n < 1000:
            return f"{n:.3g} {unit}"
        n /= 1000
    return f"{n:,.4g} TB"
