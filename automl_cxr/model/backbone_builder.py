"""Building a published network up to a cut, with its pretrained weights."""

from __future__ import annotations

import difflib
import os

import keras
from keras import layers

from automl_cxr.architectures import Backbone, find_backbone
from automl_cxr.errors import ImpossibleModelError
from automl_cxr.model.backbones import build_full_network
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
    """Build a published network up to a layer; those past it are not in the model.

    Args:
        name: Its row.
        image_size: Height and width of its input in pixels.
        cut: Where it ends: a layer's name, "1" for the first splice point and so on, or "" for its own end.
        weights: "none" (random), "imagenet", "chexnet" or a file (``weights.find_weights``) of the whole network, or of a trial
            that has it up to the cut.
        weights_folder: Where weights are looked for first.
        layer_name: Name of the model; the backbone's where it is None. The layers within keep Keras' names.

    Returns:
        A model from pixels (n, image_size, image_size, 3), as ``Backbone.preprocess`` gives them, to feature maps.

    Raises:
        UnknownNameError: There is no such backbone.
        ImpossibleModelError: The image is too small, the cut names no layer or none that has feature maps, or there are no
            such weights for this backbone.
        TrialError: The weights are missing, damaged, or of another network.
    """
    backbone = find_backbone(name)
    if image_size < backbone.smallest_image:
        raise ImpossibleModelError(
            f"Backbone '{name}' needs images of at least {backbone.smallest_image} pixels; received image_size={image_size}. "
            "Use larger images or another backbone."
        )
    whole = build_full_network(backbone, image_size)
    maps = _output_of(whole, backbone, cut)
    cut_there = keras.Model(whole.input, maps, name=layer_name or name)
    load_pretrained(whole, backbone, weights, weights_folder, cut=cut_there)
    return cut_there


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
        way_out = _did_you_mean(cut, names) or f"Its splice points are {', '.join(backbone.splice_points)}."
        raise ImpossibleModelError(f"A cut must name a layer of '{backbone.name}'; received '{cut}'. {way_out}")
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
