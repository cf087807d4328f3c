"""Costs of a trial's network, known before training, and its score, values and violations after training."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from automl_cxr.data.image_metadata import load_image_metadata
from automl_cxr.errors import ImpossibleModelError, InfeasibleError
from automl_cxr.model.latency import BATCH_SIZE, measure_latency
from automl_cxr.model.memory_estimate import measure_size, refuse_oversized
from automl_cxr.scoring.objectives import Requirement, measure
from automl_cxr.scoring.predictions import Predictions
from automl_cxr.scoring.worst_group import worst_group_scores
from automl_cxr.training.datasets import LabelledPart
from automl_cxr.training.trial_task import TrialTask

if TYPE_CHECKING:
    import keras

_SIZE_STEP = 16  # pixels


def measure_costs(task: TrialTask, n_classes: int, *, n_networks: int = 1) -> dict[str, float]:
    """Return the costs of the network of a task, or of several such networks together, before it is built.

    Raises:
        ImpossibleModelError: Hyperparameters do not fit the task or the number of classes.
        InfeasibleError: The costs violate a requirement, or one network does not fit in memory.
    """
    task.config.refuse_conflicts(n_classes)
    # The largest image size counts: a trial at a lower fidelity must not start if its promotion would be refused.
    largest = dataclasses.replace(task.config, image_size=task.largest_image or task.config.image_size)
    size = measure_size(largest, n_classes)
    costs = {name: float(n_networks * getattr(size, name)) for name in ("parameters", "multiply_adds", "weight_bytes")}
    _refuse_violated(task.requirements, costs)
    refuse_oversized(size)
    return costs


def _refuse_violated(requirements: Sequence[Requirement], costs: Mapping[str, float]) -> None:
    """Check that the costs of a network satisfy the requirements.

    Raises:
        InfeasibleError: A requirement is violated.
    """
    known = [requirement for requirement in requirements if requirement.is_known_before_training]
    violations = {str(requirement): requirement.violation(costs[requirement.name]) for requirement in known}
    violated = [requirement.explain(costs[requirement.name]) for requirement in known if violations[str(requirement)] > 0]
    if violated:
        raise InfeasibleError(
            "; ".join(violated),
            stopped_by="constraint",
            violations=violations,
            facts={"n_parameters": int(costs["parameters"])},
        )


def with_buildable_image_size(task: TrialTask, n_classes: int) -> TrialTask:
    """Increase the image size of a task, if necessary, to the smallest size for which the network can be built."""
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


def score_trial(
    task: TrialTask, predictions: Predictions, model: keras.Model, part: LabelledPart, *, costs: Mapping[str, float]
) -> dict[str, Any]:
    """Return the score, the values and the violations of a ``TrialResult``; latency is measured on the images of a part."""
    required = [requirement.name for requirement in task.requirements]
    if "latency" in (*task.objectives, *required):
        costs = {**costs, "latency": measure_latency(model, part.batch(np.arange(min(BATCH_SIZE, len(part.rows)))))}
    names = [*task.objectives, *required]
    metadata = load_image_metadata(task.split.parent)  # the folder of the study
    groups = worst_group_scores(names, predictions, metadata, normal_class=task.normal_class)
    measured = {
        name: measure(
            name,
            predictions.labels,
            predictions.probabilities,
            normal_class=task.normal_class,
            costs={**costs, **groups},
            classes=predictions.classes,
        )
        for name in names
    }
    return {
        "score": measured[task.objectives[0]],
        "values": tuple(measured[name] for name in task.objectives) if len(task.objectives) > 1 else (),
        "violations": {str(bound): bound.violation(measured[bound.name]) for bound in task.requirements},
    }
