"""The one door to the networks: a configuration in, an untrained Keras model out."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import gc
from collections.abc import Iterator
from pathlib import Path

import keras

from automl_cxr.architectures import FAMILIES, find_backbone, load_function
from automl_cxr.config import NAMED_WEIGHTS, SCRATCH, BranchConfig, TrialConfig
from automl_cxr.io import sha256_of_file
from automl_cxr.model.batchnorm import adapt_momentum
from automl_cxr.model.devices import data_parallel, has_gpu, keep_within_share
from automl_cxr.model.freezing import set_phase
from automl_cxr.model.weights import digest_weights, find_file


def build_model(
    config: TrialConfig, n_classes: int, *, steps_per_epoch: int, weights_folder: Path | None = None
) -> keras.Model:
    """Build the network of a configuration, its new weights drawn from its seed, in the phase that its training begins with.

    What Keras itself kept of earlier models is forgotten first. TensorFlow keeps some of their graphs all the same: a process
    grows by 10 to 50 MiB with each model that it traces (``compiled.py`` traces a structure once).

    Args:
        config: The family and its hyperparameters.
        n_classes: Columns of the output.
        steps_per_epoch: Gradient steps between two validations; batch normalisation is tuned to it.
        weights_folder: Where weight files are looked for first.

    Returns:
        A model from raw grey pixels 0..255, shape (n, image_size, image_size, 1), to probabilities (n, n_classes).

    Raises:
        ImpossibleModelError: The configuration describes no network, with the way out.
        TrialError: Weights that it names cannot be had.
    """
    keep_within_share()  # first, since all that follows may start the backend
    _forget_earlier_networks()
    keras.utils.set_random_seed(config.seed)
    with data_parallel():
        model = _grow(config, n_classes, weights_folder)
    adapt_momentum(model, steps_per_epoch)
    set_phase(model, config, frozen=config.frozen_epochs > 0)
    return model


def _forget_earlier_networks() -> None:
    """Free the memory of networks that nobody holds any more, and let Keras name layers from the beginning again.

    ``keras.utils.clear_session`` would do more: it drops all that TensorFlow has prepared to run, so that the graphs of twins
    which are kept would be optimised anew in each trial. It frees no more memory.
    """
    from keras.src.utils.naming import reset_uids  # Keras has no public name for it

    _set_libraries_aside()
    reset_uids()
    gc.collect()


@functools.cache
def _set_libraries_aside() -> None:
    """Spare each collection of garbage the million objects of the libraries, which stay: 0.2 s a trial."""
    gc.collect()
    gc.freeze()


@contextlib.contextmanager
def blueprint(config: TrialConfig, n_classes: int) -> Iterator[keras.Model]:
    """Lay out the network of a configuration without memory for its weights, whatever weights it names, to be counted.

    Layers, shapes and types are those that ``build_model`` gives it, in the phase that trains most. It lives for the block
    only, since Keras would fill its weights at the next occasion.

    Raises:
        ImpossibleModelError: The configuration describes no network.
    """
    unloaded = dataclasses.replace(config, weights="none", second_weights="none", heads="")
    keep_within_share()  # as in ``build_model``
    keras.utils.clear_session(free_memory=False)
    try:
        with keras.StatelessScope(initialize_variables=False):
            model = _grow(unloaded, n_classes, None)
            set_phase(model, config, frozen=0 < config.epochs <= config.frozen_epochs)
            yield model
    finally:
        keras.utils.clear_session(free_memory=False)


def _grow(config: TrialConfig, n_classes: int, weights_folder: Path | None) -> keras.Model:
    # bfloat16 has float32's range, so no loss has to be scaled; on a CPU it would be emulated.
    keras.config.set_dtype_policy("mixed_bfloat16" if config.precision == "mixed" and has_gpu() else "float32")
    return load_function(FAMILIES[config.family].builder)(config, n_classes, weights_folder=weights_folder)


def backend_versions() -> str:
    """Name Keras and its backend, for logs."""
    return f"Keras {keras.__version__} on {keras.backend.backend()}"


def digest_pretrained(config: TrialConfig, weights_folder: Path | None) -> list[str]:
    """Give the SHA-256 of each file that ``build_model`` takes weights from, the first backbone's first."""
    digests = [_digest(branch, weights_folder) for branch in config.branches]
    return [digest for digest in digests if digest]


def _digest(branch: BranchConfig, weights_folder: Path | None) -> str:
    if branch.backbone != SCRATCH:
        return digest_weights(find_backbone(branch.backbone), branch.weights, weights_folder)
    return "" if branch.weights in NAMED_WEIGHTS else sha256_of_file(find_file(branch.weights, weights_folder))
