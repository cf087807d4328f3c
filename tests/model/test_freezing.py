import functools
import math

import keras
import numpy as np
import pytest

from automl_cxr.config import TrialConfig
from automl_cxr.errors import ImpossibleModelError
from automl_cxr.model.backbone_builder import build_backbone
from automl_cxr.model.build import build_model
from automl_cxr.model.freezing import freeze_before, freeze_except_last, layers_with_weights, set_phase
from automl_cxr.model.inference import load_model


@functools.cache
def smallest(name):
    return build_backbone(name, 32)


def n_trainable(model):
    return sum(math.prod(weight.shape) for weight in model.trainable_weights)


def trained(model):
    return [layer.name for layer in layers_with_weights(model) if layer.trainable]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("n", "first", "parameters"),
    [(5, "conv5_block16_0_bn", 168_128), (9, None, 330_048), (163, "conv4_block1_0_bn", 5_524_224)],
)
def test_published_fine_tuning_depths_of_densenet121(n, first, parameters):
    model = smallest("densenet121")
    freeze_except_last(model, n)
    assert len(trained(model)) == n
    assert trained(model)[-1] == "bn"
    assert first in (None, trained(model)[0])
    assert n_trainable(model) == parameters
    freeze_before(model, trained(model)[0])
    assert n_trainable(model) == parameters


@pytest.mark.parametrize(("first", "n"), [("block5_conv1", 3), ("block3_conv1", 9), ("block2_pool", 9), ("block1_conv1", 13)])
def test_published_fine_tuning_depths_of_vgg16(first, n):
    model = smallest("vgg16")
    freeze_before(model, first)
    from_name = trained(model)
    freeze_except_last(model, n)
    assert from_name == trained(model)
    assert len(from_name) == n


def test_a_large_number_unfreezes_all_layers_and_0_none():
    model = smallest("vgg16")
    model.trainable = False
    freeze_except_last(model, 1000)
    assert len(trained(model)) == 13
    assert len(model.trainable_weights) == 26
    freeze_except_last(model, 0)
    assert model.trainable_weights == []


def test_an_unknown_first_trained_layer_is_refused_with_a_suggestion():
    with pytest.raises(ImpossibleModelError, match=r"received 'block5_cov1'\. Did you mean 'block5_conv"):
        freeze_before(smallest("vgg16"), "block5_cov1")


def test_frozen_normalisation_runs_in_inference_mode_also_after_loading(tmp_path):
    backbone = build_backbone("mobilenetv2", 32, cut="block_2_add", layer_name="backbone")
    pixels = keras.Input((32, 32, 3))
    model = keras.Model(pixels, backbone(pixels))
    images = np.random.default_rng(0).normal(3, 2, (4, 32, 32, 3)).astype(np.float32)

    def change_in_training(network):
        inferred, in_training = (keras.ops.convert_to_numpy(network(images, training=mode)) for mode in (False, True))
        return np.abs(inferred - in_training).max()

    assert change_in_training(model) > 1e-3
    freeze_except_last(backbone, 0)
    before = backbone.get_weights()
    model.save(tmp_path / "model.keras")
    loaded = load_model(str(tmp_path / "model.keras"))
    for network in (model, loaded):
        assert change_in_training(network) == 0
        assert network.trainable_weights == []
        after = network.get_layer("backbone").get_weights()
        assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))


def two_backbones(**values):
    """Build a network of two backbones and return it with its configuration."""
    two = {
        "family": "concat",
        "backbone": "squeezenet",
        "cut": "2",
        "second_backbone": "vgg16",
        "second_cut": "1",
        "projection": 4,
    }
    config = TrialConfig.from_values({**two, "weights": "none", "second_weights": "none", "image_size": 48, **values})
    return build_model(config, 3, steps_per_epoch=10), config


def trained_of(model):
    return {name: trained(model.get_layer(name)) for name in ("backbone", "second_backbone")}


def test_both_backbones_are_unfrozen_after_the_frozen_phase():
    model, config = two_backbones(unfreeze=2, frozen_share=0.5)
    assert trained_of(model) == {"backbone": [], "second_backbone": []}
    assert model.trainable_weights
    set_phase(model, config, frozen=False)
    assert trained_of(model) == {
        "backbone": ["fire3_expand1x1", "fire3_expand3x3"],
        "second_backbone": ["block1_conv1", "block1_conv2"],
    }


def test_a_layer_name_unfreezes_the_backbone_that_has_it():
    model, _ = two_backbones(unfreeze_from="block1_conv2", unfreeze=5)
    assert trained_of(model) == {"backbone": [], "second_backbone": ["block1_conv2"]}


def test_a_layer_name_that_no_backbone_has_is_refused():
    with pytest.raises(ImpossibleModelError, match=r"received 'fire3_expand'\. Did you mean 'fire3_expand"):
        two_backbones(unfreeze_from="fire3_expand")


def test_networks_without_a_backbone_train_all_layers():
    model = build_model(TrialConfig(image_size=32, unfreeze_from="nothing", filters=4), 3, steps_per_epoch=10)
    set_phase(model, TrialConfig(unfreeze_from="nothing"), frozen=True)
    assert len(model.trainable_weights) > 10


@pytest.mark.long
def test_freeze_norm_freezes_normalisation_between_trained_layers():
    values = {"family": "transfer", "backbone": "mobilenetv2", "weights": "none", "image_size": 32, "unfreeze": 20}
    model = build_model(TrialConfig.from_values({**values, "freeze_norm": True}), 2, steps_per_epoch=2)
    kinds = {type(model.get_layer("backbone").get_layer(name)).__name__ for name in trained(model.get_layer("backbone"))}
    assert "BatchNormalization" not in kinds
    assert "Conv2D" in kinds
    before = [layer.moving_mean.numpy() for layer in norms(model)]
    model.compile("sgd", "categorical_crossentropy")
    model.fit(np.full((4, 32, 32, 1), 200, np.uint8), np.eye(2)[[0, 1, 0, 1]], verbose=0)
    assert all(np.array_equal(layer.moving_mean.numpy(), mean) for layer, mean in zip(norms(model), before, strict=True))


def norms(model):
    return [layer for layer in model.get_layer("backbone").layers if isinstance(layer, keras.layers.BatchNormalization)]
