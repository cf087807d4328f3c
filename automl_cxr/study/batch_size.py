"""The batch size that a search chooses on a machine with GPUs, if the user does not choose one.

A small batch does not use all of a large GPU. The batch is doubled as long as the networks of the space fit into half of the
memory of a trial and an epoch has enough gradient steps. The learning rate follows by the rule of ``scaled_rate`` (the square
root of the batch size; proportional to it for SGD), so spaces without this rule keep their batch size, and so do published
networks.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from automl_cxr.config import TrialConfig
from automl_cxr.engine.space import Space
from automl_cxr.hardware import nvidia_memory_bytes

_LARGEST = 128  # images; larger batches generalise worse with a fixed number of epochs (Keskar et al. 2017, arXiv:1609.04836)
_STEPS_PER_EPOCH = 50  # at least
_SHARE_OF_MEMORY = 0.5  # of a trial; the rest is for libraries, buffers of convolutions, and networks that were not drawn
_N_DRAWS = 16  # configurations whose memory is counted
_COMMAND = ("-m", "automl_cxr.training.memory_needs")
_TIMEOUT_SECONDS = 90.0


def choose_batch_size(
    space: Space, settings: Mapping[str, Any], *, n_classes: int, n_images: int, gpus_per_trial: float | None
) -> int:
    """Return the batch size of a new study: that of the settings, or a larger one for the GPUs of this machine.

    Args:
        space: The space, with its fixed hyperparameters.
        settings: The settings of the study, see ``settings.resolve_settings``.
        n_classes: Number of classes or findings.
        n_images: Number of images of the study.
        gpus_per_trial: GPUs of each trial, of which a fraction has a share of the memory; None for one GPU.
    """
    smallest: int = settings["batch_size"]
    sizes = [smallest]
    while sizes[-1] * 2 <= _LARGEST and n_images >= _STEPS_PER_EPOCH * sizes[-1] * 2:
        sizes.append(sizes[-1] * 2)
    memory = nvidia_memory_bytes()
    if not memory or len(sizes) == 1 or space.constants.get("scaled_rate") is not True or "batch_size" in space.names:
        return smallest
    needs = _memory_needs(_draw_configs(space, settings), n_classes)
    available = _SHARE_OF_MEMORY * min(memory) * min(1.0, gpus_per_trial or 1.0)
    fitting = [size for size in sizes if needs and all(_bytes_of(need, size) <= available for need in needs)]
    return max(fitting, default=smallest)


def _draw_configs(space: Space, settings: Mapping[str, Any]) -> list[TrialConfig]:
    """Return random configurations and the first points of the space."""
    constants = {name: settings[name] for name in ("task", "image_size", "fit", "batch_size")}
    rng = np.random.default_rng(0)
    points = [*space.portfolio, *(space.sample(rng) for _ in range(_N_DRAWS))]
    return [TrialConfig.from_values({**constants, **space.constants, **point}) for point in points]


def _memory_needs(configs: Sequence[TrialConfig], n_classes: int) -> list[tuple[int, int]]:
    """Return the bytes of each network, and of each image of a batch; [] if they cannot be counted.

    Another process counts them, because it loads Keras.
    """
    request = json.dumps({"configs": [dataclasses.asdict(config) for config in configs], "n_classes": n_classes})
    try:
        result = subprocess.run(  # noqa: S603 - this package, by this interpreter
            [sys.executable, *_COMMAND],
            input=request,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_SECONDS,
            check=True,
            env={**os.environ, "CUDA_VISIBLE_DEVICES": "-1"},  # counting needs no GPU
        )
        return [(fixed, each) for fixed, each in json.loads(result.stdout)]
    except (OSError, subprocess.SubprocessError, ValueError):
        return []


def _bytes_of(need: tuple[int, int], batch_size: int) -> int:
    fixed, each_image = need
    return fixed + batch_size * each_image
