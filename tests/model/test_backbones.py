import functools
import sys

import keras
import numpy as np
import pytest
from keras import applications

from automl_cxr.architectures import BACKBONES, FAMILIES, find_backbone, load_function
from automl_cxr.errors import ImpossibleModelError, UnknownNameError
from automl_cxr.model.backbone_builder import build_backbone
from automl_cxr.model.backbones import build_full_network, preprocess
from automl_cxr.model.freezing import layers_with_weights
from automl_cxr.model.inference import load_model

PARAMETERS = {
    "vgg16": 14_714_688,
    "resnet50": 23_587_712,
    "resnet152": 58_370_944,
    "resnet101v2": 42_626_560,
    "inceptionv3": 21_802_784,
    "densenet121": 7_037_504,
    "squeezenet": 722_496,
    "efficientnetlite0": 3_413_024,
    "efficientnetlite1": 4_189_344,
    "efficientnetlite2": 4_869_168,
    "hog": 0,
    "gabor": 0,
}


N_BLOCKS = {
    "vgg16": 5,
    "resnet50": 16,
    "resnet152": 50,
    "resnet50v2": 17,
    "resnet101v2": 34,
    "inceptionv3": 11,
    "xception": 13,
    "densenet121": 8,
    "mobilenetv2": 18,
    "efficientnetv2b0": 22,
    "squeezenet": 8,
    "efficientnetlite0": 17,
    "efficientnetlite1": 22,
    "efficientnetlite2": 22,
}


@functools.cache
def smallest(name):
    """Build each backbone once; tests must not change its layers."""
    return build_backbone(name, find_backbone(name).smallest_image)


@pytest.mark.parametrize("row", [*BACKBONES.values(), *FAMILIES.values()], ids=lambda row: row.name)
def test_every_row_of_the_registry_names_an_existing_function(row):
    reference = row.constructor if row.name in BACKBONES else row.builder
    assert callable(load_function(reference)), f"{row.name} must name a function as module:function; received {reference}"


@pytest.mark.long
@pytest.mark.parametrize("name", BACKBONES)
def test_a_backbone_accepts_its_smallest_image_and_no_smaller_one(name):
    model = smallest(name)
    size = find_backbone(name).smallest_image
    assert model.name == name
    assert model.input_shape == (None, size, size, 3)
    with pytest.raises(ImpossibleModelError, match=f"at least {size} pixels; received image_size={size - 1}"):
        build_backbone(name, size - 1)
    with pytest.raises(ValueError):  # noqa: PT011 - Keras raises it; the registry's limit is that of Keras
        build_full_network(find_backbone(name), size - 1)


@pytest.mark.parametrize(("name", "parameters"), PARAMETERS.items())
def test_a_backbone_has_the_published_parameters(name, parameters):
    assert smallest(name).count_params() == parameters


@pytest.mark.parametrize("name", BACKBONES)
def test_splice_points_are_feature_maps_from_shallow_to_deep(name):
    model, points = smallest(name), find_backbone(name).splice_points
    positions = [[layer.name for layer in model.layers].index(point) for point in points]
    assert positions == sorted(set(positions))
    assert all(len(model.get_layer(point).output.shape) == 4 for point in points)
    assert model.get_layer(points[-1]).output is model.output


def test_splice_points_are_the_ends_of_all_blocks():
    counts = {name: len(row.splice_points) for name, row in BACKBONES.items()}
    assert counts | N_BLOCKS == counts


def test_squeezenet_is_25_convolutions():
    convolutions = layers_with_weights(smallest("squeezenet"))
    assert [layer.name for layer in convolutions][:4] == ["conv1", "fire2_squeeze1x1", "fire2_expand1x1", "fire2_expand3x3"]
    assert len(convolutions) == 25
    assert build_backbone("squeezenet", 224).output_shape == (None, 13, 13, 512)


