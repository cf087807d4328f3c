"""Compilation of networks for training."""

from __future__ import annotations

import keras

from automl_cxr.config import TrialConfig
from automl_cxr.model.devices import data_parallel, has_gpu
from automl_cxr.training.losses import build_loss, build_optimizer
from automl_cxr.training.schedules import Phase


def compile_network(network: keras.Model, config: TrialConfig, phase: Phase, *, n_steps: int) -> None:
    """Compile a network in place for a phase, with the loss of a configuration and a new optimizer whose state is built.

    Args:
        network: The network.
        config: The configuration.
        phase: The phase.
        n_steps: Number of batches of an epoch.

    Raises:
        ImpossibleModelError: The loss does not fit the number of classes.
    """
    with data_parallel():
        optimizer = build_optimizer(config, phase, n_steps=n_steps)
        loss = build_loss(config, network.output_shape[-1])
        network.compile(optimizer=optimizer, loss=loss, jit_compile=jit_compile())
        optimizer.build(network.trainable_variables)


def jit_compile() -> bool | str:
    """Return the ``jit_compile`` argument of ``compile``: "auto" (chosen by Keras), except for TensorFlow on a CPU.

    With TensorFlow on a CPU, XLA takes 15 s to compile a model, and training steps are not faster.
    """
    return False if keras.backend.backend() == "tensorflow" and not has_gpu() else "auto"
