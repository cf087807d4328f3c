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

    "auto" compiles with XLA on JAX and on GPUs with TensorFlow, and does not compile with PyTorch. With TensorFlow on a CPU,
    steps are slower with XLA: the first one, which is compiled, and the others. CPU seconds of the first and of a further step
    (one thread, all layers trained, augmentation 0.5, ``benchmarks/augmentation.py``):

    | network | images | without XLA | with XLA |
    | --- | --- | --- | --- |
    | scratch | 32 of 112 pixels | 2.0, 0.19 | 7.2, 0.32 |
    | fused | 8 of 224 pixels | 2.2, 0.43 | 7.0, 0.51 |
    | SqueezeNet | 32 of 224 pixels | 4.5, 0.79 | 12.1, 1.52 |
    | DenseNet121 | 8 of 224 pixels | 42.8, 2.19 | 88.2, 2.96 |

    With JAX on a CPU, a step of SqueezeNet takes 3.3 s without XLA and 2.6 s with it. With PyTorch on a CPU, a step of scratch
    takes 0.41 s, and 0.43 s after 27 s of compilation.
    """
    return False if keras.backend.backend() == "tensorflow" and not has_gpu() else "auto"
