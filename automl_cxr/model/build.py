"""Building the Keras model of a configuration."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import gc
from collections.abc import Iterator
from pathlib import Path

import keras

from automl_cxr.architectures import FAMILIES, NAMED_WEIGHTS, find_backbone, load_function
from automl_cxr.config import SCRATCH, BranchConfig, TrialConfig
from automl_cxr.encoder_files import find_encoder, is_encoder
from automl_cxr.io import sha256_of_file
from automl_cxr.model.batchnorm import adapt_momentum
from automl_cxr.model.devices import configure_backend, data_parallel
from automl_cxr.model.freezing import set_phase
from automl_cxr.model.keras_private import restart_layer_numbers
from automl_cxr.model.precision import resolved_precision
from automl_cxr.model.weights import digest_weights
from automl_cxr.weight_files import find_file, weight_folders


def build_model(
    config: TrialConfig, n_classes: int, *, steps_per_epoch: int, weights_folder: Path | None = None
) -> keras.Model:
    """Build the network of a configuration, with weights drawn from its seed, frozen as the first training phase needs it.

    Earlier models that Keras still references are deleted first. TensorFlow does not free some of their graphs: the memory of a
    process grows by 10 to 50 MiB with each model that it traces.

    Args:
        config: The family and its hyperparameters.
        n_classes: Number of columns of the output.
        steps_per_epoch: Gradient steps between two validations; they determine the momentum of batch normalisation.
        weights_folder: Folder that is searched for weight files first.

    Returns:
        A model from raw grey pixels 0..255, shape (n, image_size, image_size, 1), to probabilities (n, n_classes).

    Raises:
        ImpossibleModelError: The configuration does not describe a network.
        TrialError: Weights that it names are missing or damaged.
    """
    configure_backend()  # before the backend starts
    _release_earlier_networks()
    keras.utils.set_random_seed(config.seed)
    with data_parallel():
        model = _build(config, n_classes, weights_folder)
    adapt_momentum(model, steps_per_epoch)
    set_phase(model, config, frozen=config.frozen_epochs > 0)
    return model


def _release_earlier_networks() -> None:
    """Free the memory of unreferenced networks and restart the numbers in Keras' layer names.

    ``keras.utils.clear_session`` would also delete all that TensorFlow has prepared to run, so that the graphs of reused
    compiled models (``training/stacked_model.py``) would be optimised again in each trial. It frees no more memory.
    """
    _exclude_libraries_from_collection()
    restart_layer_numbers()
    gc.collect()


@functools.cache
def _exclude_libraries_from_collection() -> None:
    """Exclude the objects of the libraries, about a million, from garbage collections: this saves 0.2 s a trial."""
    gc.collect()
    gc.freeze()


@contextlib.contextmanager
def blueprint(config: TrialConfig, n_classes: int) -> Iterator[keras.Model]:
    """Build the network of a configuration without memory for its weights, to count its layers, shapes and types.

    These are the same as in ``build_model``, in the phase that trains most. No weight files are read. The model is only valid
    within the context, because outside of it Keras would create the weights.

    Raises:
        ImpossibleModelError: The configuration does not describe a network.
    """
    unloaded = dataclasses.replace(config, weights="none", second_weights="none", heads="")
    configure_backend()  # as in ``build_model``
    keras.utils.clear_session(free_memory=False)
    try:
        with keras.StatelessScope(initialize_variables=False):
            model = _build(unloaded, n_classes, None)
            set_phase(model, config, frozen=0 < config.epochs <= config.frozen_epochs)
            yield model
    finally:
        keras.utils.clear_session(free_memory=False)


def _build(config: TrialConfig, n_classes: int, weights_folder: Path | None) -> keras.Model:
    keras.config.set_dtype_policy(resolved_precision(config))
    return load_function(FAMILIES[config.family].builder)(config, n_classes, weights_folder=weights_folder)


def backend_versions() -> str:
    """Return the version of Keras and the name of its backend, for logs."""
    return f"Keras {keras.__version__} on {keras.backend.backend()}"


def digest_pretrained(config: TrialConfig, weights_folder: Path | None) -> list[str]:
    """Return the SHA-256 digest of each weight file that ``build_model`` reads, in the order of the branches."""
    digests = [_digest(branch, weights_folder) for branch in config.branches]
    return [digest for digest in digests if digest]


def _digest(branch: BranchConfig, weights_folder: Path | None) -> str:
    if is_encoder(branch.backbone):
        return sha256_of_file(find_encoder(branch.backbone, weight_folders(weights_folder)))
    if branch.backbone != SCRATCH:
        return digest_weights(find_backbone(branch.backbone), branch.weights, weights_folder)
    return "" if branch.weights in NAMED_WEIGHTS else sha256_of_file(find_file(branch.weights, weights_folder))
