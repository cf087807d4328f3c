"""The number format in which a network computes, and networks in float32 that were trained in mixed precision."""

from __future__ import annotations

from typing import Any

import keras

from automl_cxr.architectures import FAMILIES
from automl_cxr.config import TrialConfig
from automl_cxr.model.devices import has_bfloat16, has_gpu

FLOAT32, MIXED = "float32", "mixed_bfloat16"  # Keras' names of the policies


def resolved_precision(config: TrialConfig) -> str:
    """Return the policy with which the network of a configuration is built on this device: "float32" or "mixed_bfloat16".

    With ``precision="auto"``, networks are mixed if the device multiplies bfloat16 faster than float32. Trials that only fit a
    classifier to cached features use float32: their steps are small, and the features are rounded less. Weights, the
    probabilities and the losses are float32 in each case. The loss needs no scaling, because bfloat16 has the range of float32.
    """
    match config.precision:
        case "mixed":
            return MIXED if has_gpu() else FLOAT32  # on a CPU, bfloat16 would be emulated
        case "auto":
            trains_layers = FAMILIES[config.family].has_gradient_steps and not config.trains_head_only
            return MIXED if trains_layers and has_bfloat16() else FLOAT32
        case "float32":
            return FLOAT32
    raise NotImplementedError(f"No policy is implemented for precision '{config.precision}'.")


def in_float32(network: keras.Model) -> keras.Model:
    """Return a network with the same weights that computes in float32; the network itself if it does so already."""
    settings = network.get_config()
    converted = _with_float32(settings)
    if converted == settings:
        return network
    copy = type(network).from_config(converted)
    copy.set_weights(network.get_weights())  # float32 in mixed precision, too
    return copy


def _with_float32(settings: Any) -> Any:
    """Replace the policy of mixed precision in the configuration of a network and of the layers and networks in it."""
    if isinstance(settings, dict):
        return {name: _with_float32(value) for name, value in settings.items()}
    if isinstance(settings, list | tuple):
        return type(settings)(_with_float32(value) for value in settings)
    return FLOAT32 if settings == MIXED else settings
