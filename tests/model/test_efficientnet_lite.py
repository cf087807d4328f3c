import keras
import numpy as np
import pytest
import skimage.data
from PIL import Image

from automl_cxr.architectures import LITE, find_backbone, load_function
from automl_cxr.errors import TrialError
from automl_cxr.model.backbone_builder import build_backbone
from automl_cxr.model.efficientnet_lite import lite_layers
from automl_cxr.model.torch_checkpoint import read_torch_checkpoint
from automl_cxr.weight_files import find_imagenet_file

CATS = (281, 282, 283, 284, 285)  # classes of ImageNet: tabby, tiger, Persian, Siamese and Egyptian cat
ESPRESSO = 967


@pytest.fixture(scope="module")
def state():
    return read_torch_checkpoint(find_imagenet_file(find_backbone("efficientnetlite0")))


def square(picture, size):
    """Cut the central square of a colour picture, and resize it."""
    height, width = picture.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return np.asarray(Image.fromarray(picture[top : top + side, left : left + side]).resize((size, size)), np.float32)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "size"), [("efficientnetlite0", 224), ("efficientnetlite1", 240), ("efficientnetlite2", 260)])
def test_imagenet_weights_of_the_package_recognise_pictures(name, size):
    backbone = find_backbone(name)
    model = build_backbone(name, size, weights="imagenet")
    state = read_torch_checkpoint(find_imagenet_file(backbone))
    pictures = np.stack([square(picture(), size) for picture in (skimage.data.chelsea, skimage.data.coffee)])
    features = keras.ops.convert_to_numpy(model(pictures * LITE.scale[0] + LITE.offset[0], training=False)).mean((1, 2))
    cat, coffee = (features @ state["_fc.weight"].T + state["_fc.bias"]).argmax(axis=1)
    assert cat in CATS
    assert coffee == ESPRESSO


@pytest.mark.slow
@pytest.mark.parametrize("name", ["efficientnetlite0", "efficientnetlite1", "efficientnetlite2"])
def test_each_stage_halves_the_image_as_published(name):
    model = build_backbone(name, 224)
    sizes = [model.get_layer(point).output.shape[1] for point in find_backbone(name).splice_points]
    assert sizes == sorted(sizes, reverse=True)
    assert sorted(set(sizes)) == [7, 14, 28, 56, 112]


def test_the_state_dict_has_all_layers_of_the_network(state):
    model = load_function(find_backbone("efficientnetlite0").constructor)((32, 32, 3))
    expected = {layer.name: [tuple(weight.shape) for weight in layer.weights] for layer in model.layers if layer.weights}
    assert {layer.name: [array.shape for array in layer.arrays] for layer in lite_layers(state)} == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features.conv0.weight": np.ones((1, 1, 1, 1))}, "received the tensor 'features.conv0.weight'"),
        ({"_blocks.0._se_reduce.weight": np.ones((1, 1, 1, 1))}, "received the tensor '_blocks.0._se_reduce.weight'"),
        ({"_bn0.running_var": None}, "'stem_bn' of an EfficientNet-Lite must have weight, bias, running_mean, running_var"),
        ({"_conv_stem.bias": np.ones(32)}, "'stem_conv' of an EfficientNet-Lite must have weight; received bias, weight"),
        ({"_conv_stem.weight": np.ones(32)}, "kernel of 'stem_conv' must have 4 dimensions; received (32,)"),
    ],
)
def test_a_checkpoint_of_another_network_is_refused(state, change, message):
    changed = {name: tensor for name, tensor in (dict(state) | change).items() if tensor is not None}
    with pytest.raises(TrialError) as caught:
        lite_layers(changed)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