PREPROCESSINGS = {
    "vgg16": applications.vgg16,
    "resnet50": applications.resnet,
    "resnet152": applications.resnet,
    "resnet50v2": applications.resnet_v2,
    "resnet101v2": applications.resnet_v2,
    "inceptionv3": applications.inception_v3,
    "xception": applications.xception,
    "densenet121": applications.densenet,
    "mobilenetv2": applications.mobilenet_v2,
    "efficientnetv2b0": applications.efficientnet_v2,
    "squeezenet": applications.vgg16,  # both were trained with Caffe
}


FORMULAS = {
    "hog": lambda pixels: pixels / 255,
    "gabor": lambda pixels: pixels / 255,
    **{f"efficientnetlite{size}": lambda pixels: (pixels - 127) / 128 for size in range(3)},
    "densenet121xrv": lambda pixels: (2 * (pixels / 255) - 1) * 1024,  # torchxrayvision.utils.normalize
}


@pytest.mark.parametrize("name", BACKBONES)
def test_preprocessing_equals_the_published_one_also_after_loading(name, tmp_path):
    pixels = keras.Input((4, 4, 3))
    model = keras.Model(pixels, keras.layers.Identity()(preprocess(pixels, find_backbone(name))))
    grey = np.random.default_rng(0).integers(0, 256, (2, 4, 4, 1)).astype(np.float32).repeat(3, axis=-1)
    if name in FORMULAS:
        expected = FORMULAS[name](grey)
    else:
        # For a backbone that is not listed, the module of its constructor in keras.applications.
        reference = PREPROCESSINGS.get(name) or sys.modules[load_function(BACKBONES[name].constructor).__module__]
        expected = reference.preprocess_input(grey.copy())
    assert model.predict(grey, verbose=0) == pytest.approx(expected, abs=1e-4, rel=1e-5)
    model.save(tmp_path / "model.keras")
    assert load_model(str(tmp_path / "model.keras")).predict(grey, verbose=0) == pytest.approx(expected, abs=1e-4, rel=1e-5)


def test_a_model_has_no_layers_after_its_cut():
    cut = build_backbone("resnet50v2", 32, cut="conv3_block4_2_relu", layer_name="second_backbone")
    assert cut.count_params() == 1_387_520  # with a dense layer of 2048 units on its 128 channels: 1,651,712
    assert cut.output_shape == (None, 2, 2, 128)
    assert cut.name == "second_backbone"


def test_a_number_cuts_at_a_splice_point():
    for number, point in enumerate(find_backbone("squeezenet").splice_points, start=1):
        cut = build_backbone("squeezenet", 31, cut=str(number))
        assert cut.layers[-1].name == point
    assert cut.count_params() == PARAMETERS["squeezenet"]
    assert build_backbone("vgg16", 32, cut="2").count_params() == 260_160


@pytest.mark.parametrize(
    ("name", "cut", "message"),
    [
        ("vgg16", "block3_pol", "received 'block3_pol'. Did you mean 'block3_pool'?"),
        ("vgg16", "6", "has 5 splice points; received cut '6'. Use a number from 1 to 5."),
        ("vgg16", "0", "received cut '0'"),
        ("squeezenet", "xyz", "Its splice points are fire2_concat, fire3_concat"),
        ("efficientnetv2b0", "block4a_se_squeeze", "'block4a_se_squeeze' of 'efficientnetv2b0' gives (None, 192)"),
    ],
)
def test_an_invalid_cut_is_refused(name, cut, message):
    with pytest.raises(ImpossibleModelError) as caught:
        build_backbone(name, 32, cut=cut)
    assert message in str(caught.value)


def test_the_input_layer_is_not_a_cut():
    name = build_backbone("squeezenet", 31).layers[0].name
    number = int(name.rpartition("_")[2]) + 1
    with pytest.raises(ImpossibleModelError, match="must name a layer"):
        build_backbone("squeezenet", 31, cut=f"input_layer_{number}")


def test_an_unknown_backbone_is_refused_with_a_suggestion():
    with pytest.raises(UnknownNameError, match="Did you mean 'resnet50v2'"):
        find_backbone("resnet50_v2")
