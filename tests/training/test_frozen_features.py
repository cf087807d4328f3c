import keras
import numpy as np
import pytest

from automl_cxr.config import TrialConfig
from automl_cxr.data.feature_cache import FeatureCache
from automl_cxr.errors import ImpossibleModelError
from automl_cxr.model.build import build_model
from automl_cxr.model.frozen_split import divide_network
from automl_cxr.model.preprocessing import raw_pixels
from automl_cxr.model.transfer import backbone_on_pixels
from automl_cxr.training.frozen_features import features_of, open_features, pooled_features

IMAGES = np.random.default_rng(0).integers(0, 256, (35, 48, 48), dtype=np.uint8)


@pytest.fixture(scope="module")
def backbone():
    keras.utils.set_random_seed(0)
    return backbone_on_pixels("squeezenet", 48, weights="none")


@pytest.mark.slow
def test_all_cuts_are_computed_in_one_pass(backbone, tmp_path, monkeypatch):
    passes = []
    run = keras.Model.predict_on_batch
    monkeypatch.setattr(keras.Model, "predict_on_batch", lambda model, x: passes.append(len(x)) or run(model, x))
    cuts = ["backbone/fire2_concat", "backbone/fire9_concat", "backbone"]
    for pooling, pool in (("average", np.mean), ("max", np.max)):
        passes.clear()
        found = pooled_features(backbone, cuts, IMAGES, pooling=pooling, cache=FeatureCache(tmp_path))
        assert passes == [32, 32]
        for cut in cuts[:2]:
            inner = backbone.get_layer("backbone")
            maps = keras.Model(inner.input, inner.get_layer(cut.split("/")[1]).output)
            shown = backbone.get_layer("preprocess")(np.repeat(IMAGES[..., None], 3, axis=-1))
            assert found[cut] == pytest.approx(pool(keras.ops.convert_to_numpy(maps(shown)), axis=(1, 2)), abs=1e-2, rel=1e-4)
        assert np.array_equal(found["backbone"], found["backbone/fire9_concat"])
        assert [values.shape for values in found.values()] == [(35, 128), (35, 512), (35, 512)]
    passes.clear()
    pooled_features(backbone, cuts, IMAGES, cache=FeatureCache(tmp_path))
    assert passes == []


@pytest.mark.slow
def test_networks_with_the_same_frozen_part_share_features(backbone, tmp_path):
    cache = FeatureCache(tmp_path)
    pooled_features(backbone, ["backbone/fire3_concat"], IMAGES, cache=cache)
    shared = {"image_size": 48, "weights": "none", "backbone": "squeezenet", "cut": "2"}
    weights = backbone.get_layer("backbone").get_weights()
    for values in (
        {"family": "transfer", "seed": 5},
        {"family": "concat", "second_backbone": "squeezenet", "second_cut": "1", "second_weights": "none", "seed": 6},
    ):
        network = build_model(TrialConfig(**shared, **values), 3, steps_per_epoch=9)
        described = [features_of(part.network, IMAGES, label="") for part in divide_network(network).frozen]
        assert not any(cache.holds(one) for one in described)
        branch = network.get_layer("backbone")
        branch.set_weights(weights[: len(branch.weights)])
        described = [features_of(part.network, IMAGES, label="") for part in divide_network(network).frozen]
        assert [cache.holds(one) for one in described] == [True, *[False] * (len(described) - 1)]


def test_features_of_a_saved_network_equal_those_of_the_network(tmp_path):
    network = build_model(TrialConfig(image_size=48, n_blocks=2, filters=4), 3, steps_per_epoch=5)
    network.save(tmp_path / "model.keras")
    reopened = keras.models.load_model(tmp_path / "model.keras")
    cache = FeatureCache(tmp_path)
    found = pooled_features(network, ["block1_pool", "block2_pool"], IMAGES, cache=cache)
    assert [values.shape for values in found.values()] == [(35, 4), (35, 8)]
    pooled_features(reopened, ["block1_pool", "block2_pool"], IMAGES, cache=cache)
    assert len(cache.entries()) == 2


@pytest.mark.parametrize("cut", ["backbone/nothing", "nothing", "other/fire2_concat", "pixels/fire2_concat"])
def test_an_unknown_cut_is_refused(backbone, cut):
    with pytest.raises(ImpossibleModelError, match="cut"):
        pooled_features(backbone, [cut], IMAGES)


def test_a_cut_needs_feature_maps():
    network = build_model(TrialConfig(image_size=48, n_blocks=2, filters=4), 3, steps_per_epoch=5)
    with pytest.raises(ImpossibleModelError, match="must have feature maps"):
        pooled_features(network, ["dense_1"], IMAGES)


@pytest.mark.slow
def test_views_differ_from_each_other_but_not_between_trials(tmp_path):
    def open_views(seed, folder):
        keras.utils.set_random_seed(0)
        pixels, x = raw_pixels(TrialConfig(image_size=48, augmentation=0.5, seed=seed))
        image = keras.Input((48, 48, 1))
        backbone = keras.Model(image, keras.layers.Conv2D(4, 9, strides=8)(image), name="backbone")
        backbone.trainable = False
        vector = keras.layers.GlobalMaxPooling2D(name="vector")(backbone(x))
        network = keras.Model(pixels, keras.layers.Dense(3)(vector))
        (part,) = divide_network(network, with_views=True).frozen
        cache = FeatureCache(tmp_path / folder)
        described = [features_of(part.network, IMAGES, view=view, label="") for view in (0, 1, 2)]
        opened = [open_features(part.network, one, IMAGES, cache=cache, view=view) for view, one in enumerate(described)]
        return opened, [one.key for one in described]

    (plain, first, second), keys = open_views(1, "a")
    assert not np.allclose(plain, first)
    assert not np.allclose(first, second)
    reopened, same_keys = open_views(2, "b")
    assert same_keys == keys
    assert reopened[1] == pytest.approx(first, abs=1e-5, rel=1e-5)
    assert reopened[0] == pytest.approx(plain, abs=1e-5, rel=1e-5)
