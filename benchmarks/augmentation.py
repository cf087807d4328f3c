"""Measure the training step with augmentation by Keras' layers and by this package, with a compiled step or not.

    python benchmarks/augmentation.py                                              # the backend of KERAS_BACKEND; 15 minutes
    python benchmarks/augmentation.py --networks scratch fused squeezenet densenet121 --augmentations package

Each row is measured in a separate process on random images: the CPU time of the first step, which includes tracing and
compilation without a cache of compiled functions, and the lowest CPU time of a further step in three runs of ``--steps`` steps.
Networks have random weights, all layers are trained, and the optimizer is Adam.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from measure import machine_facts

if TYPE_CHECKING:
    import keras

    from automl_cxr.config import TrialConfig

_REPEATS = 3
_STRENGTH = 0.5  # of the augmentation


@dataclass(frozen=True)
class Workload:
    """A preset, its image size in pixels and its number of images in a batch."""

    preset: str
    image_size: int
    batch_size: int


NETWORKS = {
    "scratch": Workload("scratch", 112, 32),
    "fused": Workload("fused", 224, 8),
    "squeezenet": Workload("squeezenet", 224, 32),
    "densenet121": Workload("densenet121", 224, 8),
}
AUGMENTATIONS = ("none", "keras", "package")


def measure_steps(workload: Workload, augmentation: str, *, compiled: bool, n_steps: int) -> dict[str, float]:
    """Return the CPU seconds of the first step and of a further step, in this process."""
    import keras
    import numpy as np

    network = _network(workload, augmentation)
    network.compile("adam", "sparse_categorical_crossentropy", jit_compile=compiled)
    rng = np.random.default_rng(0)
    pixels = rng.uniform(0, 255, (workload.batch_size, workload.image_size, workload.image_size, 1)).astype(np.float32)
    labels = rng.integers(0, 3, workload.batch_size)

    def cpu_seconds(n: int) -> float:
        started = time.process_time()
        for _ in range(n):
            network.train_on_batch(pixels, labels)
        return (time.process_time() - started) / n

    if network.jit_compile != compiled:
        raise SystemExit(f"{keras.backend.backend()} cannot compile this network.")
    return {"first": cpu_seconds(1), "further": min(cpu_seconds(n_steps) for _ in range(_REPEATS))}


def _network(workload: Workload, augmentation: str) -> keras.Model:
    import keras

    from automl_cxr.model.augmentation import without_augmentation
    from automl_cxr.model.build import build_model
    from automl_cxr.study.presets import find_preset

    values = {"image_size": workload.image_size, "augmentation": _STRENGTH, "precision": "float32"}
    config = replace(find_preset(workload.preset, {}).config, **values)
    if config.family == "transfer":
        config = replace(config, weights="none", unfreeze=10_000, frozen_share=0.0)
    network = build_model(config, 3, steps_per_epoch=100)
    if augmentation == "package":
        return network
    plain = without_augmentation(network)
    if augmentation == "none":
        return plain
    pixels = x = keras.Input(network.input_shape[1:])
    for layer in _keras_layers(config):
        x = layer(x)
    return keras.Model(pixels, plain(x))


def _keras_layers(config: TrialConfig) -> list[keras.layers.Layer]:
    """Return Keras' layers for the ranges of a configuration."""
    from keras import layers

    strength, fill = config.augmentation, config.fill
    rotation = (config.rotation_low * strength / 360, config.rotation_high * strength / 360)
    chain = [
        layers.RandomFlip("horizontal"),
        layers.RandomRotation(rotation, fill_mode=fill),
        layers.RandomTranslation(config.shift * strength, config.shift * strength, fill_mode=fill),
        layers.RandomZoom(config.zoom * strength, fill_mode=fill),
        layers.RandomBrightness(config.brightness * strength, value_range=(0, 255)),
        layers.RandomContrast(config.contrast * strength, value_range=(0, 255)),
    ]
    if config.shear:
        chain.append(layers.RandomShear((0.0, math.tan(math.radians(config.shear * strength))), fill_mode=fill))
    return chain


def main() -> None:
    """Print a table with a row for each network, augmentation and kind of compilation."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=["scratch", "squeezenet"])
    parser.add_argument("--augmentations", nargs="+", choices=AUGMENTATIONS, default=list(AUGMENTATIONS))
    parser.add_argument("--steps", type=int, default=4, help="steps in each of three runs")
    parser.add_argument("--row", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.row:
        network, augmentation, compiled = arguments.row
        measured = measure_steps(NETWORKS[network], augmentation, compiled=compiled == "yes", n_steps=arguments.steps)
        print(json.dumps(measured))
        return
    print(machine_facts(), end="\n\n")
    print("| network | augmentation | compiled | first step, CPU s | further step, CPU s |\n" + "| --- " * 5 + "|")
    for network in arguments.networks:
        for augmentation in arguments.augmentations:
            for compiled in ("no", "yes") if augmentation != "keras" else ("no",):
                print(_row(network, augmentation, compiled, arguments.steps), flush=True)


def _row(network: str, augmentation: str, compiled: str, n_steps: int) -> str:
    command = [sys.executable, __file__, "--steps", str(n_steps), "--row", network, augmentation, compiled]
    with tempfile.TemporaryDirectory() as cache:
        environment = {**os.environ, "AUTOML_CXR_CACHE": cache}
        ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if ended.returncode:
        return f"| {network} | {augmentation} | {compiled} | {ended.stderr.strip().splitlines()[-1]} | |"
    measured = json.loads(ended.stdout.splitlines()[-1])
    return f"| {network} | {augmentation} | {compiled} | {measured['first']:.1f} | {measured['further']:.3f} |"


if __name__ == "__main__":
    main()
