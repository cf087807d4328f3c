import keras
import numpy as np
import pytest

from automl_cxr.config import TrialConfig
from automl_cxr.errors import NotCacheableError
from automl_cxr.model.build import build_model
from automl_cxr.model.freezing import freeze_before
from automl_cxr.model.frozen_split import divide_network

PIXELS = np.random.default_rng(0).integers(0, 256, (3, 48, 48, 1), dtype=np.uint8)
TRANSFER = {"family": "transfer", "backbone": "squeezenet"}
CONCAT = {"family": "concat", "backbone": "squeezenet", "cut": "2", "second_cut": "1", "n_blocks": 2, "filters": 4}
TWO = {**CONCAT, "second_backbone": "squeezenet"}


def network(**values):
    config = TrialConfig(image_size=48, weights="none", second_weights="none", dense_units=8, **values)
    return build_model(config, 3, steps_per_epoch=5)


def names(divided):
    return [None if part is None else part.name for part in divided.frozen]


def predict_divided(divided):
    values = [
        keras.ops.convert_to_tensor(PIXELS) if part is None else part.network(PIXELS, training=True) for part in divided.frozen
    ]
    return keras.ops.convert_to_numpy(divided.trained(values if len(values) > 1 else values[0], training=False))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (TRANSFER, ["backbone@vector"]),
        ({**TRANSFER, "pooling": "flatten", "n_dense": 0}, ["backbone@vector"]),
        ({**TRANSFER, "unfreeze": 3}, ["backbone@fire8_concat"]),
        ({**TRANSFER, "unfreeze": 2}, ["backbone@fire9_squeeze1x1"]),  # both expansions use its output
        ({**TRANSFER, "unfreeze_from": "fire8_expand3x3"}, ["backbone@fire8_squeeze1x1"]),
        ({**TRANSFER, "otsu": True}, ["backbone@vector"]),
        (TWO, ["backbone@backbone_vector", "second_backbone@second_backbone_vector"]),
        ({**TWO, "projection": 4}, ["backbone@fire3_concat", "second_backbone@fire2_concat"]),
        ({**TWO, "unfreeze": 3}, ["backbone@fire2_concat", "second_backbone@pool1"]),
        (CONCAT, [None, "backbone@backbone_vector"]),
    ],
)
def test_both_parts_together_compute_the_same_as_the_whole(values, expected):
    whole = network(**values)
    divided = divide_network(whole)
    assert sorted(names(divided), key=str) == sorted(expected, key=str)
    assert predict_divided(divided) == pytest.approx(keras.ops.convert_to_numpy(whole(PIXELS, training=False)), abs=1e-6)
    assert [id(one) for one in divided.trained.trainable_variables] == [id(one) for one in whole.trainable_variables]
    assert all(not part.network.trainable_weights for part in divided.frozen if part is not None)


def test_dividing_does_not_change_the_network(tmp_path):
    whole = network(**TRANSFER, unfreeze=3)
    before = whole.get_config()
    for _ in range(2):
        divided = divide_network(whole)
    assert whole.get_config() == before
    assert divided.trained.layers[0].name == "input_1"
    whole.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert np.array_equal(loaded(PIXELS), whole(PIXELS))


def backbone_with_skips(*, has_dropout=False):
    """Build two residual blocks with an optional dropout between them."""
    image = keras.Input((48, 48, 3))
    x = keras.layers.Conv2D(4, 3, strides=4, padding="same", name="stem")(image)
    for block in (1, 2):
        if has_dropout and block == 2:
            x = keras.layers.Dropout(0.5, name="drop")(x)
        y = keras.layers.Conv2D(4, 3, padding="same", name=f"block{block}_conv1")(x)
        y = keras.layers.BatchNormalization(name=f"block{block}_bn")(y)
        y = keras.layers.Conv2D(4, 3, padding="same", name=f"block{block}_conv2")(y)
        x = keras.layers.Add(name=f"block{block}_out")([x, y])
    return keras.Model(image, x, name="backbone")


def network_with(backbone):
    pixels = keras.Input((48, 48, 1), name="pixels")
    x = keras.layers.Concatenate()([pixels] * 3)
    vector = keras.layers.GlobalAveragePooling2D(name="vector")(backbone(x))
    return keras.Model(pixels, keras.layers.Dense(3, activation="softmax")(vector))


@pytest.mark.parametrize(
    ("first_trained", "cut"),
    [("block2_conv2", "block1_out"), ("block2_bn", "block1_out"), ("block1_conv2", "stem"), ("block2_out", "vector")],
)
def test_all_paths_pass_the_cut(first_trained, cut):
    backbone = backbone_with_skips()
    whole = network_with(backbone)
    freeze_before(backbone, first_trained)
    divided = divide_network(whole)
    assert names(divided) == [f"backbone@{cut}"]
    assert predict_divided(divided) == pytest.approx(keras.ops.convert_to_numpy(whole(PIXELS, training=False)), abs=1e-6)


def test_random_layers_are_not_in_the_frozen_part():
    backbone = backbone_with_skips(has_dropout=True)
    whole = network_with(backbone)
    backbone.trainable = False
    assert names(divide_network(whole)) == ["backbone@block1_out"]


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"family": "scratch", "n_blocks": 2, "filters": 4}, "no frozen layers"),
        ({**TRANSFER, "augmentation": 0.5}, "augmentation is drawn again"),
        ({**TRANSFER, "resizer": 0.9}, "learnable resizer"),
        ({**TRANSFER, "unfreeze": 1000}, "first layers of the backbone are trained"),
        ({**CONCAT, "augmentation": 0.5}, "augmentation is drawn again"),
    ],
)
def test_the_error_is_the_reason_why_nothing_is_frozen(values, reason):
    with pytest.raises(NotCacheableError, match=reason):
        divide_network(network(**values))


def test_views_are_drawn_in_the_frozen_part():
    divided = divide_network(network(**TRANSFER, augmentation=0.5), with_views=True)
    assert names(divided) == ["backbone@vector"]


def test_branches_cannot_have_different_views():
    with pytest.raises(NotCacheableError, match="different augmented images"):
        divide_network(network(**CONCAT, augmentation=0.5), with_views=True)
