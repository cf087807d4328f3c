"""Branches with the weights of trials: their cuts, weights and training phases."""

import dataclasses

import keras
import numpy as np
import pytest

from automl_cxr.config import TrialConfig
from automl_cxr.errors import TrialError, UnknownNameError, UsageError
from automl_cxr.model.branches import build_branch, single_branch_config
from automl_cxr.model.build import build_model, digest_pretrained
from automl_cxr.model.freezing import set_phase
from automl_cxr.model.graph import inputs_of
from automl_cxr.model.memory_estimate import measure_size

SCRATCH = TrialConfig(
    family="scratch", image_size=32, layers="conv4k3l bn relu pool2p drop0.2 conv6k3 pool2", dense_units=5, scaling="unit"
)
CONCAT = dataclasses.replace(
    SCRATCH, family="concat", backbone="squeezenet", weights="none", second_backbone="scratch", n_dense=0, unfreeze=10_000,
    frozen_share=0.5, epochs=2,
)  # fmt: skip
PIXELS = np.random.default_rng(0).integers(0, 256, size=(3, 32, 32, 1)).astype(np.float32)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Save a scratch network and networks with a cut SqueezeNet, as trials do."""
    folder = tmp_path_factory.mktemp("trained")
    transfer = TrialConfig(family="transfer", backbone="squeezenet", weights="none", image_size=32, cut="3", seed=5)
    networks = {"scratch": SCRATCH, "transfer": transfer, "concat": dataclasses.replace(CONCAT, cut="4", seed=6)}
    for name, config in networks.items():
        build_model(config, 3, steps_per_epoch=2).save(folder / f"{name}.keras")
    return folder


def output_at(network, full_name):
    outer, _, inner = full_name.partition("/")
    nested = network.get_layer(outer)
    upper = keras.Model(nested.input, nested.get_layer(inner).output)
    lower = keras.Model(network.input, inputs_of(nested)[0])
    return keras.ops.convert_to_numpy(upper(lower(PIXELS)))


def test_a_scratch_branch_computes_the_same_as_its_trial(trained):
    config = dataclasses.replace(CONCAT, second_weights=str(trained / "scratch.keras"))
    branch, cuts = build_branch(config, 1)
    assert list(cuts) == ["block1_dropout", "block2_pool"]
    whole = keras.models.load_model(trained / "scratch.keras", compile=False)
    for cut, full_name in cuts.items():
        expected = keras.Model(whole.input, whole.get_layer(cut).output)(PIXELS)
        np.testing.assert_allclose(output_at(branch, full_name), keras.ops.convert_to_numpy(expected), atol=1e-6)


@pytest.mark.parametrize(("name", "end"), [("transfer", "fire4_concat"), ("concat", "fire5_concat")])
def test_a_cut_backbone_gives_its_weights_up_to_the_cut(trained, name, end):
    config = dataclasses.replace(CONCAT, cut=end, weights=str(trained / f"{name}.keras"))
    branch, cuts = build_branch(config, 0)
    assert list(cuts)[-1] == end
    assert list(cuts) == [f"fire{n}_concat" for n in range(2, int(end[4]) + 1)]
    expected = keras.models.load_model(trained / f"{name}.keras", compile=False).get_layer("backbone").get_weights()
    for one, other in zip(branch.get_layer("backbone").get_weights(), expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_cuts_are_names_or_numbers_and_are_returned_in_network_order():
    _, cuts = build_branch(CONCAT, 0, cuts=["fire6_concat", "2", "fire3_concat", "fire6_expand3x3"])
    assert list(cuts) == ["fire3_concat", "fire6_expand3x3", "fire6_concat"]


@pytest.mark.parametrize(
    ("place", "cut", "error", "message"),
    [
        (0, "fire6_concatt", UnknownNameError, "Did you mean 'fire6_concat'"),
        (0, "9", UsageError, "splice points 1 to 8 here; received cut '9'"),
        (1, "3", UsageError, "splice points 1 to 2 here"),
    ],
)
def test_an_unknown_cut_is_refused(place, cut, error, message):
    with pytest.raises(error, match=message):
        build_branch(CONCAT, place, cuts=[cut])


def test_a_scratch_branch_with_trained_weights_is_frozen_first(trained):
    config = dataclasses.replace(CONCAT, backbone="scratch", second_weights=str(trained / "scratch.keras"))
    assert [branch.is_pretrained for branch in config.branches] == [False, True]
    assert config.frozen_epochs == 1
    model = build_model(config, 3, steps_per_epoch=2)
    random, trained_branch = (model.get_layer(f"{role}_scratch_branch") for role in ("backbone", "second_backbone"))
    assert random.trainable_weights
    assert not trained_branch.trainable_weights
    set_phase(model, config, frozen=False)
    assert len(trained_branch.trainable_weights) == 5  # two kernels, a bias, gamma and beta


def test_weights_of_a_scratch_branch_have_a_digest(trained):
    config = dataclasses.replace(CONCAT, second_weights=str(trained / "scratch.keras"))
    assert len(digest_pretrained(config, None)) == 1
    assert digest_pretrained(CONCAT, None) == []


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"layers": "conv9k3 pool2"}, "takes"),
        ({"layers": "conv4k3 pool2 conv4k3 pool2 conv4k3 pool2"}, "block3_conv1"),
    ],
)
def test_weights_of_another_convolution_stack_are_refused(trained, changed, message):
    config = dataclasses.replace(CONCAT, second_weights=str(trained / "scratch.keras"), **changed)
    with pytest.raises(TrialError, match=message):
        build_branch(config, 1)


def test_a_scratch_branch_takes_weights_from_keras_files_only(trained):
    (trained / "other.h5").write_bytes(b"")
    with pytest.raises(TrialError, match="takes its weights from a trained network"):
        build_branch(dataclasses.replace(CONCAT, second_weights=str(trained / "other.h5")), 1)


def test_one_branch_alone_is_a_network():
    alone = single_branch_config(CONCAT, 1, "block1_dropout")
    assert (alone.family, alone.layers) == ("scratch", "conv4k3l bn relu pool2p drop0.2")
    assert measure_size(alone, 3).parameters == 9 * 4 + 4 * 4 + (4 * 3 + 3)
    assert single_branch_config(CONCAT, 0, "fire2_concat").family == "transfer"
