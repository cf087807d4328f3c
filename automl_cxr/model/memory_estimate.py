"""Memory that training a network needs, counted without building it, and the refusal of networks that cannot fit."""

from __future__ import annotations

import dataclasses
import functools
import math
from dataclasses import dataclass

from automl_cxr.config import SCRATCH, TrialConfig
from automl_cxr.errors import InfeasibleError
from automl_cxr.model.available_memory import available_memory_bytes
from automl_cxr.model.summary import ModelSummary, describe_model, describe_with_head

MEMORY = "memory"  # name of the constraint, and of the reason in the record of a refused trial

_FLOAT_BYTES = 4  # of weights, gradients and moments, in mixed precision too
_MOMENTS = {"adam": 2, "adamw": 2, "rmsprop": 1, "sgd": 1, "adadelta": 2}  # numbers per trained weight
_HEAD = TrialConfig.names_affecting("head")
# Hyperparameters that affect layer shapes. Networks with equal values of these have the same layer shapes and are counted once.
# A dropout layer has no weights, so its rate is not one of them.
_SHAPE_HYPERPARAMETERS = frozenset(TrialConfig.names_affecting("architecture", "head")) - {"dropout"}
_OTHER_HYPERPARAMETERS = tuple(name for name in TrialConfig.names() if name not in _SHAPE_HYPERPARAMETERS)


@dataclass(frozen=True, kw_only=True)
class TrainingSize:
    """The size of a network and of its training, known without building it.

    Attributes:
        parameters: Number of weights.
        multiply_adds: Multiplications with a weight for one image.
        weight_bytes: Bytes of the weights.
        gradient_bytes: Bytes of the gradients.
        moment_bytes: Bytes of the optimizer's state.
        activation_bytes: Bytes of the layers' outputs for one image.
    """

    parameters: int
    multiply_adds: int
    weight_bytes: int
    gradient_bytes: int
    moment_bytes: int
    activation_bytes: int

    def needed(self, batch_size: int) -> int:
        """Return the bytes that training needs, in addition to those of the process, its libraries and their buffers."""
        return self.weight_bytes + self.gradient_bytes + self.moment_bytes + batch_size * self.activation_bytes


def measure_size(config: TrialConfig, n_classes: int) -> TrainingSize:
    """Count the size of a configuration's network and of its training.

    Takes 20 ms for a scratch network and half a second for DenseNet121, once for each combination of layer shapes. If only
    heads are trained, the network below them is counted once for all heads.

    Raises:
        ImpossibleModelError: The configuration does not describe a network.
    """
    default = TrialConfig()
    shape = dataclasses.replace(config, **{name: getattr(default, name) for name in _OTHER_HYPERPARAMETERS})
    # The numbers of epochs matter only because training may end before any backbone layer is unfrozen.
    is_always_frozen = 0 < config.epochs <= config.frozen_epochs
    shape = dataclasses.replace(shape, epochs=1, frozen_share=1.0 if is_always_frozen else 0.0)
    if config.backbone != SCRATCH:  # the weights of a scratch branch decide whether it is frozen at first
        shape = dataclasses.replace(shape, weights=default.weights)
    if config.second_backbone != SCRATCH:
        shape = dataclasses.replace(shape, second_weights=default.second_weights)
    if not config.trains_head_only:
        return size_of(_count(shape, n_classes), config)
    base = dataclasses.replace(shape, **{name: getattr(default, name) for name in _HEAD})
    return size_of(describe_with_head(_count(base, n_classes), config, n_classes), config)


_count = functools.lru_cache(maxsize=256)(describe_model)


def size_of(counted: ModelSummary, config: TrialConfig) -> TrainingSize:
    """Return the size of the training of a counted network, in the phase that trains most weights."""
    gradient_bytes = _FLOAT_BYTES * counted.trainable
    sums = 1 if config.gradient_accumulation > 1 else 0  # of the gradients of a batch's parts
    averages = 1 if config.weight_average > 0 else 0
    return TrainingSize(
        parameters=counted.parameters,
        multiply_adds=counted.multiply_adds,
        weight_bytes=counted.weight_bytes,
        gradient_bytes=gradient_bytes,
        moment_bytes=(_MOMENTS[config.optimizer] + sums + averages) * gradient_bytes,
        activation_bytes=counted.activation_bytes,
    )


def refuse_oversized(size: TrainingSize) -> None:
    """Refuse a network that cannot be trained here even with one image per step.

    Raises:
        InfeasibleError: It needs more memory than this process has. Its violation is the logarithm of the ratio.
    """
    available = available_memory_bytes()
    needed = size.needed(batch_size=1)
    if available is not None and needed > available:
        raise InfeasibleError(
            f"memory: training needs about {show_bytes(needed)} with one image at a time, {size.parameters:,} parameters; "
            f"{show_bytes(available)} are available",
            stopped_by=MEMORY,
            violations={MEMORY: math.log(needed / available)},
            facts={"n_parameters": size.parameters},
        )


@dataclass(frozen=True, kw_only=True)
class MemoryEstimate:
    """Memory that a training needs, and memory that is available, in bytes.

    Attributes:
        one_image: Needed with one image per step.
        each_image: Needed for each further image of a batch.
        batch_size: Number of images that are computed together.
        batch: Needed with this number of images.
        there: Memory that this process may use; None if the operating system does not report it. (A key of `describe --json`.)
    """

    one_image: int
    each_image: int
    batch_size: int
    batch: int
    there: int | None

    @property
    def fits(self) -> bool:
        """Whether the network can be trained here, with one image per step at least."""
        return self.there is None or self.one_image <= self.there


def estimate_memory(counted: ModelSummary, config: TrialConfig) -> MemoryEstimate:
    """Compare the memory that training a counted network needs with the available memory."""
    size = size_of(counted, config)
    return MemoryEstimate(
        one_image=size.needed(1),
        each_image=size.activation_bytes,
        batch_size=config.images_at_once,
        batch=size.needed(config.images_at_once),
        there=available_memory_bytes(),
    )


def show_bytes(n: float) -> str:
    """Format a number of bytes, such as "3.2 GB"."""
    for unit in ("B", "kB", "MB", "GB"):
        if n < 1000:
            return f"{n:.3g} {unit}"
        n /= 1000
    return f"{n:,.4g} TB"
