"""Building a published network up to a cut, with its pretrained weights."""

from __future__ import annotations

import difflib
import os

import keras
from keras import layers

from automl_cxr.architectures import Backbone, find_backbone
from automl_cxr.encoder_files import is_encoder
from automl_cxr.errors import ImpossibleModelError
from automl_cxr.input_sizes import refuse_small_for_backbone
from automl_cxr.model.backbones import build_full_network
from automl_cxr.model.onnx_encoder import encoder_network
from automl_cxr.model.weights import load_pretrained


def build_backbone(
    name: str,
    image_size: int,
    *,
    cut: str = "",
    weights: str = "none",
    weights_folder: str | os.PathLike[str] | None = None,
    layer_name: str | None = None,
) -> keras.Model:
    """Build a published network up to a layer, without the layers after it.

    Args:
        name: Name of the backbone, or of an encoder in an ONNX file.
        image_size: Height and width of its input in pixels.
        cut: Last layer: its name, the number of a splice point from 1, or "" for the whole backbone.
        weights: "none" (random), "imagenet", "chexnet" or a file (``weights.find_weights``) with the weights of the whole
            backbone, or of a trial whose network contains it up to the cut.
        weights_folder: Folder that is searched for weight files first.
        layer_name: Name of the returned model; by default the name of the backbone. Its layers have Keras' names.

    Returns:
        A model from pixels (n, image_size, image_size, 3), transformed by ``backbones.preprocess``, to feature maps.

    Raises:
        UnknownNameError: No backbone has the name.
        ImpossibleModelError: The image is too small, the cut is not a layer with feature maps, or these weights do not exist
            for this backbone.
        TrialError: The weights are missing, damaged, or of another network.
    """
    backbone = find_backbone(name)
    refuse_small_for_backbone(name, image_size)
    is_file = is_encoder(name)
    whole = encoder_network(name, image_size, weights_folder) if is_file else build_full_network(backbone, image_size)
    cut_network = keras.Model(whole.input, _output_of(whole, backbone, cut), name=layer_name or backbone.label)
    load_pretrained(whole, backbone, weights, weights_folder, cut=cut_network)
    return cut_network


def _output_of(whole: keras.Model, backbone: Backbone, cut: str) -> keras.KerasTensor:
    if cut == "":
        return whole.output
    if cut.isdecimal():
        n = len(backbone.splice_points)
        if not 1 <= int(cut) <= n:
            raise ImpossibleModelError(
                f"Backbone '{backbone.name}' has {n} splice points; received cut '{cut}'. Use a number from 1 to {n}."
            )
        cut = backbone.splice_points[int(cut) - 1]
    names = [layer.name for layer in whole.layers if not isinstance(layer, layers.InputLayer)]
    if cut not in names:
        remedy = _did_you_mean(cut, names) or f"Its splice points are {', '.join(backbone.splice_points)}."
        raise ImpossibleModelError(f"A cut must name a layer of '{backbone.name}'; received '{cut}'. {remedy}")
    output = whole.get_layer(cut).output
    if len(output.shape) != 4:
        raise ImpossibleModelError(
            f"A cut must be at a layer with feature maps (n, h, w, channels); '{cut}' of '{backbone.name}' gives "
            f"{output.shape}. Use one of its splice points, such as {backbone.splice_points[-1]}."
        )
    return output


def _did_you_mean(received: str, names: list[str]) -> str:
    nearest = difflib.get_close_matches(received, names, n=1, cutoff=0.5)
    return f"Did you mean '{nearest[0]}'?" if nearest else ""
