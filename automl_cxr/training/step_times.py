"""Measures the time of training steps and of passes through frozen networks on this machine, in a process of its own.

    python -m automl_cxr.training.step_times REQUEST

REQUEST is a JSON object with the configurations and the number of classes. The result is a JSON list with the seconds per
image of each configuration: of a training step, or for a probe of the pass through its backbones.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Sequence

import numpy as np

from automl_cxr.architectures import FAMILIES, NONE
from automl_cxr.config import TrialConfig
from automl_cxr.model.build import build_model
from automl_cxr.model.memory_estimate import measure_size
from automl_cxr.scoring.metrics import metric
from automl_cxr.training.datasets import LabelledPart
from automl_cxr.training.epoch_tracker import Objective
from automl_cxr.training.trainer import Training

_N_STEPS = 3  # of which the time is measured, after one that traces the graph


def measure_seconds_per_image(configs: Sequence[TrialConfig], n_classes: int) -> list[float]:
    """Return the seconds per image of each configuration.

    One configuration with gradient steps and one probe are measured, those with the fewest multiply-adds. The times of the
    others are estimated from these by the numbers of multiply-adds. Weights are random, because they do not affect the time, so
    all layers are trained.

    Args:
        configs: The configurations.
        n_classes: Number of classes.
    """
    multiply_adds = [measure_size(config, n_classes).multiply_adds for config in configs]
    seconds_per_operation: dict[bool, float] = {}
    for operations, config in sorted(zip(multiply_adds, configs, strict=True), key=lambda pair: pair[0]):
        has_steps = FAMILIES[config.family].has_gradient_steps
        if has_steps not in seconds_per_operation:
            measured = _time_training(config, n_classes) if has_steps else _time_pass(config, n_classes)
            seconds_per_operation[has_steps] = measured / operations
    return [
        seconds_per_operation[FAMILIES[config.family].has_gradient_steps] * operations
        for operations, config in zip(multiply_adds, configs, strict=True)
    ]


def _time_training(config: TrialConfig, n_classes: int) -> float:
    config = dataclasses.replace(config, weights=NONE, second_weights=NONE, frozen_share=0.0, epochs=2)
    part = _random_part(config, n_classes, _N_STEPS * config.images_at_once)
    model = build_model(config, n_classes, steps_per_epoch=_N_STEPS, weights_folder=None)
    training = Training(model, config, train=part, valid=part, objective=Objective(metric("macro_f1"), None, (), {}))
    *_, last = training.epochs()
    return float(last.seconds / len(part.rows))


def _time_pass(config: TrialConfig, n_classes: int) -> float:
    config = dataclasses.replace(config, weights=NONE, second_weights=NONE)
    part = _random_part(config, n_classes, config.images_at_once)
    model = build_model(config, n_classes, steps_per_epoch=1, weights_folder=None)
    pixels = part.batch(part.rows)
    model.predict_on_batch(pixels)
    started = time.monotonic()
    model.predict_on_batch(pixels)
    return (time.monotonic() - started) / len(pixels)


def _random_part(config: TrialConfig, n_classes: int, n_images: int) -> LabelledPart:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (n_images, config.image_size, config.image_size), dtype=np.uint8)
    rows = np.arange(n_images)
    labels = (rows[:, None] + np.arange(n_classes)) % 2 if config.is_multilabel else rows % n_classes
    return LabelledPart(images, rows, labels)


def main() -> None:
    """Read the request from the command line and write the result to stdout."""
    request = json.loads(sys.argv[1])
    configs = [TrialConfig.from_values(values) for values in request["configs"]]
    json.dump(measure_seconds_per_image(configs, request["n_classes"]), sys.stdout)


if __name__ == "__main__":
    main()
