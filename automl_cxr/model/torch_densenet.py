"""Conversion of PyTorch state dicts of DenseNet121 to Keras: CheXNet's, torchvision's and TorchXRayVision's."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping

import numpy as np

from automl_cxr.errors import TrialError
from automl_cxr.model.keras_weight_files import SavedLayer

# "module.densenet121.features.denseblock1.denselayer1.norm.1.weight". PyTorch 0.4 and later write norm1 instead of norm.1.
_TENSOR = re.compile(r"(?:.*\.)?features\.(?P<layer>.+)\.(?P<part>weight|bias|running_mean|running_var)")
_IN_BLOCK = re.compile(r"denseblock(?P<block>\d)\.denselayer(?P<number>\d+)\.(?P<kind>norm|conv)\.?(?P<which>[12])")
_IN_TRANSITION = re.compile(r"transition(?P<block>\d)\.(?P<kind>norm|conv)")
_ENDS = {"conv0": "conv1_conv", "norm0": "conv1_bn", "norm5": "bn"}
_IN_KERAS = {"norm1": "0_bn", "conv1": "1_conv", "norm2": "1_bn", "conv2": "2_conv"}

# Keras' DenseNet adds 1.001e-5 to a variance, PyTorch's 1e-5. This correction makes both divide by the same number.
_EPSILON_DIFFERENCE = 1e-5 - 1.001e-5
_FIRST_CONVOLUTION = "conv1_conv"


def colour_layers(tensors: Mapping[str, np.ndarray]) -> list[SavedLayer]:
    """Convert the state dict of a DenseNet121 for colour images to layers with Keras' names, such as CheXNet's.

    Args:
        tensors: Arrays by name; names may have a prefix of enclosing modules.

    Raises:
        TrialError: A tensor of the features does not belong to a DenseNet, a normalisation is incomplete, or the network is
            one for grey images.
    """
    layers = _densenet_layers(tensors)
    for layer in layers:
        if layer.name == _FIRST_CONVOLUTION and layer.arrays[0].ndim == 4 and layer.arrays[0].shape[2] == 1:
            raise TrialError(
                "The checkpoint of a DenseNet121 must take 3 channels; received one that takes 1. If it is TorchXRayVision's, "
                "use backbone densenet121xrv, which scales the pixels as TorchXRayVision does."
            )
    return layers


def grey_layers(tensors: Mapping[str, np.ndarray]) -> list[SavedLayer]:
    """Convert the state dict of TorchXRayVision's DenseNet121 (Cohen et al. 2022, arXiv:2111.00595) to layers for 3 channels.

    Its first convolution takes one grey channel. This function repeats its kernel 3 times and divides it by 3, so that three
    equal channels give the same output.

    Args:
        tensors: Arrays by name; names may have a prefix of enclosing modules.

    Raises:
        TrialError: A tensor of the features does not belong to a DenseNet, a normalisation is incomplete, or the network is
            one for colour images.
    """
    layers = _densenet_layers(tensors)
    for index, layer in enumerate(layers):
        if layer.name == _FIRST_CONVOLUTION:
            (kernel,) = layer.arrays
            if kernel.ndim != 4 or kernel.shape[2] != 1:
                raise TrialError(
                    "The checkpoint of a TorchXRayVision DenseNet121 must take 1 channel; received a first kernel of "
                    f"{kernel.shape}. Use backbone densenet121 for colour images."
                )
            layers[index] = SavedLayer(layer.name, (np.repeat(kernel / 3, 3, axis=2),))
    return layers


def _densenet_layers(tensors: Mapping[str, np.ndarray]) -> list[SavedLayer]:
    """Convert the tensors of ``features`` to layers; other tensors belong to the classifier and are skipped.

    Kernels are transposed from (out, in, h, w) to (h, w, in, out).
    """
    parts: dict[str, dict[str, np.ndarray]] = defaultdict(dict)
    for name, tensor in tensors.items():
        if "features." not in name or name.endswith(".num_batches_tracked"):
            continue
        match = _TENSOR.fullmatch(name)
        layer = _keras_name(match["layer"]) if match else None
        if match is None or layer is None:
            raise TrialError(f"The checkpoint must contain a DenseNet121; received the tensor '{name}'. Use another file.")
        parts[layer][match["part"]] = tensor
    return [SavedLayer(layer, _arrays(layer, tensors_of_layer)) for layer, tensors_of_layer in parts.items()]


def _keras_name(layer: str) -> str | None:
    if match := _IN_BLOCK.fullmatch(layer):
        return f"conv{int(match['block']) + 1}_block{match['number']}_{_IN_KERAS[match['kind'] + match['which']]}"
    if match := _IN_TRANSITION.fullmatch(layer):
        return f"pool{int(match['block']) + 1}_{'bn' if match['kind'] == 'norm' else 'conv'}"
    return _ENDS.get(layer)


def _arrays(layer: str, parts: Mapping[str, np.ndarray]) -> tuple[np.ndarray, ...]:
    """Return the arrays of a layer in Keras' order."""
    if layer.endswith("conv"):
        return tuple(tensor.transpose(2, 3, 1, 0) if tensor.ndim == 4 else tensor for tensor in parts.values())
    missing = {"weight", "bias", "running_mean", "running_var"} - set(parts)
    if missing:
        raise TrialError(
            f"A normalisation must have a weight, bias, running_mean and running_var; '{layer}' has no {min(missing)}. "
            "Use another file."
        )
    variance = parts["running_var"] + np.float32(_EPSILON_DIFFERENCE)
    return parts["weight"], parts["bias"], parts["running_mean"], variance
